//! Processes of the program that are stopped (SIGSTOP) for longer than a lease, and go on as if nothing had been.

use std::path::PathBuf;

use clusterctl::core::id::Fence;

use crate::census;
use crate::cluster::{Cluster, kill, wait_for, wait_until};
use crate::witness::Witness;

/// A worker with an attempt that may be retried and one that may not, and whoever follows them.
struct Scene {
    cluster: Cluster,
    witness: Witness,
    gate: PathBuf,
    mark: String,
    leased: String,
    lasting: String,
}

impl Scene {
    fn set(name: &str) -> Self {
        let mut cluster = Cluster::faster(20);
        cluster.join("w1", &["--slots", "2"]);
        let mark = format!("MARK=stopped-{name}-{}", std::process::id());
        let mut witness = Witness::new(&cluster, cluster.operator.clone());
        let gate = cluster.site.path().join("gate");
        // Only the end of its lease ends one.
        let body = format!(
            "trap '' TERM; out \"begun $$\"; until [ -e {} ]; do sleep 0.01; done; out \"ended $$\"; end 4",
            gate.display()
        );
        let mut submit = |more: &[&str]| {
            let (script, number) = (witness.script(&body), witness.next_submit());
            let args = [&["submit", "--env", &mark, "--env", &number], more, &[&script]].concat();
            let done = cluster.operator.command(args).output().unwrap();
            let id = String::from_utf8(done.stdout).unwrap().trim().to_owned();
            witness.acknowledged(&id);
            witness.follow(&id);
            id
        };
        let (leased, lasting) = (submit(&["--retries", "3"]), submit(&[]));
        let scene = Self { cluster, witness, gate, mark, leased, lasting };
        wait_until("both have begun", || scene.witness.starts().len() == 2);
        // Somebody else is there for what may be retried.
        scene.cluster.operator.wait_for_state(&scene.leased, "running");
        scene.cluster.operator.wait_for_state(&scene.lasting, "running");
        scene.wait_until_renewed();
        scene
    }

    /// Waits until what runs has its lease by heartbeats and no longer by its start. Between these nothing is said.
    fn wait_until_renewed(&self) {
        let silent_for = || {
            let workers = self.cluster.operator.run(["workers", "--output", "json"]).ok();
            let workers: serde_json::Value = serde_json::from_str(&workers).unwrap();
            workers[0]["seen_s"].as_f64().unwrap()
        };
        let (mut last, mut heard) = (silent_for(), 0);
        wait_until("the worker has been heard again and again", || {
            let before = std::mem::replace(&mut last, silent_for());
            heard += u32::from(last < before);
            heard == 4
        });
    }

    /// An attempt of what may be retried, if it has begun.
    fn attempt(&self, number: u32) -> Option<Fence> {
        let is_wanted =
            |fence: &Fence| fence.task.job.to_string() == self.leased && fence.attempt.0 == number;
        self.witness.starts().into_iter().find(is_wanted)
    }

    fn wait_until_its_lease_has_ended_it(&self) {
        let first = self.attempt(1).unwrap();
        let pid = wait_for("it says who it is", || {
            let said = self.witness.written_out(first);
            said.strip_prefix("begun ")?.strip_suffix('\n')?.parse().ok()
        });
        wait_until("its keeper has ended what has a lease", || !census::is_alive(pid));
    }

    fn wait_for_another_attempt(&self) {
        wait_until("another attempt has begun", || self.attempt(2).is_some());
    }

    fn is_running(&self, job: &str) -> bool {
        !census::carrying(&self.mark).is_empty() && self.cluster.operator.job(job)["state"] == "running"
    }

    /// Lets all of it end, and judges what became of it.
    fn finish(mut self) {
        std::fs::write(&self.gate, "").unwrap();
        for job in [&self.leased, &self.lasting] {
            let code = self.cluster.operator.run(["wait", job]).code;
            assert_eq!(code, 4, "{}", self.witness.look(job));
        }
        let mut starts: Vec<String> = self.witness.starts().iter().map(ToString::to_string).collect();
        starts.iter_mut().for_each(|fence| fence.truncate(fence.find('@').unwrap()));
        starts.sort();
        let wanted = [(&self.leased, 1), (&self.leased, 2), (&self.lasting, 1)];
        assert_eq!(starts, wanted.map(|(job, attempt)| format!("{job}.0#{attempt}")));
        census::assert_none(&self.mark);
        self.witness.assert_all_held("stopped");
    }
}

#[test]
fn what_an_agent_had_that_was_stopped_beyond_the_lease_has_ended_before_it_begins_elsewhere() {
    let mut scene = Scene::set("agent");
    scene.cluster.join("w2", &[]);
    let agent = scene.cluster.worker(0).pid();

    kill(agent, libc::SIGSTOP);
    scene.wait_for_another_attempt();
    assert_eq!(scene.cluster.operator.job(&scene.lasting)["state"], "unknown");
    kill(agent, libc::SIGCONT);

    scene.cluster.wait_for_worker("w1", "ready");
    wait_until("what went on is known again", || scene.is_running(&scene.lasting));
    scene.finish();
}

#[test]
fn an_executor_that_was_stopped_beyond_the_lease_keeps_nothing_that_begins_elsewhere() {
    let mut scene = Scene::set("executor");
    let executor = scene.cluster.site.detached("clusterctl executor")[0];
    scene.cluster.join("w2", &[]);

    kill(executor, libc::SIGSTOP);
    scene.wait_until_its_lease_has_ended_it();
    kill(executor, libc::SIGCONT);

    scene.wait_for_another_attempt();
    scene.finish();
}

#[test]
fn what_a_pool_had_that_was_stopped_beyond_the_lease_is_begun_again_once_or_goes_on() {
    let scene = Scene::set("pool");
    let pool = scene.cluster.pool_pid();

    kill(pool, libc::SIGSTOP);
    scene.wait_until_its_lease_has_ended_it();
    kill(pool, libc::SIGCONT);

    scene.wait_for_another_attempt();
    wait_until("what went on is known again", || scene.is_running(&scene.lasting));
    scene.finish();
}
