//! `doctor` and `worker doctor`: what is well, and what each thing that is not well looks like.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::cluster::{Cluster, Done, Home, Process, Site, pool_command, serving};

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The lines about one thing.
fn about(done: &Done, what: &str) -> Vec<String> {
    let of = |line: &&str| line.split_whitespace().nth(1) == Some(what);
    done.stdout.lines().filter(of).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The only line about one thing.
#[track_caller]
fn line(done: &Done, what: &str) -> String {
    let mut lines = about(done, what);
    assert_eq!(lines.len(), 1, "{what}: {done:?}");
    lines.remove(0)
}

#[track_caller]
fn assert_begins(line: &str, beginning: &str) {
    assert!(line.starts_with(beginning), "{line}\n{beginning}");
}

#[test]
fn a_private_pool_that_does_not_run_is_well_and_is_not_started() {
    let site = Site::new();
    let home = site.home("ann");

    let done = home.run(["doctor"]);

    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(line(&done, "network"), "ok network the private pool is not running, it starts by itself");
    assert!(site.detached("--background").is_empty());
    assert_eq!(std::fs::read_dir(home.path().join("data")).unwrap().count(), 0);
    home.run(["run", "true"]).ok();
    let done = home.run(["doctor"]);
    assert_begins(&line(&done, "network"), "ok network the private pool runs on this machine, round trip ");
    assert_eq!(
        line(&done, "isolation"),
        "ok isolation local runs as the pool's user, and takes its jobs alone"
    );
    assert_eq!(done.code, 0, "{done:?}");
}

#[test]
fn a_client_that_is_well_is_told_so_by_one_line_a_check() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let ann = cluster.client("ann");

    let done = ann.run(["doctor"]);

    let told: Vec<&str> = done.stdout.lines().map(|line| line[6..].split(' ').next().unwrap()).collect();
    assert_eq!(
        told,
        [
            "client",
            "network",
            "auth",
            "output",
            "disk",
            "workers",
            "isolation",
            "bash",
            "keys",
            "state",
            "history"
        ]
    );
    let network = format!("ok network {} reachable, key fingerprint matches, round trip ", cluster.address);
    assert_begins(&line(&done, "network"), &network);
    assert_eq!(line(&done, "auth"), "ok auth known to the pool as ann (jobs of ann)");
    assert_eq!(line(&done, "workers"), "ok workers 1 ready");
    // All of these run on one machine, and the fixture's workers take everybody's jobs.
    assert_begins(&line(&done, "isolation"), "warn isolation jobs of anybody on w1 can read the pool's keys");
    assert_eq!(done.code, 0, "{done:?}");
    let quiet = ann.run(["doctor", "-q"]);
    assert_eq!(quiet.stdout.lines().count(), 1, "{quiet:?}");
    let all: serde_json::Value = serde_json::from_str(&ann.run(["doctor", "--output", "json"]).ok()).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 11);
    let lines = ann.run(["doctor", "--output", "ndjson"]).ok();
    let isolation: serde_json::Value = serde_json::from_str(lines.lines().nth(6).unwrap()).unwrap();
    let names: Vec<&str> = isolation.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["v", "verdict", "what", "words", "remedy"]);
    assert_eq!((&isolation["verdict"], &isolation["what"]), (&"warn".into(), &"isolation".into()));
}

#[test]
fn a_pool_that_is_away_shows_another_key_or_does_not_know_us_fails() {
    let mut cluster = Cluster::start();
    let ann = cluster.client("ann");

    std::fs::remove_file(ann.state().join("client/key")).unwrap();
    let stranger = ann.run(["doctor"]);
    cluster.kill_pool();
    let away = ann.run(["doctor"]);
    std::fs::remove_file(cluster.operator.state().join("lab/key")).unwrap();
    cluster.restart_pool();
    let other = ann.run(["doctor"]);

    let address = &cluster.address;
    assert_eq!(
        line(&stranger, "network"),
        format!("ok network {address} reachable, key fingerprint matches")
    );
    assert_eq!(
        line(&stranger, "auth"),
        "FAIL auth the pool does not know this key. on 127.0.0.1: clusterctl token create --client"
    );
    let refused =
        format!("FAIL network cannot reach pool \"lab\" at {address}: connection refused. is it running?");
    assert_begins(&line(&away, "network"), &refused);
    let mismatch = line(&other, "network");
    assert_begins(
        &mismatch,
        "FAIL network pool \"lab\" presented a different key than before (expected sha256:",
    );
    assert!(mismatch.ends_with("clusterctl context trust lab"), "{mismatch}");
    assert_eq!((stranger.code, away.code, other.code), (1, 1, 1));
    let nowhere = ann.run(["doctor", "--pool", "nowhere"]);
    assert_begins(&line(&nowhere, "client"), "FAIL client no pool \"nowhere\" is configured");
    std::fs::write(ann.path().join(".config/clusterctl/config.toml"), "current = 7").unwrap();
    let unread = ann.run(["doctor"]);
    assert_begins(&line(&unread, "client"), "FAIL client cannot read");
    assert_eq!((nowhere.code, unread.code), (1, 1));
}

#[test]
fn keys_state_and_history_that_others_get_at_are_told_with_what_shuts_them() {
    let cluster = Cluster::start();
    let ann = cluster.client("ann");
    let (key, history) = (ann.state().join("client/key"), ann.path().join(".local/state/clusterctl/history"));

    set_mode(&key, 0o644);
    let done = ann.run(["doctor"]);
    let text = line(&done, "keys");
    assert_begins(
        &text,
        &format!("FAIL keys {} can be read by others (mode 0644). Shut it: chmod 600", key.display()),
    );
    assert_eq!(done.code, 1);
    // What it says is what helps.
    let (_, remedy) = text.split_once("Shut it: ").unwrap();
    let (command, _) = remedy.split_once(';').unwrap();
    assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
    assert_begins(&line(&ann.run(["doctor"]), "keys"), "ok keys");

    set_mode(&ann.state().join("client"), 0o770);
    let done = ann.run(["doctor"]);
    assert_begins(&line(&done, "state"), "FAIL state others can change what lies in");
    set_mode(&ann.state().join("client"), 0o755);
    assert_begins(&line(&ann.run(["doctor"]), "state"), "warn state others can look into");
    set_mode(&ann.state().join("client"), 0o700);

    std::fs::create_dir_all(&history).unwrap();
    let done = ann.run(["doctor"]);
    assert_begins(
        &line(&done, "history"),
        &format!("warn history {} cannot be written: is a dir", history.display()),
    );
    std::fs::remove_dir(&history).unwrap();
    std::fs::write(&history, "").unwrap();
    set_mode(&history, 0o644);
    assert_begins(&line(&ann.run(["doctor"]), "history"), "warn history others can read what was typed");
}

#[test]
fn a_silent_worker_fails_with_what_to_do_on_its_machine() {
    let mut cluster = Cluster::faster(10);
    let number = cluster.join("w1", &[]);
    let id = cluster.operator.run(["submit", "sleep 1000"]).ok();
    cluster.operator.wait_for_state(id.trim(), "running");

    cluster.worker(number).signal(libc::SIGKILL);
    cluster.wait_for_worker("w1", "silent");

    let done = cluster.operator.run(["doctor"]);
    let told = line(&done, "workers");
    assert_begins(&told, "FAIL workers w1 is silent for ");
    assert!(
        told.ends_with("On w1: clusterctl worker doctor; or forget it: clusterctl workers remove w1"),
        "{told}"
    );
    assert_eq!(done.code, 1);
}

#[test]
fn a_pool_near_its_output_limit_is_warned_of() {
    let site = Site::new();
    let operator = site.home("operator");
    let mut command = pool_command(&operator, "127.0.0.1:0");
    command.args(["--output-limit", "1M"]);
    let (_pool, address) = serving(&operator, command);
    let port = address.rsplit_once(':').unwrap().1;
    let _worker = crate::cluster::join(&operator, &format!("localhost:{port}"), "near", &[]);

    operator.run(["run", "head -c 900000 /dev/urandom"]);

    let done = operator.run(["doctor"]);
    let told = line(&done, "output");
    assert_begins(&told, "warn output 8");
    assert!(told.ends_with("Raise: clusterctl pool serve --output-limit 1G"), "{told}");
    // A worker that came by the socket, and takes everybody's jobs.
    assert_begins(
        &line(&done, "isolation"),
        "warn isolation jobs of anybody on near can read the pool's keys",
    );
    assert_eq!(done.code, 0, "{done:?}");
}

/// `worker doctor` in a worker's home, with a work directory of its own.
fn worker_doctor(home: &Home, more: &[&str]) -> Done {
    let mut command = home.command(["worker", "doctor", "--work-dir"]);
    command.arg(home.path()).args(more).output().unwrap().into()
}

#[test]
fn a_worker_that_is_well_is_told_so_beside_the_one_that_runs() {
    let cluster = Cluster::start();
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let before = worker_doctor(&home, &[&cluster.address]);
    let _worker = crate::cluster::join(&home, &cluster.address, "w1", &["--token", &token]);
    cluster.wait_for_worker("w1", "ready");
    let id = cluster.operator.run(["submit", "sleep 1000"]).ok();
    cluster.operator.wait_for_state(id.trim(), "running");

    let done = worker_doctor(&home, &[]);

    let stranger = format!(
        "warn auth no worker of this user has joined there. Join: clusterctl worker join {}",
        cluster.address
    );
    assert_begins(&line(&before, "auth"), &stranger);
    assert_eq!(done.code, 0, "{done:?}");
    let network = format!("ok network {} reachable, key fingerprint matches, round trip ", cluster.address);
    assert_begins(&line(&done, "network"), &network);
    assert_eq!(line(&done, "auth"), "ok auth known to pool \"lab\" as w1");
    assert_begins(&line(&done, "isolation"), "warn isolation jobs here could read the keys of pool \"lab\"");
    assert_begins(&line(&done, "bash"), "ok bash");
    assert_begins(&line(&done, "work"), &format!("ok work {} can be written", home.path().display()));
    assert_begins(&line(&done, "ending"), "ok ending child sub-reaper");
    // It has looked, and changed nothing.
    cluster.wait_for_worker("w1", "ready");
    assert_eq!(cluster.operator.job(id.trim())["state"], "running");
}

#[test]
fn what_keeps_a_worker_from_working_fails() {
    let mut cluster = Cluster::start();
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let worker = crate::cluster::join(&home, &cluster.address, "w1", &["--token", &token]);
    cluster.wait_for_worker("w1", "ready");
    worker.kill();
    let directory = std::fs::read_dir(home.state()).unwrap().flatten().map(|entry| entry.path());
    let directory = directory.into_iter().find(|path| path.is_dir()).unwrap();

    set_mode(&directory.join("key"), 0o604);
    let exposed = worker_doctor(&home, &[]);
    set_mode(&directory.join("key"), 0o600);
    set_mode(&directory, 0o702);
    let open = worker_doctor(&home, &[]);
    set_mode(&directory, 0o700);
    let no_place = home.run(["worker", "doctor", "--work-dir", "none"]);
    cluster.operator.run(["workers", "remove", "w1"]).ok();
    let removed = worker_doctor(&home, &[]);
    cluster.kill_pool();
    let away = worker_doctor(&home, &[]);
    std::fs::remove_file(cluster.operator.state().join("lab/key")).unwrap();
    cluster.restart_pool();
    let other = worker_doctor(&home, &[]);

    assert_begins(&line(&exposed, "keys"), "FAIL keys");
    assert_begins(&line(&open, "state"), "FAIL state others can change what lies in");
    assert_begins(&line(&no_place, "work"), "FAIL work no workspace can be made in");
    assert_begins(&line(&removed, "auth"), "FAIL auth the pool does not know this key");
    let address = &cluster.address;
    assert_begins(
        &line(&away, "network"),
        &format!("FAIL network cannot reach {address}: connection refused"),
    );
    assert_begins(
        &line(&other, "network"),
        &format!("FAIL network {address} presented a different key than before"),
    );
    assert!([exposed, open, no_place, removed, away, other].iter().all(|done| done.code == 1));
}

#[test]
fn a_worker_of_the_pools_own_user_is_looked_at_by_its_socket() {
    let cluster = Cluster::start();
    let port = cluster.address.rsplit_once(':').unwrap().1;

    let done = worker_doctor(&cluster.operator, &[&format!("localhost:{port}")]);

    assert_begins(&line(&done, "network"), "ok network pool \"lab\" runs on this machine, round trip");
    assert_begins(&line(&done, "isolation"), "warn isolation");
    assert_eq!(done.code, 0, "{done:?}");
}

#[test]
fn a_work_directory_without_room_or_programs_is_told() {
    if !nix::unistd::Uid::current().is_root() {
        crate::cluster::skipped("a full and a noexec work directory (run this as root)");
        return;
    }
    let site = Site::new();
    let home = site.home("w1");
    let place = home.path().join("small");
    std::fs::create_dir(&place).unwrap();
    // In a name space of its own, which ends with its process.
    let script = "mount -t tmpfs -o noexec,size=8m,mode=700 none \"$1\" && exec \"$2\" worker doctor --work-dir \"$1\"";
    let program = home.command([] as [&str; 0]).get_program().to_owned();
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&place).arg(program);
    let done: Done = match command.env("HOME", home.path()).env("XDG_DATA_HOME", home.path()).output() {
        Ok(output) => output.into(),
        Err(_) => return crate::cluster::skipped("a full and a noexec work directory: unshare is not there"),
    };
    if done.stderr.contains("unshare") || done.stderr.contains("mount") {
        return crate::cluster::skipped("a full and a noexec work directory: nothing can be mounted here");
    }

    let told = about(&done, "work");
    assert_begins(&told[0], &format!("FAIL work {} is full: 8.0 MiB free", place.display()));
    assert_begins(&told[1], &format!("warn work {} is mounted noexec", place.display()));
    assert_eq!(done.code, 1);
}

#[test]
fn a_worker_doctor_holds_no_workers_directory() {
    let cluster = Cluster::start();
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    worker_doctor(&home, &[&cluster.address]);

    assert!(!home.state().exists());
    let _worker = Process::logged(
        &home,
        crate::cluster::join_command(&home, &cluster.address, "w1", &["--token", &token]),
    );
    cluster.wait_for_worker("w1", "ready");
}
