//! A pool that is killed at each of its syncs, and one whose disk breaks at them.
//!
//! `CLUSTERCTL_SYNCS=all cargo test --test it storage -- --nocapture` takes every sync of the scripted run, a quick test
//! some of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Home, Process, pool_command, wait_for, wait_until};

/// Syncs that a quick test takes, evenly among all.
const SAMPLE: usize = 3;

/// What stands between a pool and its disk.
struct Shim {
    library: PathBuf,
    count: PathBuf,
}

impl Shim {
    fn build(directory: &Path) -> Self {
        let library = directory.join("storage-shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/storage-shim.c");
        let mut build = Command::new("cc");
        build.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        let built = build.status().unwrap();
        assert!(built.success(), "the shim is built by the C compiler");
        Self { library, count: directory.join("syncs") }
    }

    /// Serves a cluster's pool through this, until its n-th sync.
    fn serve(&self, cluster: &Cluster, n: u64, how: &str) -> Process {
        let mut command = pool_command(&cluster.operator, &cluster.address);
        command.env("LD_PRELOAD", &self.library).env("SYNC_COUNT", &self.count);
        command.env("SYNC_AT", n.to_string()).env("SYNC_HOW", how);
        let log = std::fs::File::create(cluster.operator.path().join("pool.log")).unwrap();
        Process::start(command.stdout(Stdio::null()).stderr(log))
    }

    fn counted(&self) -> u64 {
        std::fs::read_to_string(&self.count).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }
}

/// What was acknowledged, with what must become of it.
struct Acknowledged {
    id: String,
    exit: u32,
    output: String,
}

/// The run that is always the same. Whoever finds the door closed comes again.
struct Script {
    client: Home,
    operator: Home,
    ledger: PathBuf,
}

impl Script {
    fn submit(&self, args: &[&str], script: &str) -> String {
        let script = format!("echo $CLUSTERCTL_JOB.$CLUSTERCTL_TASK >> {}; {script}", self.ledger.display());
        let line = [&["submit"], args, &[script.as_str()]].concat();
        wait_for("a submit is acknowledged", || {
            let done = self.client.command(&line).stderr(Stdio::null()).output().unwrap();
            done.status.success().then(|| String::from_utf8(done.stdout).unwrap().trim().to_owned())
        })
    }

    fn play(&self) -> Vec<Acknowledged> {
        let known = |id: String, exit, output: &str| Acknowledged { id, exit, output: output.to_owned() };
        let mut all = vec![known(self.submit(&[], "echo one"), 0, "one\n")];
        let array = self.submit(&["--array", "0-3"], "echo $CLUSTERCTL_TASK; exit $CLUSTERCTL_TASK");
        all.extend((0..4).map(|n| known(format!("{array}.{n}"), n, &format!("{n}\n"))));
        let numbers: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
        all.push(known(self.submit(&[], "seq 1 30000; exit 3"), 3, &numbers));
        let ended = self.submit(&[], "echo begun; exec sleep 1000");
        // One that is acknowledged to nobody may have been heeded.
        wait_until("it is cancelled", || {
            self.client.run(["cancel", &ended]).code == 0
                || self.client.run(["show", &ended]).stdout.contains(": cancelled")
        });
        wait_until("a token is made", || self.operator.run(["token", "create", "--client"]).code == 0);
        for job in [array.as_str(), &ended] {
            wait_until("it has ended", || {
                let done = self.client.run(["show", job, "--output", "json"]);
                done.code == 0 && !done.stdout.contains("\"ended\":null")
            });
        }
        all
    }
}

/// A cluster whose pool is put behind the shim again and again.
struct Trial {
    cluster: Cluster,
    client: Home,
    shim: Shim,
    seen: BTreeMap<String, String>,
    acknowledged: usize,
}

impl Trial {
    fn new() -> Self {
        let mut cluster = Cluster::start();
        cluster.join("w1", &["--slots", "4"]);
        let client = cluster.client("ann");
        let shim = Shim::build(cluster.site.path());
        Self { cluster, client, shim, seen: BTreeMap::new(), acknowledged: 0 }
    }

    /// Plays the script with a pool that meets its fate at the n-th sync, and checks all that there is; how many syncs
    /// there were, and what a pool said that ended.
    fn play(&mut self, n: u64, how: &str) -> (u64, String) {
        self.cluster.kill_pool();
        let mut pool = self.shim.serve(&self.cluster, n, how);
        let ledger = self.cluster.site.path().join(format!("ledger-{how}-{n}"));
        let script = Script {
            client: self.client.clone(),
            operator: self.cluster.operator.clone(),
            ledger: ledger.clone(),
        };
        let player = std::thread::spawn(move || script.play());
        wait_until("the pool is gone, or the script is through", || {
            pool.ended().is_some() || player.is_finished()
        });
        let (syncs, said) = (self.shim.counted(), self.said());
        pool.kill();
        self.cluster.restart_pool();
        let all = player.join().unwrap();
        self.check(&all, &ledger, &format!("{how} at sync {n}"));
        (syncs, said)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.cluster.operator.path().join("pool.log")).unwrap()
    }

    fn check(&mut self, all: &[Acknowledged], ledger: &Path, words: &str) {
        for Acknowledged { id, exit, output } in all {
            wait_until(&format!("{id} has ended, {words}"), || self.client.job(id)["ended"].is_string());
            let shown = self.client.job(id);
            assert_eq!(shown["exit"], *exit, "{words}: {shown}");
            assert_eq!(self.client.run(["logs", id]).ok(), *output, "{words}: output of {id}");
            self.seen.insert(id.clone(), shown.to_string());
        }
        for (id, before) in &self.seen {
            assert_eq!(self.client.job(id).to_string(), *before, "{words}: the end of {id} has changed");
        }
        let starts = std::fs::read_to_string(ledger).unwrap();
        let mut once: Vec<&str> = starts.lines().collect();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), starts.lines().count(), "{words}: something started twice");
        self.acknowledged += all.len();
    }
}

/// Every sync of a run, or some of them.
fn chosen(all: u64) -> Vec<u64> {
    let step = match std::env::var("CLUSTERCTL_SYNCS").as_deref() {
        Ok("all") => 1,
        _ => usize::try_from(all).unwrap().div_ceil(SAMPLE),
    };
    (1..=all).step_by(step).collect()
}

#[test]
fn a_pool_that_is_killed_at_any_of_its_syncs_has_lost_and_undone_nothing() {
    let mut trial = Trial::new();
    let (all, _) = trial.play(u64::MAX, "kill");
    assert!(all > 10, "the script syncs {all} times");

    let killed_at = chosen(all);
    for &n in &killed_at {
        trial.play(n, "kill");
    }

    println!(
        "killed at {} of {all} syncs: {} tasks acknowledged; every check of ends, starts and output held",
        killed_at.len(),
        trial.acknowledged
    );
}

#[test]
fn a_pool_whose_disk_breaks_at_any_of_its_syncs_stops_in_words_and_has_lost_nothing() {
    let mut trial = Trial::new();
    let (all, _) = trial.play(u64::MAX, "break");

    let broken_at = chosen(all);
    let mut stopped = 0;
    for &n in &broken_at {
        let (_, said) = trial.play(n, "break");
        // Where the last syncs of one run come behind what the script waits for, the pool has not met its fate.
        if said.contains("error: ") {
            stopped += 1;
            let words = [
                "the store cannot be read or written: input/output error",
                "the store's database: disk I/O error",
            ];
            assert!(words.iter().any(|words| said.contains(words)), "{said}");
        }
    }

    assert!(stopped * 3 >= broken_at.len() * 2, "the pool stopped {stopped} of {} times", broken_at.len());
    println!(
        "disk broken at {} of {all} syncs: {} tasks acknowledged; every check of ends, starts and output held",
        broken_at.len(),
        trial.acknowledged
    );
}
