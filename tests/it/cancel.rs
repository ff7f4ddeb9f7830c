//! An attempt that has ended has left no process, whatever it did, and whoever was killed.

use crate::census;
use crate::cluster::{Cluster, Home, kill, skipped, wait_for, wait_until};

/// Starts processes that do all they can to stay: each with this mark in its environment.
const STAYERS: &str = "
    setsid sleep 1000 &
    nohup sleep 1000 >/dev/null 2>&1 &
    (setsid bash -c 'trap \"\" TERM INT HUP; while :; do sleep 1000; done' &) &
    (sleep 1000 & disown) &
    bash -c 'kill -STOP $$' &
    bash -c 'trap \"\" TERM INT; setsid setsid sleep 1000 & kill -STOP $$' &
    echo started
    trap '' TERM INT
    while :; do sleep 1000; done
";

fn start_stayers(cluster: &Cluster, operator: &Home, mark: &str) -> String {
    let id = operator.run(["submit", "--env", mark, STAYERS]).ok().trim().to_owned();
    wait_until("all of them are there", || census::carrying(mark).len() >= 9);
    assert!(!cluster.site.detached("executor").is_empty());
    id
}

#[test]
fn a_cancel_leaves_no_process_behind() {
    let mut cluster = Cluster::faster(20);
    cluster.join("w1", &[]);
    let mark = format!("MARK=cancel-{}", std::process::id());
    let id = start_stayers(&cluster, &cluster.operator, &mark);

    assert_eq!(cluster.operator.run(["cancel", &id]).ok(), format!("cancelled {id}\n"));

    assert_eq!(cluster.operator.run(["wait", &id]).code, 143);
    census::assert_none(&mark);
}

#[test]
fn what_bash_left_is_gone_when_bash_has_ended() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let mark = format!("MARK=left-{}", std::process::id());
    let script = STAYERS.split("echo started").next().unwrap().to_owned() + "exit 5";

    let done = cluster.operator.run(["run", "--env", &mark, &script]);

    assert_eq!(done.code, 5);
    census::assert_none(&mark);
}

#[test]
fn the_death_of_a_keeper_leaves_no_process_behind() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let mark = format!("MARK=keeper-{}", std::process::id());
    let id = start_stayers(&cluster, &cluster.operator, &mark);
    let executor = cluster.site.detached("executor")[0];
    let keepers = census::children(executor);
    assert_eq!(keepers.len(), 1);

    kill(keepers[0], libc::SIGKILL);

    assert_eq!(cluster.operator.run(["wait", &id]).code, 125);
    assert_eq!(cluster.operator.job(&id)["outcome"], "lost");
    census::assert_none(&mark);
    assert_eq!(cluster.operator.run(["run", "echo the worker goes on"]).ok(), "the worker goes on\n");
}

#[test]
fn the_death_of_an_executor_leaves_no_process_behind_and_is_told() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let mark = format!("MARK=executor-{}", std::process::id());
    let id = start_stayers(&cluster, &cluster.operator, &mark);

    kill(cluster.site.detached("executor")[0], libc::SIGKILL);

    assert_eq!(cluster.operator.run(["wait", &id]).code, 125);
    wait_until("none is left", || census::carrying(&mark).is_empty());
    assert_eq!(cluster.operator.run(["run", "echo the worker goes on"]).ok(), "the worker goes on\n");
}

#[test]
fn the_death_of_executor_and_keepers_at_once_leaves_no_process_behind_where_there_are_cgroups() {
    if !may_make_cgroups() {
        skipped("the death of executor and keepers at once (needs root and cgroup v2)");
        return;
    }
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    // It has nothing in its environment and is nobody's child: only its control group tells whose it is.
    let seconds = format!("{}", 1_000_000_000 + std::process::id());
    let script = format!("env -i setsid -f sleep {seconds}; sleep {seconds}");
    let id = cluster.operator.run(["submit", &script]).ok();
    wait_until("both sleep", || census::commanded(&["sleep", &seconds]).len() == 2);
    let executor = cluster.site.detached("executor")[0];
    let mut all = census::children(executor);
    all.push(executor);

    // Nobody is to notice the death of another.
    all.iter().for_each(|&pid| kill(pid, libc::SIGSTOP));
    all.iter().for_each(|&pid| kill(pid, libc::SIGKILL));

    assert_eq!(cluster.operator.run(["wait", id.trim()]).code, 125);
    wait_until("none is left", || census::commanded(&["sleep", &seconds]).is_empty());
    assert_eq!(cluster.operator.run(["run", "echo the worker goes on"]).ok(), "the worker goes on\n");
}

/// Whether a group can be made where we are in the unified hierarchy, as an executor does.
fn may_make_cgroups() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let mount =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let Some((mount, group)) = mount.zip(group) else { return false };
    let trial =
        std::path::Path::new(mount).join(group).join(format!("clusterctl-trial-{}", std::process::id()));
    std::fs::create_dir(&trial).is_ok_and(|()| {
        let kills = trial.join("cgroup.kill").exists();
        std::fs::remove_dir(&trial).unwrap();
        kills
    })
}

#[test]
fn a_time_out_ends_the_whole_tree() {
    let mut cluster = Cluster::faster(20);
    cluster.join("w1", &[]);
    let mark = format!("MARK=timeout-{}", std::process::id());

    let done = cluster.operator.run(["run", "--env", &mark, "--timeout", "500ms", STAYERS]);

    assert_eq!(done.code, 124);
    assert!(done.stderr.starts_with("1 timed out after "), "{done:?}");
    census::assert_none(&mark);
}

#[test]
fn a_drained_worker_finishes_what_it_has_and_takes_nothing_new() {
    let mut cluster = Cluster::start();
    let worker = cluster.join("w1", &[]);
    let go = cluster.site.path().join("go");
    let running = cluster
        .operator
        .run(["submit", &format!("while [ ! -e {} ]; do sleep 0.01; done", go.display())])
        .ok();
    cluster.operator.wait_for_state(running.trim(), "running");

    cluster.worker(worker).signal(libc::SIGTERM);
    cluster.wait_for_worker("w1", "draining");
    let queued = cluster.operator.run(["submit", "true"]).ok();
    std::fs::write(go, "").unwrap();

    assert_eq!(cluster.operator.run(["wait", running.trim()]).code, 0);
    assert_eq!(cluster.worker(worker).wait(), 0);
    assert_eq!(cluster.operator.job(queued.trim())["state"], "queued");
    wait_until("the executor has ended too", || cluster.site.detached("executor").is_empty());
}

#[test]
fn a_worker_that_is_stopped_ends_its_jobs_and_says_that_they_are_lost() {
    let mut cluster = Cluster::faster(20);
    let worker = cluster.join("w1", &[]);
    let mark = format!("MARK=stop-{}", std::process::id());
    let id = start_stayers(&cluster, &cluster.operator, &mark);

    cluster.worker(worker).signal(libc::SIGTERM);
    cluster.wait_for_worker("w1", "draining");
    cluster.worker(worker).signal(libc::SIGTERM);

    assert_eq!(cluster.operator.run(["wait", &id]).code, 125);
    assert_eq!(cluster.worker(worker).wait(), 0);
    census::assert_none(&mark);
}

#[test]
fn executors_that_are_killed_as_they_start_are_followed_by_another_and_the_agent_goes_on() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);

    for _ in 0..6 {
        let there = || cluster.site.detached("clusterctl executor").first().copied();
        let pid = wait_for("there is an executor", there);
        kill(pid, libc::SIGKILL);
        wait_until("it has gone", || there() != Some(pid));
    }

    // It may be given to the last of them.
    assert_eq!(cluster.operator.run(["run", "--retries", "9", "echo here"]).ok(), "here\n");
    assert_eq!(cluster.worker(0).ended(), None);
}
