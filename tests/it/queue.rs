//! What was accepted is never lost, and nothing runs twice: across workers that come and a pool that dies.

use crate::census;
use crate::cluster::{Cluster, kill, wait_until};

/// Lines of a file that jobs append to, sorted.
fn tally(path: &std::path::Path) -> Vec<u32> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn jobs_submitted_before_any_worker_exists_run_once_each_although_the_pool_is_killed() {
    let mut cluster = Cluster::start();
    let done = cluster.site.path().join("done");
    let script = format!("echo $CLUSTERCTL_JOB >> {}", done.display());
    for _ in 0..200 {
        cluster.operator.run(["submit", &script]).ok();
    }
    cluster.join("w1", &[]);
    cluster.join("w2", &[]);
    wait_until("some have run", || tally(&done).len() > 20);

    cluster.kill_pool();
    cluster.restart_pool();

    assert_eq!(cluster.operator.run(["wait", "1-200"]).code, 0);
    assert_eq!(tally(&done), (1..=200).collect::<Vec<_>>());
}

#[test]
fn running_jobs_keep_their_pid_when_the_pool_is_killed() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &["--slots", "4"]);
    let go = cluster.site.path().join("go");
    let script = format!("echo $$; while [ ! -e {} ]; do sleep 0.01; done; echo $$", go.display());
    for _ in 0..4 {
        cluster.operator.run(["submit", &script]).ok();
    }
    let pid_of = |cluster: &Cluster, id: &str| cluster.operator.run(["logs", id]).stdout;
    let ids = ["1", "2", "3", "4"];
    wait_until("all run", || ids.iter().all(|id| !pid_of(&cluster, id).is_empty()));
    let pids: Vec<String> = ids.iter().map(|id| pid_of(&cluster, id)).collect();

    cluster.kill_pool();
    assert!(pids.iter().all(|pid| census::is_alive(pid.trim().parse().unwrap())));
    cluster.restart_pool();
    std::fs::write(&go, "").unwrap();

    for (id, pid) in ids.iter().zip(&pids) {
        assert_eq!(cluster.operator.run(["wait", id]).code, 0);
        assert_eq!(pid_of(&cluster, id), format!("{pid}{pid}"));
    }
}

#[test]
fn a_running_job_survives_its_agent() {
    let mut cluster = Cluster::start();
    let worker = cluster.join("w1", &[]);
    let go = cluster.site.path().join("go");
    let script = format!("echo $$; while [ ! -e {} ]; do sleep 0.01; done; echo $$", go.display());
    let id = cluster.operator.run(["submit", &script]).ok();
    let id = id.trim();
    wait_until("it runs", || !cluster.operator.run(["logs", id]).stdout.is_empty());

    kill(cluster.worker(worker).pid(), libc::SIGKILL);
    cluster.worker(worker).wait();
    std::fs::write(&go, "").unwrap();
    let home = cluster.site.home("w1");
    let _again = crate::cluster::join(&home, &cluster.address, "w1", &[]);

    assert_eq!(cluster.operator.run(["wait", id]).code, 0);
    let logs = cluster.operator.run(["logs", id]).stdout;
    let (first, second) = logs.trim().split_once('\n').unwrap();
    assert_eq!(first, second);
}

#[test]
fn an_array_accounts_for_every_task_while_others_can_look() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &["--slots", "8"]);
    let done = cluster.site.path().join("done");
    let script = format!("echo $CLUSTERCTL_TASK >> {}; [ $((CLUSTERCTL_TASK % 500)) != 0 ]", done.display());
    let id = cluster.operator.run(["submit", "--array", "1-2000", &script]).ok();
    let id = id.trim();
    wait_until("it is under way", || tally(&done).len() > 50);

    let listed = cluster.operator.run(["jobs", "-q"]).ok();

    assert_eq!(listed.trim(), id);
    assert_eq!(cluster.operator.run(["wait", id]).code, 1);
    assert_eq!(tally(&done), (1..=2000).collect::<Vec<_>>());
    let job = cluster.operator.job(id);
    assert_eq!((&job["tasks"]["done"], &job["tasks"]["failed"]), (&1996.into(), &4.into()));
    let again = cluster.operator.run(["retry", "--failed-of", id]).ok();
    assert_eq!(cluster.operator.run(["wait", again.trim()]).code, 1);
    assert_eq!(cluster.operator.job(again.trim())["array"], "500,1000,1500,2000");
}

#[test]
fn an_array_runs_no_more_tasks_at_a_time_than_it_allows() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &["--slots", "4"]);
    let directory = cluster.site.path().join("present");
    std::fs::create_dir(&directory).unwrap();
    let script = format!("cd {}; touch $$; ls | wc -l; sleep 0.02; rm $$", directory.display());

    let counted = cluster.operator.run(["run", "--array", "1-30%2", &script]).ok();

    assert!(counted.lines().all(|line| line == "1" || line == "2"), "{counted}");
}

#[test]
fn a_higher_priority_goes_first() {
    let mut cluster = Cluster::start();
    let order = cluster.site.path().join("order");
    for priority in ["-5", "0", "100"] {
        let script = format!("echo {priority} >> {}", order.display());
        cluster.operator.run(["submit", "--priority", priority, &script]).ok();
    }

    cluster.join("w1", &["--slots", "1"]);

    assert_eq!(cluster.operator.run(["wait", "1-3"]).code, 0);
    assert_eq!(std::fs::read_to_string(order).unwrap(), "100\n0\n-5\n");
}

#[test]
fn why_tells_what_is_missing_and_what_there_is() {
    let mut cluster = Cluster::start();
    let id = cluster.operator.run(["submit", "--where", "gpu=h100 && os=linux", "true"]).ok();
    let id = id.trim();
    assert_eq!(cluster.operator.run(["why", id]).ok(), "1 queued: no worker is connected\n");
    cluster.join("w1", &["--label", "gpu=a100"]);

    let why = cluster.operator.run(["why", id]).ok();

    insta::assert_snapshot!(why, @r"
    1 queued: no worker can run it: gpu=h100 && os=linux
      gpu=h100: 0 of 1 workers have it; seen: gpu=a100 ×1
    ");
}

#[test]
fn a_worker_that_is_gone_leaves_its_job_unknown_until_somebody_decides() {
    let mut cluster = Cluster::faster(30);
    let worker = cluster.join("w1", &[]);
    let id = cluster.operator.run(["submit", "sleep 1000"]).ok();
    let id = id.trim();
    cluster.operator.wait_for_state(id, "running");
    cluster.worker(worker).signal(libc::SIGSTOP);
    cluster.operator.wait_for_state(id, "unknown");
    let why = cluster.operator.run(["why", id]).ok();
    assert!(why.contains("it goes on if the worker returns; abandon it if it never will"), "{why}");

    assert_eq!(cluster.operator.run(["abandon", id]).ok(), "abandoned 1\n");

    assert_eq!(cluster.operator.job(id)["outcome"], "lost");
    assert_eq!(cluster.operator.run(["wait", id]).code, 125);
}

#[test]
fn with_retries_a_lost_attempt_starts_elsewhere_when_its_lease_is_over() {
    let mut cluster = Cluster::faster(30);
    let first = cluster.join("w1", &[]);
    let id = cluster
        .operator
        .run([
            "submit",
            "--retries",
            "2",
            "echo $CLUSTERCTL_WORKER; [ $CLUSTERCTL_ATTEMPT = 2 ] || sleep 1000",
        ])
        .ok();
    let id = id.trim();
    wait_until("its output is kept", || cluster.operator.run(["logs", id]).stdout == "w1\n");

    // Its executor goes on, and must end the attempt by its own clock.
    kill(cluster.worker(first).pid(), libc::SIGKILL);
    cluster.worker(first).wait();
    cluster.join("w2", &[]);

    assert_eq!(cluster.operator.run(["wait", id]).code, 0);
    assert_eq!(
        (&cluster.operator.job(id)["attempt"], &cluster.operator.job(id)["worker"]),
        (&2.into(), &"w2".into())
    );
    assert!(
        census::carrying("CLUSTERCTL_ATTEMPT=1").is_empty() || !cluster.site.detached("executor").is_empty()
    );
    assert_eq!(cluster.operator.run(["logs", id]).stdout, "w1\nw2\n");
}
