//! What was mistyped, or cannot be: it is refused at once, and the words name what is wrong.

use std::path::Path;

use crate::cluster::{Cluster, Site, join, pool_command, serving, wait_until};

/// A name that is none, so that no name server is asked.
const NOWHERE: &str = "nowhere..invalid:7700";

#[test]
fn an_address_that_can_never_be_reached_is_mistyped() {
    let site = Site::new();
    let home = site.home("ann");
    for args in [
        &["worker", "join", "head:99999", "--allow-root"][..],
        &["worker", "install", "head:0", "--allow-root"],
        &["worker", "doctor", "head:x"],
        &["context", "add", "lab", "head:65536", "--token", "CCT1-c-x"],
        &["pool", "serve", "--name", "lab", "--listen", "127.0.0.1:65536"],
        &["pool", "install", "--name", "lab", "--listen", "bogus"],
        &["pool", "install", "--name", "lab", "--listen", "nowhere..invalid:7700"],
    ] {
        let done: crate::cluster::Done = home.command(args).output().unwrap().into();

        assert_eq!(done.code, 2, "{args:?} {done:?}");
        assert!(!home.path().join(".config/systemd").exists());
    }
}

#[test]
fn a_host_that_does_not_resolve_fails_a_command_and_a_worker_says_what_it_waits_for() {
    let cluster = Cluster::start();
    let ann = cluster.client("ann");
    let config = ann.path().join(".config/clusterctl/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&cluster.address, NOWHERE)).unwrap();

    let (jobs, run) = (ann.run(["jobs"]), ann.run(["run", "true"]));

    assert_eq!((jobs.code, run.code), (4, 125), "{jobs:?} {run:?}");
    let first = format!(
        "error: cannot reach pool \"lab\" at {NOWHERE}: the name nowhere..invalid does not resolve ("
    );
    assert!(jobs.stderr.starts_with(&first), "{jobs:?}");
    let home = cluster.site.home("n1");
    let _worker = join(&home, NOWHERE, "n1", &["--token", &cluster.token("--worker")]);
    wait_until("the worker says why it waits", || {
        let log = std::fs::read_to_string(home.path().join("worker.log")).unwrap();
        log.contains("waiting for the pool at ") && log.contains("the name nowhere..invalid does not resolve")
    });
}

#[test]
fn whoever_cannot_use_a_file_or_directory_names_it_in_words() {
    let cluster = Cluster::start();
    let home = cluster.site.home("ann");
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (file, lab) = (file.to_str().unwrap(), cluster.address.as_str());
    let below = format!("{file}/below");
    let operator = |args: &[&str]| cluster.operator.command(args).output().unwrap().into();
    let ann = |args: &[&str]| home.command(args).output().unwrap().into();
    let token = cluster.token("--worker");
    let told: [(crate::cluster::Done, String); 8] = [
        (
            ann(&["pool", "serve", "--name", "a", "--listen", "127.0.0.1:0", "--state", file]),
            format!("cannot use {file}/a: not a directory"),
        ),
        (ann(&["--state", file, "run", "true"]), format!("cannot make {file}/")),
        (
            ann(&["--state", file, "worker", "join", lab, "--allow-root", "--token", &token]),
            format!("cannot read {file}/"),
        ),
        (
            ann(&["worker", "join", lab, "--allow-root", "--token", &token, "--work-dir", "/nope"]),
            "jobs cannot have their directories in /nope: no such file or directory".to_owned(),
        ),
        (
            ann(&["worker", "join", lab, "--allow-root", "--token", &token, "--work-dir", file]),
            format!("jobs cannot have their directories in {file}: it is no directory"),
        ),
        (
            ann(&["worker", "join", lab, "--allow-root", "--token", "@/nope"]),
            "cannot read /nope: no such file or directory".to_owned(),
        ),
        (
            operator(&["pool", "backup", &below]),
            format!("no backup was made: cannot use {below}: not a directory"),
        ),
        (
            operator(&["pool", "backup", file]),
            format!("no backup was made: cannot use {file}: it is there already"),
        ),
    ];
    for (done, words) in told {
        assert!(done.code != 0 && done.stderr.contains(&words), "{words}: {done:?}");
        assert!(!done.stderr.contains("os error"), "{done:?}");
    }
}

#[test]
fn a_workers_name_is_no_label_and_one_that_is_taken_is_answered_with_how_to_take_another() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let home = cluster.site.home("another");
    let token = cluster.token("--worker");
    let join = |more: &[&str]| -> crate::cluster::Done {
        let given = ["worker", "join", cluster.address.as_str(), "--token", &token, "--allow-root"];
        home.command(given.iter().chain(more)).output().unwrap().into()
    };

    let labelled = join(&["--label", "name=n7"]);
    let taken = join(&["--name", "w1"]);

    assert_eq!(labelled.code, 2, "{labelled:?}");
    assert!(labelled.stderr.contains("the label \"name\" is always the worker's name"), "{labelled:?}");
    assert!(labelled.stderr.contains("hint: --name n7"), "{labelled:?}");
    assert!(taken.stderr.contains("code: name-taken\n  hint: --name NAME gives it another"), "{taken:?}");
}

#[test]
fn a_pool_that_lives_keeps_its_context_and_one_that_does_not_is_told_of() {
    let mut cluster = Cluster::start();
    let operator = cluster.operator.clone();
    let first = operator.state().join("lab");
    let other = operator.path().join("other");
    let serve = || {
        let mut command = pool_command(&operator, "127.0.0.1:0");
        command.arg("--state").arg(&other);
        let (pool, _) = serving(&operator, command);
        (pool, std::fs::read_to_string(operator.path().join("pool.log")).unwrap())
    };
    let meant = || operator.run(["context", "list"]).ok();
    let means = |state: &Path| meant().contains(&format!(" {}\n", state.display()));

    let (pool, said) = serve();
    let kept = format!("warning: \"lab\" goes on to mean the pool at {} here (to have", first.display());
    assert!(said.contains(&kept) && means(&first), "{said}{}", meant());
    pool.kill();
    cluster.kill_pool();
    let (_pool, said) = serve();

    let moved = format!("\"lab\" means this pool now; before, the one in {}\n", first.display());
    assert!(said.contains(&moved) && means(&other.join("lab")), "{said}{}", meant());
}
