//! Processes of the program that are stopped (SIGSTOP) for longer than a lease, and go on as if nothing had been.

use std::path::PathBuf;
use std::process::Stdio;

use crate::census;
use crate::cluster::{Cluster, Process, kill, wait_until};

/// A worker with an attempt that may be retried and one that may not, and whoever follows the latter.
struct Scene {
    cluster: Cluster,
    directory: PathBuf,
    mark: String,
    leased: String,
    lasting: String,
    follower: Process,
}

impl Scene {
    fn set(name: &str) -> Self {
        let mut cluster = Cluster::faster(20);
        cluster.join("w1", &["--slots", "2"]);
        let directory = cluster.site.path().join("ledger");
        std::fs::create_dir(&directory).unwrap();
        let mark = format!("MARK=stopped-{name}-{}", std::process::id());
        // No two of one task hold its lock at a time, and only the end of its lease ends one.
        let script = format!(
            "trap '' TERM; cd {}; exec 9>lock-$CLUSTERCTL_JOB; flock -n 9 || echo $CLUSTERCTL_FENCE >> overlaps; \
             echo $CLUSTERCTL_JOB#$CLUSTERCTL_ATTEMPT $$ >> starts; echo begun $$; \
             until [ -e gate ]; do sleep 0.01; done; echo ended $$; exit 4",
            directory.display()
        );
        let submit = |more: &[&str]| {
            let args = [&["submit", "--env", &mark], more, &[&script]].concat();
            let id = cluster.operator.command(args).output().unwrap().stdout;
            String::from_utf8(id).unwrap().trim().to_owned()
        };
        let (leased, lasting) = (submit(&["--retries", "3"]), submit(&[]));
        let mut follow = cluster.operator.command(["logs", "-f", &lasting]);
        let follower = Process::start(follow.stdout(Stdio::piped()).stderr(Stdio::null()));
        let scene = Self { cluster, directory, mark, leased, lasting, follower };
        wait_until("both have begun", || scene.starts().len() == 2);
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

    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Job and attempt, with the process id of its bash.
    fn starts(&self) -> Vec<(String, i32)> {
        let of = |line: String| {
            let (attempt, pid) = line.split_once(' ').unwrap();
            (attempt.to_owned(), pid.parse().unwrap())
        };
        self.lines("starts").into_iter().map(of).collect()
    }

    fn wait_until_its_lease_has_ended_it(&self) {
        let first = format!("{}#1", self.leased);
        let (_, pid) = self.starts().into_iter().find(|(attempt, _)| *attempt == first).unwrap();
        wait_until("its keeper has ended what has a lease", || !census::is_alive(pid));
    }

    fn wait_for_another_attempt(&self) {
        let second = format!("{}#2", self.leased);
        wait_until("another attempt has begun", || {
            self.starts().iter().any(|(attempt, _)| *attempt == second)
        });
    }

    fn is_running(&self, job: &str) -> bool {
        !census::carrying(&self.mark).is_empty() && self.cluster.operator.job(job)["state"] == "running"
    }

    /// Lets all of it end, and checks what became of it.
    fn finish(mut self) {
        std::fs::write(self.directory.join("gate"), "").unwrap();
        for job in [&self.leased, &self.lasting] {
            assert_eq!(
                self.cluster.operator.run(["wait", job]).code,
                4,
                "{}",
                self.cluster.operator.job(job)
            );
        }
        assert_eq!(self.lines("overlaps"), [] as [String; 0], "two attempts of a task ran at a time");
        let mut starts: Vec<String> = self.starts().into_iter().map(|(attempt, _)| attempt).collect();
        starts.sort();
        let wanted = [(&self.leased, 1), (&self.leased, 2), (&self.lasting, 1)];
        assert_eq!(starts, wanted.map(|(job, attempt)| format!("{job}#{attempt}")));
        let followed = std::io::read_to_string(self.follower.stdout()).unwrap();
        assert_eq!(self.follower.wait(), 0);
        let pid = followed.split_whitespace().nth(1).unwrap_or_default().to_owned();
        assert_eq!(followed, format!("begun {pid}\nended {pid}\n"), "it went on, and all of it was followed");
        census::assert_none(&self.mark);
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
