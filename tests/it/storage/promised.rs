//! A pool's clients, what they were told, and whether it still holds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::cluster::{Cluster, Home, wait_until};

/// What a job was asked to do, and so what must be seen of it.
struct Wanted {
    name: String,
    code: i32,
    stdout: String,
    stderr: String,
    cancelled: bool,
    /// As it was shown when it had ended.
    shown: Option<Value>,
}

/// Two clients of a pool, and everything that they were told.
pub struct Promised {
    operator: Home,
    ann: Home,
    /// Each job writes into it that it starts.
    starts: PathBuf,
    round: u32,
    jobs: BTreeMap<String, Wanted>,
    tokens: Vec<u64>,
    drained: bool,
    /// How much was acknowledged, in all rounds.
    pub acknowledged: u64,
}

fn lines(last: u32) -> String {
    (1..=last).map(|n| format!("{n}\n")).collect()
}

impl Promised {
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            operator: cluster.operator.clone(),
            ann: cluster.client("ann"),
            starts: cluster.site.path().join("starts"),
            round: 0,
            jobs: BTreeMap::new(),
            tokens: Vec::new(),
            drained: false,
            acknowledged: 0,
        }
    }

    /// Asks for all sorts of things, once each. What is not acknowledged because the pool went away is not asked again.
    pub fn play(&mut self) {
        self.round += 1;
        let small = self.submit("small", &[], "echo small; exit 3", (3, "small\n".to_owned(), ""));
        self.token();
        let tasks = (1..=5).map(|n| format!("task {n}\n")).collect();
        let array = self.submit("array", &["--array", "1-5"], "echo task $CLUSTERCTL_TASK", (0, tasks, ""));
        let large = self.submit("large", &[], "seq 1 20000; echo no >&2", (0, lines(20_000), "no\n"));
        let huge = self.submit("huge", &[], "seq 1 200000", (0, lines(200_000), ""));
        let endless = self.submit("endless", &[], "exec sleep 1000", (0, String::new(), ""));
        self.cancel(endless.as_deref());
        for id in [&small, &array, &large].into_iter().flatten() {
            self.look(id);
        }
        self.drain();
        self.submit("late", &["--retries", "1"], "echo late", (0, "late\n".to_owned(), ""));
        self.resume();
        for id in [&huge, &endless].into_iter().flatten() {
            self.look(id);
        }
        // It may be there although nobody was told.
        let _ = self.told(&self.ann, &["cancel", "--name", &format!("r{}-endless", self.round)]);
    }

    /// Whether all that was told holds, of this round; then it is over.
    pub fn holds(&mut self) {
        self.answers();
        let tokens = self.operator.run(["token", "list", "--output", "json"]).ok();
        let tokens: Value = serde_json::from_str(&tokens).unwrap();
        for id in self.tokens.drain(..) {
            let is_there = tokens.as_array().unwrap().iter().any(|token| token["id"] == id);
            assert!(is_there, "token {id} was made and is not there: {tokens}");
        }
        for (id, wanted) in &self.jobs {
            self.job_holds(id, wanted);
        }
        self.jobs.clear();
        let starts = std::fs::read_to_string(&self.starts).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for start in starts.lines() {
            assert!(seen.insert(start), "task {start} was started twice");
        }
        let expected = self.operator.run(["jobs", "--all", "-q", "--state", "lost"]).ok();
        assert_eq!(expected, "", "nothing is lost");
    }

    fn job_holds(&self, id: &str, wanted: &Wanted) {
        let waited = self.ann.run(["wait", id]);
        let job = self.operator.job(id);
        assert_eq!(job["name"], wanted.name, "job {id} is another one: {job}");
        if let Some(shown) = &wanted.shown {
            assert_eq!(&job, shown, "job {id} was shown otherwise");
        }
        if wanted.cancelled {
            assert_eq!(job["state"], "cancelled", "{job}");
            return;
        }
        assert_eq!(waited.code, wanted.code, "{waited:?} {job}");
        if job["array"].is_null() {
            assert_eq!(job["attempt"], 1, "{job}");
        }
        let logs = self.operator.run(["logs", id]);
        let (got, all) = (logs.stdout.len(), wanted.stdout.len());
        assert!(logs.stdout == wanted.stdout, "job {id}: other output, {got} bytes of {all}");
        assert_eq!((logs.code, logs.stderr.as_str()), (0, wanted.stderr.as_str()), "job {id}");
    }

    fn submit(
        &mut self,
        kind: &str,
        more: &[&str],
        script: &str,
        (code, stdout, stderr): (i32, String, &str),
    ) -> Option<String> {
        let name = format!("r{}-{kind}", self.round);
        let script = format!("echo $CLUSTERCTL_JOB.$CLUSTERCTL_TASK >> {}; {script}", self.starts.display());
        let args = [&["submit", "--name", &name], more, &[&script]].concat();
        let id = self.told(&self.ann, &args)?.trim().to_owned();
        let wanted = Wanted { name, code, stdout, stderr: stderr.to_owned(), cancelled: false, shown: None };
        assert!(self.jobs.insert(id.clone(), wanted).is_none(), "the id {id} was given twice");
        self.acknowledged += 1;
        Some(id)
    }

    fn token(&mut self) {
        if let Some(token) = self.told(&self.operator, &["token", "create", "--client", "-q"]) {
            self.tokens.push(token.split('-').nth(3).unwrap().parse().unwrap());
            self.acknowledged += 1;
        }
    }

    fn cancel(&mut self, id: Option<&str>) {
        let Some(id) = id else { return };
        // What was asked for may have happened although nobody was told.
        let told = self.told(&self.ann, &["cancel", id]).is_some();
        self.acknowledged += u64::from(told);
        if !told {
            let is_over = || self.operator.job(id)["state"] == "cancelled";
            wait_until("it is cancelled", || self.ann.run(["cancel", id]).code == 0 || is_over());
        }
        self.jobs.get_mut(id).unwrap().cancelled = true;
    }

    /// Waits for a job's end, and keeps what is shown of it then.
    fn look(&mut self, id: &str) {
        let waited = self.ann.run(["wait", id]);
        let Some(shown) = self.told(&self.ann, &["show", id, "--output", "json"]) else { return };
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let has_ended = !shown["ended"].is_null();
        assert!(waited.code != 0 || has_ended, "job {id} was waited for, and has not ended: {shown}");
        if has_ended {
            self.acknowledged += 1;
            self.jobs.get_mut(id).unwrap().shown = Some(shown);
        }
    }

    fn drain(&mut self) {
        self.drained = self.told(&self.operator, &["workers", "drain", "w1"]).is_some();
        self.acknowledged += u64::from(self.drained);
    }

    fn resume(&mut self) {
        self.answers();
        if self.drained {
            wait_until("w1 is back, and drained", || {
                let workers = self.operator.run(["workers", "--output", "json"]);
                // The pool may just go away.
                workers.code == 0 && workers.stdout.contains("\"state\":\"drain")
            });
        }
        wait_until("w1 is resumed", || self.operator.run(["workers", "resume", "w1"]).code == 0);
        self.drained = false;
    }

    /// What a command says that succeeds. One that does not waits until there is a pool again.
    fn told(&self, who: &Home, args: &[&str]) -> Option<String> {
        let done: crate::cluster::Done = who.command(args).output().unwrap().into();
        if done.code == 0 {
            return Some(done.stdout);
        }
        self.answers();
        None
    }

    fn answers(&self) {
        wait_until("the pool answers", || self.operator.run(["workers", "-q"]).code == 0);
    }
}
