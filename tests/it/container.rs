//! A worker as first process of a pid namespace, as in a container. Needs root, to make one.

use std::process::Command;

use crate::census;
use crate::cluster::{Cluster, Process, join_command, kill, skipped, wait_until};

/// What makes a command the first process of a namespace.
const UNSHARE: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount-proc"];

/// Whether such a namespace can be made here.
fn may_unshare() -> bool {
    Command::new("unshare").args(UNSHARE).arg("true").output().is_ok_and(|done| done.status.success())
}

/// A worker in a namespace of its own: the process that made that, and the agent in it.
fn join_contained(cluster: &Cluster) -> (Process, i32) {
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let join = join_command(&home, &cluster.address, "w1", &["--token", &token]);
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg(join.get_program()).args(join.get_args());
    command.env_clear().envs(join.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outside = Process::logged(&home, command);
    cluster.wait_for_worker("w1", "ready");
    let agent = census::children(outside.pid())[0];
    (outside, agent)
}

#[test]
fn as_first_process_of_a_container_a_worker_reaps_and_ends_in_time_with_all_that_runs() {
    if !may_unshare() {
        skipped("a worker as first process of a container (needs root, and unshare)");
        return;
    }
    let cluster = Cluster::faster(20);
    let (mut outside, agent) = join_contained(&cluster);

    let mut orphan = Command::new("nsenter");
    orphan.args([
        "--target",
        &agent.to_string(),
        "--pid",
        "--mount",
        "bash",
        "-c",
        "sleep 0.1 & sleep 0.1 &",
    ]);
    assert!(orphan.status().unwrap().success());
    wait_until("orphans are reaped", || census::children(agent).len() == 1);

    let stubborn = "trap '' TERM; echo begun; while :; do sleep 0.01; done";
    let id = cluster.operator.run(["submit", stubborn]).ok();
    cluster.operator.wait_for_state(id.trim(), "running");
    kill(agent, libc::SIGTERM);

    assert_eq!(cluster.operator.run(["wait", id.trim()]).code, 125);
    let shown = cluster.operator.run(["show", id.trim()]).ok();
    assert!(shown.contains("lost: the worker was stopped"), "{shown}");
    wait_until("the container has ended", || outside.ended().is_some());
    assert_eq!(cluster.operator.run(["logs", id.trim()]).ok(), "begun\n");
}

#[test]
fn what_finishes_in_time_is_not_ended_and_what_waits_goes_elsewhere() {
    if !may_unshare() {
        skipped("a worker as first process of a container that drains (needs root, and unshare)");
        return;
    }
    let cluster = Cluster::start();
    let (mut outside, agent) = join_contained(&cluster);
    let go = cluster.site.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.01; done; echo finished", go.display());
    let id = cluster.operator.run(["submit", &script]).ok();
    cluster.operator.wait_for_state(id.trim(), "running");
    kill(agent, libc::SIGTERM);
    cluster.wait_for_worker("w1", "draining");

    std::fs::write(go, "").unwrap();

    assert_eq!(cluster.operator.run(["wait", id.trim()]).code, 0);
    wait_until("the container has ended", || outside.ended().is_some());
    assert_eq!(cluster.operator.run(["logs", id.trim()]).ok(), "finished\n");
}
