//! Nothing is configured: the private pool is there when it is needed, for everybody of this user, and in nobody's way.

use std::io::Read;
use std::process::Stdio;

use crate::cluster::{Home, Site, wait_until};

fn pool_pid(home: &Home) -> String {
    let status: serde_json::Value =
        serde_json::from_str(&home.run(["pool", "status", "--output", "json"]).ok()).unwrap();
    status["pid"].to_string()
}

#[test]
fn piped_text_is_one_job_with_its_streams_and_its_exit_code() {
    let site = Site::new();
    let home = site.home("ann");

    let done = home.run_with_input([], b"echo hi; echo no >&2; exit 3");

    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (3, "hi\n", "no\n"));
}

#[test]
fn whoever_started_the_private_pool_is_not_held_by_it() {
    let site = Site::new();
    let home = site.home("ann");
    let mut child =
        home.command(["run", "echo hi"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    // The ends of both pipes come although the pool lives on.
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();

    assert_eq!((child.wait().unwrap().code(), stdout.as_str(), stderr.as_str()), (Some(0), "hi\n", ""));
    let pool: i32 = pool_pid(&home).parse().unwrap();
    assert_eq!(nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pool))).unwrap().as_raw(), pool);
    assert_eq!(std::fs::read_link(format!("/proc/{pool}/cwd")).unwrap().to_str(), Some("/"));
}

#[test]
fn a_second_terminal_finds_the_same_pool_and_ids_go_on_counting() {
    let site = Site::new();
    let home = site.home("ann");
    assert_eq!(home.run(["submit", "true"]).ok(), "1\n");
    let pool = pool_pid(&home);

    assert_eq!(home.run(["submit", "true"]).ok(), "2\n");

    assert_eq!(pool_pid(&home), pool);
}

#[test]
fn two_who_start_the_private_pool_at_once_get_one_pool() {
    let site = Site::new();
    let home = site.home("ann");
    let starters: Vec<_> = (0..4)
        .map(|n| home.command(["run", &format!("echo {n}")]).stdout(Stdio::piped()).spawn().unwrap())
        .collect();

    let said: Vec<_> = starters.into_iter().map(|child| child.wait_with_output().unwrap().stdout).collect();

    assert_eq!(said, [b"0\n", b"1\n", b"2\n", b"3\n"]);
    assert_eq!(site.detached("pool serve").len(), 1);
}

#[test]
fn a_job_that_was_left_behind_ends_and_can_be_read_after_the_pool_was_stopped_and_started() {
    let site = Site::new();
    let home = site.home("ann");
    let id = home.run(["submit", "echo from yesterday; echo and an error >&2; exit 7"]).ok();
    let id = id.trim();
    home.wait_for_state(id, "failed");
    home.run(["pool", "stop"]).ok();
    wait_until("the pool is gone", || site.detached("pool serve").is_empty());

    let logs = home.run(["logs", id]);

    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("from yesterday\n", "and an error\n"));
    assert_eq!(home.job(id)["exit"], 7);
    assert_eq!(home.run(["wait", id]).code, 7);
}

#[test]
fn a_running_job_survives_the_end_of_the_private_pool_with_its_pid() {
    let site = Site::new();
    let home = site.home("ann");
    let go = home.path().join("go");
    let script = format!("echo $$; while [ ! -e {} ]; do sleep 0.01; done; echo $$", go.display());
    let id = home.run(["submit", &script]).ok();
    let id = id.trim();
    wait_until("it runs", || home.run(["logs", id]).stdout.lines().count() == 1);
    home.run(["pool", "stop"]).ok();

    std::fs::write(&go, "").unwrap();

    assert_eq!(home.run(["wait", id]).code, 0);
    let logs = home.run(["logs", id]).stdout;
    let pids: Vec<&str> = logs.lines().collect();
    assert_eq!(pids.len(), 2);
    assert_eq!(pids[0], pids[1]);
}

#[test]
fn an_idle_private_pool_ends_by_itself_and_takes_its_worker_along() {
    let site = Site::faster(600);
    let home = site.home("ann");
    home.run(["run", "true"]).ok();

    wait_until("nothing of it is left", || site.detached("").is_empty());

    assert_eq!(home.run(["submit", "true"]).ok(), "2\n");
}

#[test]
fn without_a_home_the_error_says_what_to_do() {
    let site = Site::new();
    let home = site.home("ann");
    let mut command = home.command(["jobs"]);
    command.env_remove("HOME").env_remove("XDG_DATA_HOME");
    if nix::unistd::Uid::current().is_root() {
        // Root has a place of its own.
        return;
    }

    let done: crate::cluster::Done = command.output().unwrap().into();

    // Most users have a home in the user database, and some of these are not there.
    assert!(done.code == 0 || done.stderr.ends_with("\n  hint: --state DIR\n"), "{done:?}");
}
