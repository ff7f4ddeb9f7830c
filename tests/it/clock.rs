//! A wall clock that jumps by a year either way, under a pool and under a worker. Needs libfaketime.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Process, join_command, pool_command, skipped, wait_until};

/// Where Debian and others put it.
fn library() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    places.iter().map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

/// A clock that is set by a file.
struct Clock(PathBuf);

impl Clock {
    fn under(&self, command: &mut Command, library: &Path) {
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &self.0);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    fn jump(&self, by: &str) {
        std::fs::write(&self.0, by).unwrap();
    }
}

/// Jobs that live through the jumps go on, as do their connections; new ones are made at each. Returns what was shown.
fn live_through_jumps(cluster: &Cluster, clock: &Clock) -> Vec<String> {
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
    let mut shown = Vec::new();
    for by in ["+1y", "-1y", "+0", "-2y", "+2y"] {
        clock.jump(by);
        let client = cluster.client(&format!("ann{}", shown.len()));
        assert_eq!(client.run(["run", "echo new"]).ok(), "new\n", "after a jump to {by}");
        let quick = cluster.operator.run(["submit", "true"]).ok().trim().to_owned();
        assert_eq!(cluster.operator.run(["wait", &quick]).code, 0);
        shown.push(cluster.operator.job(&quick)["submitted"].as_str().unwrap().to_owned());
        all.iter()
            .for_each(|id| assert_eq!(cluster.operator.job(id)["state"], "running", "after a jump to {by}"));
    }
    std::fs::write(gate, "").unwrap();
    for id in all {
        assert_eq!(cluster.operator.run(["wait", id]).code, 5);
        assert_eq!(cluster.operator.run(["logs", id]).ok(), "begun\ndone\n");
        assert_eq!(cluster.operator.job(id)["attempt"], 1);
    }
    assert_eq!(follower.wait(), 0);
    let followed = std::io::read_to_string(follower.stdout()).unwrap();
    assert_eq!(followed, "begun\ndone\n");
    shown
}

#[test]
fn a_year_either_way_on_the_pools_clock_changes_nothing_but_what_is_written_down() {
    let Some(library) = library() else {
        skipped("jumps of the pool's clock (no libfaketime)");
        return;
    };
    let mut cluster = Cluster::start();
    cluster.join("w1", &["--slots", "6"]);
    let clock = Clock(cluster.site.path().join("clock"));
    clock.jump("+0");
    cluster.kill_pool();
    let mut command = pool_command(&cluster.operator, &cluster.address);
    clock.under(&mut command, &library);
    let _pool = crate::cluster::serving(&cluster.operator, command).0;
    cluster.wait_for_worker("w1", "ready");

    let shown = live_through_jumps(&cluster, &clock);

    let year = |text: &String| text[..4].parse::<i32>().unwrap();
    assert_eq!(year(&shown[0]), year(&shown[2]) + 1, "the clock did jump: {shown:?}");
    println!(
        "wall clock of the pool: 5 jumps, 3 jobs lived through all, 10 new jobs and 5 new clients; 0 effects"
    );
}

#[test]
fn a_year_either_way_on_a_workers_clock_changes_nothing() {
    let Some(library) = library() else {
        skipped("jumps of a worker's clock (no libfaketime)");
        return;
    };
    let cluster = Cluster::start();
    let clock = Clock(cluster.site.path().join("clock"));
    clock.jump("+0");
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let mut command = join_command(&home, &cluster.address, "w1", &["--token", &token, "--slots", "6"]);
    clock.under(&mut command, &library);
    let _worker = Process::logged(&home, command);
    cluster.wait_for_worker("w1", "ready");

    live_through_jumps(&cluster, &clock);

    wait_until("it is there", || cluster.operator.run(["workers"]).ok().contains("ready"));
    println!(
        "wall clock of a worker: 5 jumps, 3 jobs lived through all, 10 new jobs and 5 new clients; 0 effects"
    );
}
