//! Workers that are removed, drained, stopped or forgotten, and what becomes of their jobs.

use crate::census;
use crate::cluster::{Cluster, Home, Site, join, kill, wait_until};
use crate::tap::Tap;

/// A job that runs until it is ended, at the only worker.
fn start_sleeper(client: &Home, mark: &str) -> String {
    let id = client.run(["submit", "--env", mark, "sleep 1000 & wait"]).ok().trim().to_owned();
    client.wait_for_state(&id, "running");
    id
}

/// A job that ends when this file is there.
fn waiting_for(path: &std::path::Path) -> String {
    format!("until [ -e {} ]; do sleep 0.01; done", path.display())
}

#[test]
fn a_removed_worker_ends_its_jobs_and_may_join_anew_by_another_token() {
    let mut cluster = Cluster::faster(20);
    let worker = cluster.join("w1", &[]);
    let mark = format!("MARK=removed-{}", std::process::id());
    let id = start_sleeper(&cluster.operator, &mark);

    cluster.operator.run(["workers", "remove", "w1"]).ok();

    assert_eq!(cluster.operator.run(["wait", &id]).code, 125);
    assert_eq!(cluster.worker(worker).wait(), 5);
    census::assert_none(&mark);
    wait_until("the executor has ended too", || cluster.site.detached("executor").is_empty());

    let home = cluster.site.home("w1");
    let mut again = join(&home, &cluster.address, "w1", &[]);
    assert_eq!(again.wait(), 5, "it is not known any more");
    let token = cluster.token("--worker");
    let _again = join(&home, &cluster.address, "w1", &["--token", &token]);
    cluster.wait_for_worker("w1", "ready");
    assert_eq!(cluster.operator.run(["run", "echo back"]).ok(), "back\n");
}

#[test]
fn a_private_pools_own_worker_can_be_removed_and_comes_back() {
    let site = Site::new();
    let home = site.home("ann");
    home.run(["run", "true"]).ok();

    home.run(["workers", "remove", "local"]).ok();
    wait_until("it has gone", || site.detached("worker join").is_empty());
    home.run(["pool", "stop"]).ok();

    assert_eq!(home.run(["run", "echo back"]).ok(), "back\n");
}

#[test]
fn a_private_pools_own_worker_that_is_killed_is_followed_by_another() {
    let site = Site::new();
    let home = site.home("ann");
    home.run(["run", "true"]).ok();
    let agent = || site.detached("worker join").first().copied();
    let killed = agent().unwrap();

    kill(killed, libc::SIGKILL);

    wait_until("another one is there", || agent().is_some_and(|pid| pid != killed));
    assert_eq!(home.run(["run", "echo back"]).ok(), "back\n");
}

#[test]
fn a_line_that_is_dead_without_a_word_is_given_up_and_dialled_again() {
    let cluster = Cluster::faster(20);
    let tap = Tap::on(&cluster.address);
    let home = cluster.site.home("w1");
    let token = cluster.token("--worker");
    let _worker = join(&home, &tap.address, "w1", &["--token", &token]);
    cluster.wait_for_worker("w1", "ready");
    let go = cluster.site.path().join("go");
    let script = format!("echo once; {}", waiting_for(&go));
    let id = cluster.operator.run(["submit", &script]).ok().trim().to_owned();
    cluster.operator.wait_for_state(&id, "running");

    tap.mute();
    let lines = tap.connections();
    wait_until("it has dialled again", || tap.connections() > lines);
    std::fs::write(&go, "").unwrap();

    assert_eq!(cluster.operator.run(["wait", &id]).code, 0);
    assert_eq!(cluster.operator.run(["logs", &id]).ok(), "once\n");
}

#[test]
fn a_worker_can_be_stopped_while_its_pool_is_away_and_tells_when_it_comes_back() {
    let mut cluster = Cluster::faster(20);
    let worker = cluster.join("w1", &[]);
    let mark = format!("MARK=away-{}", std::process::id());
    let id = start_sleeper(&cluster.operator, &mark);
    cluster.kill_pool();

    let agent = cluster.worker(worker).pid();
    kill(agent, libc::SIGTERM);
    wait_until("the first one is heard", || {
        let log = std::fs::read_to_string(cluster.site.home("w1").path().join("worker.log")).unwrap();
        log.contains("draining: 1 running")
    });
    kill(agent, libc::SIGTERM);

    assert_eq!(cluster.worker(worker).wait(), 0);
    census::assert_none(&mark);
    cluster.restart_pool();
    let _again = join(&cluster.site.home("w1"), &cluster.address, "w1", &[]);
    assert_eq!(cluster.operator.run(["wait", &id]).code, 125);
    assert_eq!(cluster.operator.job(&id)["outcome"], "lost");
}

#[test]
fn a_worker_goes_on_draining_when_its_executor_dies() {
    let mut cluster = Cluster::start();
    let worker = cluster.join("w1", &[]);
    let mark = format!("MARK=draining-{}", std::process::id());
    start_sleeper(&cluster.operator, &mark);
    cluster.worker(worker).signal(libc::SIGTERM);
    cluster.wait_for_worker("w1", "draining");

    kill(cluster.site.detached("executor")[0], libc::SIGKILL);

    assert_eq!(cluster.worker(worker).wait(), 0);
    wait_until("none is left", || census::carrying(&mark).is_empty());
}

#[test]
fn the_own_worker_of_a_pool_that_never_comes_back_ends_when_nothing_runs() {
    let site = Site::faster(100);
    let home = site.home("ann");
    home.run(["run", "true"]).ok();

    kill(site.detached("pool serve")[0], libc::SIGKILL);

    // What it had still to tell may keep the executor.
    wait_until("the agent has ended", || site.detached("worker join").is_empty());
}

#[test]
fn a_worker_is_taken_out_of_service_and_put_back() {
    let mut cluster = Cluster::faster(10);
    cluster.join("w1", &[]);
    let operator = &cluster.operator;
    let (stays, gate) = (start_sleeper(operator, "stays"), cluster.site.path().join("gate"));
    let told = operator.run(["workers", "drain", "w1"]).ok();
    assert_eq!(told, "w1 gets nothing new; 1 go on there\n");
    cluster.wait_for_worker("w1", "draining");
    let waits = operator.run(["submit", &format!("touch {}", gate.display())]).ok();
    let why = operator.run(["why", waits.trim()]).ok();
    assert!(why.ends_with("the workers that fit are drained (clusterctl workers resume w1)\n"), "{why}");

    operator.run(["workers", "drain", "--all", "--deadline", "100ms"]).ok();

    operator.wait_for_state(&stays, "lost");
    assert_eq!(operator.job(&stays)["reason"], "its worker was drained");
    cluster.wait_for_worker("w1", "drained");
    assert!(!gate.exists());
    assert_eq!(operator.run(["workers", "resume", "w1"]).ok(), "w1 gets tasks again\n");
    assert_eq!(operator.run(["wait", waits.trim()]).code, 0);
    assert_eq!(operator.run(["workers", "drain", "w9"]).code, 3);
}

#[test]
fn an_ephemeral_worker_has_a_name_that_is_free_and_is_forgotten_when_it_has_gone() {
    let mut cluster = Cluster::faster(100);
    cluster.join("w1", &[]);
    let home = cluster.site.home("container");
    let come = || {
        let token = cluster.token("--worker");
        join(&home, &cluster.address, "w1", &["--token", &token, "--ephemeral"])
    };
    let mut first = come();
    cluster.wait_for_worker("w1-2", "ready");

    first.signal(libc::SIGTERM);
    assert_eq!(first.wait(), 0);
    let second = come();
    cluster.wait_for_worker("w1-3", "ready");
    second.kill();

    let names = || cluster.operator.run(["workers", "-q"]).ok();
    wait_until("those that have gone are forgotten", || names() == "w1\n");
    let trail = cluster.operator.run(["audit"]).ok();
    for name in ["w1-2", "w1-3"] {
        assert!(trail.contains(&format!("worker forgotten · worker {name}")), "{trail}");
    }
}
