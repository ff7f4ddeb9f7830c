//! A wall clock that jumps by a year either way, under a pool and under a worker. Needs libfaketime. That jumps would be
//! seen is shown by a time since boot that does so.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Process, Site, join_command, pool_command, serving, skipped, wait_until};
use crate::compiled::compiled;

const YEAR_SECONDS: i64 = 365 * 24 * 3600;
/// Where the time since boot stands before it jumps.
const YEARS_SINCE_BOOT: i32 = 3;

/// Where Debian and others put it.
fn library() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    places.iter().map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

/// A clock that is set by a file, and what makes a process go by it.
enum Clock {
    /// The wall clock, by libfaketime.
    Wall { library: PathBuf, file: PathBuf },
    /// The time since boot, which never jumps on any machine: as if durations were taken from a clock that does.
    SinceBoot { shim: PathBuf, file: PathBuf },
}

impl Clock {
    /// None, said loudly, where there is no libfaketime.
    fn wall(site: &Site, whose: &str) -> Option<Self> {
        let Some(library) = library() else {
            skipped(&format!("jumps of {whose} clock (no libfaketime)"));
            return None;
        };
        Some(Self::Wall { library, file: site.path().join("clock") })
    }

    /// None, said loudly, where there is no C compiler.
    fn since_boot(site: &Site) -> Option<Self> {
        let options = ["-shared", "-fPIC"];
        let shim = compiled("clock-shim.c", &options, site.path(), "a time since boot that jumps")?;
        Some(Self::SinceBoot { shim, file: site.path().join("clock") })
    }

    fn under(&self, command: &mut Command) {
        self.jump(0);
        match self {
            Self::Wall { library, file } => command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", file)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            Self::SinceBoot { shim, file } => command.env("LD_PRELOAD", shim).env("CLOCK_SHIM_FILE", file),
        };
    }

    /// So many years from now.
    fn jump(&self, years: i32) {
        match self {
            Self::Wall { file, .. } => std::fs::write(file, format!("{years:+}y")).unwrap(),
            Self::SinceBoot { file, .. } => {
                // No time is before the boot.
                std::fs::write(file, (i64::from(YEARS_SINCE_BOOT + years) * YEAR_SECONDS).to_string())
                    .unwrap();
            }
        }
    }
}

/// What was seen while a clock jumped.
#[derive(Default)]
struct Lived {
    /// When new jobs were submitted, as it is shown.
    shown: Vec<String>,
    /// What is not as if there had been no jump.
    changed: Vec<String>,
}

impl Lived {
    fn see<T: PartialEq + Debug>(&mut self, whose: &str, seen: T, usual: T) {
        if seen != usual {
            self.changed.push(format!("{whose}: {seen:?}, not {usual:?}"));
        }
    }
}

/// Begins what is said of a job that was there before the jumps.
const OLD: &str = "a job that lived through the jumps";

/// Jobs that live through the jumps go on, as do their connections; new ones are made at each.
fn live_through_jumps(cluster: &Cluster, clock: &Clock) -> Lived {
    let gate = cluster.site.path().join("gate");
    let script =
        format!("echo begun; until [ -e {} ]; do sleep 0.02; done; echo done; exit 5", gate.display());
    let plain = cluster.operator.run(["submit", &script]).ok().trim().to_owned();
    let leased = cluster.operator.run(["submit", "--retries", "2", &script]).ok().trim().to_owned();
    let long = cluster.operator.run(["submit", "--timeout", "1h", &script]).ok().trim().to_owned();
    let all = [&plain, &leased, &long];
    all.iter().for_each(|id| cluster.operator.wait_for_state(id, "running"));
    let mut follower =
        Process::start(cluster.operator.command(["logs", "-f", &plain]).stdout(Stdio::piped()));
    let mut lived = Lived::default();
    for by in [1, -1, 0, -2, 2] {
        clock.jump(by);
        let client = cluster.client(&format!("ann{}", lived.shown.len()));
        let run = client.run(["run", "echo new"]);
        let new = format!("a new job after a jump by {by} years");
        lived.see(&new, (run.code, run.stdout.as_str()), (0, "new\n"));
        let quick = cluster.operator.run(["submit", "true"]).ok().trim().to_owned();
        lived.see(&new, cluster.operator.run(["wait", "--timeout", "60s", &quick]).code, 0);
        lived.shown.push(cluster.operator.job(&quick)["submitted"].as_str().unwrap().to_owned());
        for id in all {
            let state = cluster.operator.job(id)["state"].as_str().unwrap().to_owned();
            lived.see(&format!("{OLD}, after one by {by} years"), state.as_str(), "running");
        }
    }
    std::fs::write(gate, "").unwrap();
    for id in all {
        // One that does not end is told by its code, too.
        let code = cluster.operator.run(["wait", "--timeout", "60s", id]).code;
        let attempt = cluster.operator.job(id)["attempt"].as_u64();
        let output = cluster.operator.run(["logs", id]).stdout;
        lived.see(OLD, (code, attempt, output.as_str()), (5, Some(1), "begun\ndone\n"));
    }
    // Nor is a deadline that passes a failure of its own.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| follower.wait())).ok();
    let followed = follower.stdout();
    follower.kill();
    let followed = std::io::read_to_string(followed).unwrap();
    lived.see(&format!("{OLD}, as it was followed"), (ended, followed.as_str()), (Some(0), "begun\ndone\n"));
    lived
}

/// A worker, and a pool that goes by this clock.
fn under_pool(site: Site, clock: &Clock) -> (Cluster, Process) {
    let mut cluster = Cluster::at(site);
    cluster.join("w1", &["--slots", "6"]);
    cluster.kill_pool();
    let mut command = pool_command(&cluster.operator, &cluster.address);
    clock.under(&mut command);
    let pool = serving(&cluster.operator, command).0;
    cluster.wait_for_worker("w1", "ready");
    (cluster, pool)
}

/// A pool, and a worker that goes by this clock.
fn under_worker(site: Site, clock: &Clock) -> (Cluster, Process) {
    let cluster = Cluster::at(site);
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let mut command = join_command(&home, &cluster.address, "w1", &["--token", &token, "--slots", "6"]);
    clock.under(&mut command);
    let worker = Process::logged(&home, command);
    cluster.wait_for_worker("w1", "ready");
    (cluster, worker)
}

#[test]
fn a_year_either_way_on_the_pools_clock_changes_nothing_but_what_is_written_down() {
    let site = Site::new();
    let Some(clock) = Clock::wall(&site, "the pool's") else { return };
    let (cluster, _pool) = under_pool(site, &clock);

    let Lived { shown, changed } = live_through_jumps(&cluster, &clock);

    assert!(changed.is_empty(), "{changed:#?}");
    let year = |text: &String| text[..4].parse::<i32>().unwrap();
    assert_eq!(year(&shown[0]), year(&shown[2]) + 1, "the clock did jump: {shown:?}");
    println!(
        "wall clock of the pool: 5 jumps, 3 jobs lived through all, 10 new jobs and 5 new clients; every check held"
    );
}

#[test]
fn a_year_either_way_on_a_workers_clock_changes_nothing() {
    let site = Site::new();
    let Some(clock) = Clock::wall(&site, "a worker's") else { return };
    let (cluster, _worker) = under_worker(site, &clock);

    let changed = live_through_jumps(&cluster, &clock).changed;

    assert!(changed.is_empty(), "{changed:#?}");
    wait_until("it is there", || cluster.operator.run(["workers"]).ok().contains("ready"));
    println!(
        "wall clock of a worker: 5 jumps, 3 jobs lived through all, 10 new jobs and 5 new clients; every check held"
    );
}

/// What becomes of jobs when durations go by a clock that jumps: of those that only the jumps can have touched.
fn found(cluster: &Cluster, clock: &Clock) -> String {
    let changed = live_through_jumps(cluster, clock).changed;
    let found = changed.iter().find(|what| what.starts_with(OLD));
    found.unwrap_or_else(|| panic!("no effect, but: {changed:#?}")).clone()
}

#[test]
fn jumps_of_a_pools_clock_by_which_it_took_durations_would_be_found() {
    let site = Site::new();
    let Some(clock) = Clock::since_boot(&site) else { return };
    let (cluster, _pool) = under_pool(site, &clock);

    let found = found(&cluster, &clock);

    println!("found: {found}");
}

#[test]
fn jumps_of_a_workers_clock_by_which_it_took_durations_would_be_found() {
    let site = Site::new();
    let Some(clock) = Clock::since_boot(&site) else { return };
    let (cluster, _worker) = under_worker(site, &clock);

    let found = found(&cluster, &clock);

    println!("found: {found}");
}
