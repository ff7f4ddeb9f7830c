//! Exit codes, errors, and what each verb prints.

use std::process::Stdio;

use crate::cluster::{Cluster, Process, Site, wait_until};

#[test]
fn every_exit_code_is_the_jobs_own() {
    let site = Site::new();
    let home = site.home("ann");
    let script = "exit $CLUSTERCTL_TASK";
    let array = home.run(["submit", "--array", "0-255", script]).ok();
    assert_eq!(home.run(["wait", array.trim()]).code, 1);

    for code in [0, 1, 2, 3, 4, 5, 6, 7, 101, 124, 125, 126, 127, 128, 130, 255] {
        let script = format!("exit {code}");
        assert_eq!(home.run(["run", &script]).code, code);
        assert_eq!(home.run_with_input([], script.as_bytes()).code, code);
        assert_eq!(home.run(["wait", "last"]).code, code);
    }
    assert_eq!(home.run(["run", "no-such-program"]).code, 127);
    assert_eq!(home.run(["run", "/etc/passwd"]).code, 126);
    assert_eq!(home.run(["run", "kill -TERM $$"]).code, 143);
}

#[test]
fn scripts_come_from_arguments_files_and_standard_input() {
    let site = Site::new();
    let home = site.home("ann");
    std::fs::write(home.path().join("build.sh"), "printf '%s|' \"$0\" \"$@\"; echo").unwrap();

    assert_eq!(home.run(["run", "echo", "several", "words"]).ok(), "several words\n");
    assert_eq!(home.run(["run", "-f", "build.sh", "a", "b c", "--flag"]).ok(), "bash|a|b c|--flag|\n");
    assert_eq!(home.run_with_input(["run", "-"], b"echo from stdin").ok(), "from stdin\n");
    assert_eq!(home.run_with_input([], b" \n").ok(), "");
    assert_eq!(home.run(["jobs", "-q"]).ok(), "1\n2\n3\n");
}

#[test]
fn a_script_longer_than_an_argument_may_be_runs_as_it_is() {
    let site = Site::new();
    let home = site.home("ann");
    let script = format!("echo begin\n# {}\necho \"$# $1\"", "x".repeat(300_000));
    std::fs::write(home.path().join("long.sh"), script).unwrap();

    assert_eq!(home.run(["run", "-f", "long.sh", "one"]).ok(), "begin\n1 one\n");
    std::fs::write(home.path().join("long.sh"), vec![b'#'; 3 << 20]).unwrap();
    let refused = home.run(["run", "-f", "long.sh"]);
    assert_eq!(refused.code, 2);
    assert_eq!(
        refused.stderr.lines().next(),
        Some("error: script and environment are 3.0 MiB, the limit is 1 MiB")
    );
}

#[test]
fn lines_of_standard_input_are_a_persons_with_repl() {
    let site = Site::new();
    let home = site.home("ann");
    let typed = "echo one\nfor i in a b; do\n  echo $i\ndone\ncd /\npwd | grep -c clusterctl\nexit 4\n";

    let done = home.run_with_input(["--repl"], typed.as_bytes());

    assert_eq!((done.code, done.stdout.as_str()), (4, "one\na\nb\n1\n"));
    assert_eq!(home.run(["jobs", "-q"]).ok(), "1\n2\n3\n4\n5\n");
}

#[test]
fn what_is_mistyped_is_told_with_a_way_out() {
    let site = Site::new();
    let home = site.home("ann");
    home.run(["run", "true"]).ok();
    let told = |args: &[&str]| {
        let done: crate::cluster::Done = home.command(args).output().unwrap().into();
        format!("{}{}exit {}", done.stdout, done.stderr, done.code)
    };

    insta::assert_snapshot!(told(&["run", "--where", "gpu=a100 spot", "true"]), @r"
    error: cannot read the constraint at column 10
      where: gpu=a100 spot
                      ^ expected && or || or the end
      code: bad-constraint
    exit 2
    ");
    insta::assert_snapshot!(told(&["logs", "99"]), @r"
    error: no job 99 (newest is 1)
      code: no-such-job
      hint: clusterctl jobs --all
    exit 3
    ");
    insta::assert_snapshot!(told(&["wait", "99"]), @r"
    error: no job 99 (newest is 1)
      code: no-such-job
      hint: clusterctl jobs --all
    exit 125
    ");
    insta::assert_snapshot!(told(&["--pool", "nowhere", "jobs"]), @r#"
    error: no pool "nowhere" is configured
      known: none
      code: no-such-context
      hint: clusterctl context add NAME HOST:PORT --token CCT1-c-…
    exit 3
    "#);
    insta::assert_snapshot!(told(&["run", "--array", "5-1", "true"]), @r#"
    error: "5-1" is no array (a range runs backwards); write it as 1-1000, 1-5,8,10-12 or 1-1000%8
      code: usage
    exit 2
    "#);
    let unknown_option = told(&["run", "--tiemout", "3s", "sleep 9"]);
    assert!(unknown_option.contains("--timeout") && unknown_option.ends_with("exit 2"), "{unknown_option}");
}

#[test]
fn the_end_of_a_job_is_told_as_json_with_stable_names() {
    let site = Site::new();
    let home = site.home("ann");
    home.run(["run", "--name", "first", "--priority", "3", "exit 2"]);

    let line = home.run(["jobs", "--output", "ndjson", "--state", "failed"]).ok();

    let job: serde_json::Value = serde_json::from_str(&line).unwrap();
    let names: Vec<&str> = job.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "v",
            "id",
            "owner",
            "name",
            "state",
            "outcome",
            "reason",
            "exit",
            "signal",
            "worker",
            "attempt",
            "queued_s",
            "run_s",
            "cpu_s",
            "peak_memory_bytes",
            "submitted",
            "started",
            "ended",
            "where",
            "priority",
            "array",
            "tasks",
            "script"
        ]
    );
    assert_eq!((&job["v"], &job["exit"], &job["name"]), (&1.into(), &2.into(), &"first".into()));
    assert_eq!((&job["state"], &job["outcome"]), (&"failed".into(), &"exited".into()));
}

#[test]
fn errors_are_json_where_results_are() {
    let site = Site::new();
    let home = site.home("ann");

    let refused = home.run(["show", "7", "--output", "json"]);

    let error: serde_json::Value = serde_json::from_str(&refused.stderr).unwrap();
    assert_eq!((&error["v"], &error["error"]["code"]), (&1.into(), &"no-such-job".into()));
    assert_eq!((refused.code, refused.stdout.as_str()), (3, ""));
}

#[test]
fn an_array_that_fails_shows_its_first_failure() {
    let site = Site::new();
    let home = site.home("ann");
    let script = "echo out $CLUSTERCTL_TASK; [ $CLUSTERCTL_TASK != 3 ] || { echo bad seed >&2; exit 9; }";

    let done = home.run(["run", "--array", "1-4", script]);

    assert_eq!(done.code, 1);
    let mut out: Vec<&str> = done.stdout.lines().collect();
    out.sort_unstable();
    assert_eq!(out, ["out 1", "out 2", "out 3", "out 4"]);
    assert!(done.stderr.contains("1 failed: 3 ok, 1 failed (1.3) · "), "{done:?}");
    assert!(
        done.stderr.contains("  first failure, 1.3 on local, exit 9, last lines of stderr:\n    bad seed\n")
    );
    let failed = home.run(["logs", "1", "--failed", "--tag"]);
    assert_eq!((failed.stdout.as_str(), failed.stderr.as_str()), ("1.3│out 3\n", "1.3│bad seed\n"));
}

#[test]
fn interrupting_run_cancels_its_job_and_hanging_up_does_not() {
    let site = Site::new();
    let home = site.home("ann");
    for (signal, code, state) in [(libc::SIGINT, 130, "cancelled"), (libc::SIGTERM, 143, "cancelled")] {
        let mut run = Process::start(home.command(["run", "echo up; sleep 1000"]).stdout(Stdio::piped()));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut run.stdout(), &mut line).unwrap();

        run.signal(signal);

        assert_eq!(run.wait(), code);
        assert_eq!(home.job("last")["state"], state);
    }
    let mut run = Process::start(home.command(["run", "echo up; sleep 1000"]).stdout(Stdio::piped()));
    let mut line = String::new();
    let mut stdout = run.stdout();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();

    run.signal(libc::SIGHUP);
    run.wait();

    assert_eq!(home.job("last")["state"], "running");
    home.run(["cancel", "last", "--kill"]).ok();
}

#[test]
fn a_closed_standard_output_cancels_the_job_of_run() {
    let site = Site::new();
    let home = site.home("ann");
    let mut run = Process::start(
        home.command(["run", "while :; do echo line; sleep 0.01; done"]).stdout(Stdio::piped()),
    );
    let mut stdout = run.stdout();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();

    drop(stdout);

    assert_eq!(run.wait(), 141);
    wait_until("it is cancelled", || home.job("last")["state"] == "cancelled");
}

#[test]
fn a_second_pool_on_the_same_state_says_who_has_it() {
    let cluster = Cluster::start();

    let refused = cluster.operator.run(["pool", "serve", "--name", "lab", "--listen", "127.0.0.1:0"]);

    let state = cluster.operator.state().join("lab");
    let pid = cluster.pool_pid();
    let expected =
        format!("error: another pool is already using {} (pid {pid})\n  code: db-locked\n", state.display());
    assert_eq!((refused.code, refused.stderr), (6, expected));
}

#[test]
fn a_port_in_use_is_told_with_who_has_it() {
    let cluster = Cluster::start();
    let other = cluster.site.home("other");

    let refused = other.run(["pool", "serve", "--name", "two", "--listen", &cluster.address]);

    let first = format!(
        "error: cannot listen on {}: address already in use (by pid {}, clusterctl)",
        cluster.address,
        cluster.pool_pid()
    );
    assert_eq!((refused.code, refused.stderr.lines().next()), (1, Some(first.as_str())));
    assert!(refused.stderr.contains("  code: port-in-use\n  hint: --listen HOST:PORT\n"), "{refused:?}");
}

#[test]
fn a_configured_pool_that_does_not_answer_is_an_error_and_never_another_pool() {
    let mut cluster = Cluster::start();
    let client = cluster.client("ann");
    cluster.kill_pool();

    let refused = client.run(["run", "true"]);

    assert_eq!(refused.code, 125);
    let address = &cluster.address;
    let first = format!("error: cannot reach pool \"lab\" at {address}: connection refused");
    assert_eq!(refused.stderr.lines().next(), Some(first.as_str()));
    assert_eq!(client.run(["jobs"]).code, 4);
    assert!(cluster.site.detached("--background").is_empty());
}

#[test]
fn another_owners_job_cannot_be_told_from_one_that_does_not_exist() {
    let cluster = Cluster::start();
    let (ann, bob) = (cluster.client("ann"), cluster.client("bob"));
    let id = ann.run(["submit", "true"]).ok();

    let (theirs, none) = (bob.run(["show", id.trim()]), bob.run(["show", "999"]));

    assert_eq!(theirs.stderr.replace("job 1 ", "job 999 "), none.stderr);
    assert_eq!((theirs.code, bob.run(["jobs"]).ok().as_str()), (3, "no jobs\n"));
    assert_eq!(bob.run(["cancel", id.trim()]).code, 3);
    assert!(cluster.operator.run(["jobs", "-q"]).ok().contains(id.trim()));
}

#[test]
fn control_characters_of_a_job_never_reach_a_table() {
    let site = Site::new();
    let home = site.home("ann");
    home.run(["submit", "printf x # \x1b[31mred\x07"]).ok();

    let table = home.run(["jobs"]).ok();

    assert!(table.contains("?[31mred?") && !table.contains('\x1b'), "{table}");
}

#[test]
fn a_run_that_no_worker_can_take_says_so_once_also_where_no_person_watches() {
    let mut cluster = Cluster::start();
    let said = cluster.site.path().join("said");
    let mut command = cluster.operator.command(["run", "--label", "gpu=a100", "exit 3"]);
    let mut run = Process::start(command.stderr(std::fs::File::create(&said).unwrap()));
    let told = || std::fs::read_to_string(&said).unwrap();

    wait_until("it says why it waits", || !told().is_empty());
    cluster.join("w1", &["--label", "gpu=a100"]);

    assert_eq!(run.wait(), 3);
    let told = told();
    assert!(told.starts_with("1 queued · no worker ") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_wait_whose_time_is_over_says_how_far_the_jobs_are() {
    let cluster = Cluster::start();
    cluster.operator.run(["submit", "true"]).ok();
    cluster.operator.run(["submit", "true"]).ok();

    let one = cluster.operator.run(["wait", "1", "--timeout", "10ms"]);
    let both = cluster.operator.run(["wait", "1-2", "--timeout", "10ms"]);

    assert_eq!((one.code, one.stderr.as_str()), (124, "after 0.0s: 1 queued\n"));
    assert_eq!((both.code, both.stderr.as_str()), (124, "after 0.0s: 1 queued, 2 queued\n"));
}

#[test]
fn a_task_is_answered_for_by_its_own_name_and_its_own_state() {
    let mut cluster = Cluster::start();
    let operator = cluster.operator.clone();
    operator.run(["submit", "--array", "1-5", "[ $CLUSTERCTL_TASK != 3 ]"]).ok();
    let why = |task: &str| operator.run(["why", task]);

    assert!(why("1.5").ok().starts_with("1.5 queued: "));
    operator.run(["cancel", "1.5"]).ok();
    assert_eq!(why("1.5").ok(), "1.5 cancelled: it was cancelled before it started\n");
    cluster.join("w1", &[]);
    operator.run(["wait", "1"]);

    assert_eq!(why("1.3").ok(), "1.3 failed: it has ended: exit 1\n");
    assert_eq!(why("1.4").ok(), "1.4 done: it has ended: exit 0\n");
    assert_eq!(why("1.5").ok(), "1.5 cancelled: it was cancelled before it started\n");
    let none = why("1.6");
    assert_eq!((none.code, none.stderr.lines().next()), (3, Some("error: job 1 has no such task")));
    assert_eq!(why("1.1-4").code, 2);
}

#[test]
fn an_attempt_that_there_was_not_is_an_error_that_names_those_that_there_were() {
    let site = Site::new();
    let home = site.home("ann");
    home.run(["run", "echo hello"]).ok();

    let second = home.run(["logs", "1", "--attempt", "2"]);

    let expected = "error: 1 has had no attempt 2: there is attempt 1 alone\n  code: no-such-attempt\n";
    assert_eq!((second.code, second.stderr.as_str()), (3, expected));
    assert_eq!(home.run(["logs", "1", "--attempt", "1"]).ok(), "hello\n");
    assert_eq!(home.run(["logs", "1", "--attempt", "0"]).code, 2);
}

#[test]
fn a_job_that_was_cancelled_while_it_waited_is_told_as_that() {
    let cluster = Cluster::start();
    let operator = cluster.operator.clone();
    operator.run(["submit", "true"]).ok();
    operator.run(["submit", "--array", "1-5", "true"]).ok();
    operator.run(["cancel", "1", "2"]).ok();

    assert_eq!(operator.run(["why", "1.0"]).ok(), "1.0 cancelled: it was cancelled before it started\n");
    for id in ["1", "2", "2.3"] {
        let logs = operator.run(["logs", "--attempt", "1", id]);
        let expected = format!("error: {id} has had no attempt 1: it never started");
        assert_eq!((logs.code, logs.stderr.lines().next()), (3, Some(expected.as_str())));
    }
    for line in [["why", "1.1", "--"], ["logs", "--attempt=1", "2.6"]] {
        let none = operator.run(line);
        assert!(none.code == 3 && none.stderr.contains("has no such task"), "{}", none.stderr);
    }
}

#[test]
fn an_array_is_looked_through_for_an_attempt_only_when_nothing_came_of_it() {
    let site = Site::new();
    let home = site.home("ann");
    home.run(["run", "--array", "1,3,5", "echo $CLUSTERCTL_TASK"]).ok();
    let logs = |attempt: &str| home.run(["logs", "1", "--attempt", attempt]);

    assert_eq!(logs("1").ok().lines().count(), 3);
    let expected = "error: 1 has had no attempt 2: there is attempt 1 alone\n  code: no-such-attempt\n";
    assert_eq!((logs("2").code, logs("2").stderr.as_str()), (3, expected));
}

#[test]
fn a_job_that_there_is_not_is_told_as_that_however_short_the_wait() {
    let cluster = Cluster::start();

    let done = cluster.operator.run(["wait", "99", "--timeout", "1ms"]);

    assert!(done.code == 125 && done.stderr.starts_with("error: no job 99"), "{done:?}");
}

#[test]
fn submit_offers_nothing_that_is_for_whoever_stays() {
    let site = Site::new();
    let home = site.home("ann");
    let (run, submit) = (home.run(["run", "--help"]).ok(), home.run(["submit", "--help"]).ok());

    for option in ["--tag", "--exit", "--detach"] {
        assert!(run.contains(option) && !submit.contains(option), "{submit}");
    }
    assert!(submit.contains("--no-wait") && submit.contains("--file"), "{submit}");
}
