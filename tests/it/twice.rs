//! Two who come with what was made for one: a token that lets one key in, and a worker's directory that was copied.

use std::process::Command;

use crate::cluster::{Cluster, Home, Process, join, kill, wait_for, wait_until};
use crate::tap::Tap;

/// When the pool is killed while two race for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    Never,
    /// When the first has come.
    AtTheDoor,
    /// When one of them was let in.
    AfterTheFirst,
}

fn log(home: &Home, name: &str) -> String {
    std::fs::read_to_string(home.path().join(name)).unwrap()
}

#[test]
fn of_two_who_race_for_a_token_one_is_let_in_and_the_other_reads_why_not() {
    for killed in [Killed::Never, Killed::AtTheDoor, Killed::AfterTheFirst] {
        race(killed);
    }
}

fn race(killed: Killed) {
    let mut cluster = Cluster::start();
    let tap = Tap::on(&cluster.address);
    let token = cluster.token("--worker");
    let names = ["one", "two"];
    let homes = names.map(|name| cluster.site.home(name));
    let mut racers: Vec<Process> = (names.iter().zip(&homes))
        .map(|(name, home)| join(home, &tap.address, name, &["--token", &token]))
        .collect();
    match killed {
        Killed::Never => {}
        Killed::AtTheDoor => wait_until("somebody has come", || tap.connections() > 0),
        Killed::AfterTheFirst => {
            wait_until("somebody was let in", || log(&cluster.operator, "pool.log").contains("let in"));
        }
    }
    if killed != Killed::Never {
        cluster.kill_pool();
        cluster.restart_pool();
    }

    let (loser, code) = wait_for("one of them has lost", || {
        racers.iter_mut().enumerate().find_map(|(n, racer)| Some((n, racer.ended()?)))
    });

    let winner = 1 - loser;
    let said = log(&homes[loser], "worker.log");
    assert_eq!((code, said.contains("error: this token has been used\n")), (5, true), "{killed:?}: {said}");
    cluster.wait_for_worker(names[winner], "ready");
    let workers = cluster.operator.run(["workers", "--output", "json"]).ok();
    let workers: serde_json::Value = serde_json::from_str(&workers).unwrap();
    assert_eq!(workers.as_array().unwrap().len(), 1, "{killed:?}: {workers}");
}

#[test]
fn a_copy_of_a_workers_directory_is_refused_in_words_while_the_first_is_heard() {
    // The refused one dials again soon.
    let mut cluster = Cluster::faster(8);
    let first = cluster.join("w1", &[]);
    let pid = cluster.worker(first).pid();
    let gate = cluster.site.path().join("gate");
    let script = format!("echo begun; while [ ! -e {} ]; do sleep 0.01; done; echo done", gate.display());
    let id = cluster.operator.run(["submit", "--retries", "1", &script]).ok();
    let id = id.trim();
    cluster.operator.wait_for_state(id, "running");
    let (home, copy) = (cluster.site.home("w1"), cluster.site.home("copy"));
    let from = home.path().join("data");
    let copied = Command::new("cp").arg("-a").arg(from).arg(copy.path()).status().unwrap();
    assert!(copied.success());

    let _copy = join(&copy, &cluster.address, "w1", &[]);

    let words =
        "worker \"w1\" is connected from another directory of its machine: one is a copy of the other";
    wait_until("the copy is refused", || log(&copy, "worker.log").contains(words));
    assert!(log(&cluster.operator, "pool.log").contains("a worker was refused"));
    let trail = cluster.operator.run(["audit"]).ok();
    assert!(trail.contains("w1  127.0.0.1  not let in") && trail.contains(words), "{trail}");
    cluster.operator.wait_for_state(id, "running");
    std::fs::write(gate, "").unwrap();
    assert_eq!(cluster.operator.run(["wait", id]).code, 0);
    assert_eq!(cluster.operator.job(id)["attempt"], 1);
    let registrations = || log(&cluster.operator, "pool.log").matches("registered worker=w1").count();
    assert_eq!(registrations(), 1);

    // The first is gone: the copy may be what somebody wants to go on with.
    kill(pid, libc::SIGKILL);
    wait_until("the copy is let in", || registrations() == 2);
}
