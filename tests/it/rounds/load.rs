//! A steady load of jobs, a witness of all that becomes of them, and moments drawn by a seed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use clusterctl::core::id::Fence;

use crate::census;
use crate::cluster::{Cluster, Home, Process, wait_for, wait_until};
use crate::witness::Witness;

/// Tasks of an array.
const TASKS: u32 = 12;

/// What a task of an array does; its exit code tells it from its neighbours.
const ARRAY: &str = "
for i in {1..60}; do
    out \"$CLUSTERCTL_JOB.$CLUSTERCTL_TASK line $i\"
    [ $((i % 20)) = 0 ] && { err \"$i of 60\"; sleep 0.00$((CLUSTERCTL_TASK % 9 + 1)); }
done
end $((CLUSTERCTL_TASK % 3))";

/// What of the load may have been lost with what was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayBeLost {
    None,
    /// What one keeper kept.
    OneEachRound,
    /// All that ran.
    WhatRuns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its tasks end by themselves.
    Array,
    /// It waits for its gate.
    Long,
}

pub(super) struct Load {
    client: Home,
    operator: Home,
    witness: Witness,
    directory: PathBuf,
    mark: String,
    seed: u64,
    random: u64,
    jobs: BTreeMap<String, Kind>,
    /// Ends that were seen before, as they were told then.
    seen: BTreeMap<String, String>,
    submitting: Option<Process>,
    following: Option<Process>,
    rounds: u32,
    what: String,
}

/// A number that was given by the environment.
pub(super) fn number(name: &str) -> Option<u32> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

impl Load {
    pub(super) fn new(cluster: &Cluster, what: &str) -> Self {
        let seed = number("CLUSTERCTL_ROUNDS_SEED").unwrap_or_else(|| std::process::id() ^ 0x5eed);
        let client = cluster.client("ann");
        Self {
            witness: Witness::new(cluster, client.clone()),
            client,
            operator: cluster.operator.clone(),
            directory: cluster.site.path().to_owned(),
            mark: format!("MARK=rounds-{what}-{}", std::process::id()),
            seed: u64::from(seed),
            random: u64::from(seed) + 1,
            jobs: BTreeMap::new(),
            seen: BTreeMap::new(),
            submitting: None,
            following: None,
            rounds: 0,
            what: what.to_owned(),
        }
    }

    /// The next number, by xorshift.
    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below as u64).unwrap()
    }

    pub(super) fn pick(&mut self, of: &[i32]) -> i32 {
        assert!(!of.is_empty(), "there is something to kill");
        of[self.random(of.len())]
    }

    /// The arguments of a command that makes a job, known by its number to the witness. It is run soon, and once.
    fn job(&mut self, command: &str, kind: Kind) -> Vec<String> {
        let number = self.witness.next_submit();
        let mut args: Vec<String> =
            [command, "--env", &self.mark, "--env", &number].map(str::to_owned).into();
        let body = match kind {
            Kind::Array => {
                args.extend(["--array".to_owned(), format!("0-{}", TASKS - 1)]);
                if self.random(3) == 0 {
                    args.extend(["--retries", "3"].map(str::to_owned));
                }
                ARRAY.to_owned()
            }
            Kind::Long => {
                let gate = self.directory.join("gate");
                format!("out begun; until [ -e {} ]; do sleep 0.02; done; out done; end 9", gate.display())
            }
        };
        args.push(self.witness.script(&body));
        args
    }

    /// Submits a job, which somebody follows.
    fn submit(&mut self, kind: Kind) {
        let args = self.job("submit", kind);
        let done = self.client.command(args).output().unwrap();
        let id = String::from_utf8(done.stdout).unwrap().trim().to_owned();
        assert!(done.status.success() && !id.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
        self.acknowledged(id.clone(), kind);
        self.witness.follow(&id);
    }

    fn acknowledged(&mut self, id: String, kind: Kind) {
        self.witness.acknowledged(&id);
        assert_eq!(self.jobs.insert(id.clone(), kind), None, "job {id} is told twice");
    }

    /// An array, and now and then a job that lives through the rounds until the end.
    pub(super) fn submit_round(&mut self) {
        self.rounds += 1;
        self.submit(Kind::Array);
        if self.rounds % 40 == 1 {
            self.submit(Kind::Long);
        }
    }

    fn starts(&self) -> Vec<Fence> {
        self.witness.starts()
    }

    /// Until some more tasks have started, or all have.
    pub(super) fn wait_for_some_starts(&mut self) {
        let wanted = self.starts().len() + self.random(TASKS as usize);
        let all = self.jobs.values().map(|kind| if *kind == Kind::Array { TASKS as usize } else { 1 }).sum();
        // What was lost before it began never starts.
        let arrays = self.jobs.iter().filter(|(_, kind)| **kind == Kind::Array);
        let newest = arrays.map(|(id, _)| id.parse::<u32>().unwrap()).max().unwrap().to_string();
        wait_until("some tasks have started", || {
            self.starts().len() >= wanted.min(all) || self.client.job(&newest)["ended"].is_string()
        });
    }

    pub(super) fn begin_submit(&mut self) {
        let args = self.job("submit", Kind::Array);
        let mut command = self.client.command(args);
        let words = std::fs::File::create(self.directory.join("submit.log")).unwrap();
        self.submitting = Some(Process::start(command.stdout(Stdio::piped()).stderr(words)));
        if self.random(2) == 0 {
            self.wait_for_some_starts();
        }
    }

    pub(super) fn end_submit(&mut self) {
        let mut submitting = self.submitting.take().expect("a submit was begun");
        let id = wait_for("the submit is acknowledged", || {
            submitting.ended().map(|code| (code, std::io::read_to_string(submitting.stdout()).unwrap()))
        });
        // One that comes to a closed door is not acknowledged.
        match id.0 {
            0 => self.acknowledged(id.1.trim().to_owned(), Kind::Array),
            code => {
                let words = std::fs::read_to_string(self.directory.join("submit.log")).unwrap();
                assert_eq!((code, id.1.as_str()), (4, ""), "{words}");
            }
        }
    }

    /// A client runs a job that lives through the rounds, and is to see all of it.
    pub(super) fn follow_from_now_on(&mut self) {
        if self.following.is_none() {
            let args = self.job("run", Kind::Long);
            let mut command = self.client.command(args);
            let before = self.newest();
            self.following = Some(Process::start(command.stdout(Stdio::piped()).stderr(Stdio::null())));
            let job = wait_for("the job that is followed is there", || {
                Some(self.newest()).filter(|newest| *newest > before)
            });
            wait_until("what is followed has started", || {
                self.starts().iter().any(|fence| fence.task.job.0 == u64::from(job))
            });
        }
    }

    /// A client that follows its job is killed at some moment.
    pub(super) fn run_and_kill_the_client(&mut self) {
        let before = self.newest();
        let args = self.job("run", Kind::Array);
        let mut command = self.client.command(args);
        let client = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let id = wait_for("the job is there", || Some(self.newest()).filter(|newest| *newest > before));
        self.acknowledged(id.to_string(), Kind::Array);
        self.wait_for_some_starts();
        client.kill();
    }

    fn newest(&self) -> u32 {
        let jobs = self.client.run(["jobs", "--output", "json"]).ok();
        let jobs: serde_json::Value = serde_json::from_str(&jobs).unwrap();
        jobs.as_array()
            .unwrap()
            .iter()
            .map(|job| u32::try_from(job["id"].as_u64().unwrap()).unwrap())
            .max()
            .unwrap()
    }

    /// What has ended is told now as it will be told for ever.
    pub(super) fn look_at_what_has_ended(&mut self) {
        let unseen: Vec<String> =
            self.jobs.keys().filter(|id| !self.seen.contains_key(*id)).cloned().collect();
        for id in unseen {
            let job = self.witness.look(&id);
            if job["ended"].is_string() {
                self.seen.insert(id, job.to_string());
            }
        }
    }

    /// Lets all of it end, and judges what became of it.
    pub(super) fn finish(mut self, lost: MayBeLost) {
        std::fs::write(self.directory.join("gate"), "").unwrap();
        let words = format!("seed {}", self.seed);
        let all: Vec<(String, Kind)> = self.jobs.iter().map(|(id, kind)| (id.clone(), *kind)).collect();
        let mut lost_tasks = 0;
        for (id, kind) in &all {
            wait_until(&format!("job {id} has ended ({words})"), || self.client.job(id)["ended"].is_string());
            lost_tasks += match kind {
                Kind::Array => (0..TASKS).map(|n| self.look(&format!("{id}.{n}"), n % 3, lost)).sum(),
                Kind::Long => self.look(id, 9, lost),
            };
        }
        if let Some(mut follower) = self.following.take() {
            let code = follower.wait();
            let output = std::io::read_to_string(follower.stdout()).unwrap();
            assert_eq!((code, output.as_str()), (9, "begun\ndone\n"), "what was followed ({words})");
        }
        // Nothing may be left of what has ended; one moment is for what a killed keeper left.
        if lost == MayBeLost::None {
            census::assert_none(&self.mark);
        } else {
            wait_until("nothing is left", || census::carrying(&self.mark).is_empty());
        }
        self.look_at_what_has_ended();
        for (id, before) in &self.seen {
            assert_eq!(self.client.job(id).to_string(), *before, "the end of job {id} has changed ({words})");
        }
        let bound = match lost {
            MayBeLost::None => 0,
            MayBeLost::OneEachRound => self.rounds,
            MayBeLost::WhatRuns => self.rounds * TASKS * 2,
        };
        assert!(lost_tasks <= bound, "{lost_tasks} tasks are lost ({words})");
        let starts = self.starts().len();
        let checked = self.operator.run(["pool", "check", "--output", "json"]).ok();
        let checked: serde_json::Value = serde_json::from_str(&checked).unwrap();
        self.witness.assert_all_held(&words);
        println!(
            "{}: {} rounds of kill -9, {} jobs acknowledged, {starts} starts, {lost_tasks} tasks told as lost, the output of \
             {} has its hashes; no promise was broken, nothing was left",
            self.what,
            self.rounds,
            all.len(),
            checked["verified"],
        );
    }

    /// Whether it was lost, or given up after it had gone down with its executor too often. Otherwise it has ended as it
    /// wanted to.
    fn look(&mut self, task: &str, exit: u32, lost: MayBeLost) -> u32 {
        let shown = self.witness.look(task);
        if shown["outcome"] == "lost" {
            let reason = shown["reason"].as_str().unwrap_or_default();
            assert!(!reason.is_empty(), "task {task} is lost without a reason: {shown}");
            return 1;
        }
        if shown["outcome"] == "quarantined" && lost == MayBeLost::WhatRuns {
            return 1;
        }
        assert_eq!(shown["exit"], exit, "task {task}, seed {}: {shown}", self.seed);
        0
    }
}
