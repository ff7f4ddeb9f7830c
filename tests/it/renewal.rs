//! Keys change without an outage: those of holders and that of the pool, with jobs running and somebody away.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::cluster::{Cluster, Done, Home, Process, join, wait_until};

/// Writes what it is, waits for a gate, writes on, and exits with 7.
fn gated(gate: &Path) -> String {
    format!("echo begun; while [ ! -e {} ]; do sleep 0.02; done; echo done; exit 7", gate.display())
}

/// Submits a job to a worker, and waits until it has written something.
fn begin(home: &Home, worker: &str, script: &str) -> String {
    let id = home.run(["submit", "--on", worker, script]).ok().trim().to_owned();
    wait_until("it has begun", || home.run(["logs", &id]).stdout == "begun\n");
    id
}

/// What became of a job, and how often it was started.
fn end(home: &Home, id: &str) -> (Done, String, serde_json::Value) {
    let waited = home.run(["wait", id]);
    (waited, home.run(["logs", id]).ok(), home.job(id)["attempt"].clone())
}

#[track_caller]
fn ended_once(home: &Home, id: &str) {
    let (waited, output, attempt) = end(home, id);
    assert_eq!((waited.code, output.as_str(), attempt), (7, "begun\ndone\n", 1.into()));
}

/// A copy of a home, as a thief has it.
fn stolen(cluster: &Cluster, home: &Home, name: &str) -> Home {
    let thief = cluster.site.home(name);
    let copied =
        std::process::Command::new("cp").arg("-a").arg(home.path().join(".")).arg(thief.path()).status();
    assert!(copied.unwrap().success());
    thief
}

fn gate(cluster: &Cluster) -> PathBuf {
    cluster.site.path().join("gate")
}

fn renew_pool_key(cluster: &Cluster, overlap: &str) -> String {
    cluster.operator.run(["pool", "identity", "renew", "--overlap", overlap, "-q"]).ok().trim().to_owned()
}

fn known(home: &Home, file: &str, key: &str) -> bool {
    let text = std::fs::read_to_string(home.path().join(file)).unwrap_or_default();
    text.contains(key.trim_start_matches("sha256:"))
}

const CONTEXTS: &str = ".config/clusterctl/config.toml";
const POOLS: &str = "data/clusterctl/worker-pools.toml";

#[test]
fn a_pool_has_another_key_while_jobs_run_and_a_worker_and_a_client_are_away() {
    let mut cluster = Cluster::start();
    cluster.join("near", &[]);
    let away = cluster.join("away", &[]);
    let (ann, bob, old_token) = (cluster.client("ann"), cluster.client("bob"), cluster.token("--client"));
    let gate = gate(&cluster);
    let (here, there) = (begin(&ann, "near", &gated(&gate)), begin(&ann, "away", &gated(&gate)));
    let follower = ann.command(["logs", "-f", &here]).stdout(Stdio::piped()).spawn().unwrap();
    cluster.worker(away).signal(libc::SIGKILL);

    let first = renew_pool_key(&cluster, "1h");
    let key = renew_pool_key(&cluster, "1h");
    assert_ne!(first, key);
    // Who is connected hears of it, who comes by the old key too, and both keep it.
    wait_until("the worker knows it", || known(&cluster.site.home("near"), POOLS, &key));
    assert_eq!(ann.run(["whoami"]).code, 0);
    assert!(known(&ann, CONTEXTS, &key));
    std::fs::write(&gate, "").unwrap();
    ended_once(&ann, &here);
    let followed: Done = follower.wait_with_output().unwrap().into();
    assert_eq!((followed.code, followed.stdout.as_str()), (0, "begun\ndone\n"));

    // The pool's death in between changes nothing.
    cluster.kill_pool();
    cluster.restart_pool();
    let _agent = join(&cluster.site.home("away"), &cluster.address, "away", &[]);
    ended_once(&ann, &there);
    wait_until("it knows it", || known(&cluster.site.home("away"), POOLS, &key));
    assert_eq!(bob.run(["jobs"]).code, 0);
    assert!(known(&bob, CONTEXTS, &key));
    // A token that names the old key lets in, and the key that is kept is the new one.
    let carl = cluster.site.home("carl");
    carl.run(["context", "add", "lab", &cluster.address, "--as", "carl", "--token", &old_token]).ok();
    assert!(known(&carl, CONTEXTS, &key));
    let trail = cluster.operator.run(["audit"]).ok();
    assert_eq!(trail.matches("pool key renewed").count(), 2);
}

#[test]
fn a_pool_answers_to_a_former_key_until_its_day_and_no_longer() {
    let cluster = Cluster::start();
    let (ann, bob) = (cluster.client("ann"), cluster.client("bob"));

    renew_pool_key(&cluster, "1h");
    assert_eq!(ann.run(["jobs"]).code, 0);
    let key = renew_pool_key(&cluster, "0s");

    // To the first it answers still, and bob learns of the third by it; ann knows the second alone.
    assert_eq!(bob.run(["jobs"]).code, 0);
    assert!(known(&bob, CONTEXTS, &key));
    let refused = ann.run(["jobs"]);
    assert_eq!(refused.code, 4);
    assert!(refused.stderr.contains("code: key-mismatch"), "{}", refused.stderr);
}

#[test]
fn a_client_replaces_its_key_and_a_copy_of_the_old_one_is_worth_nothing() {
    let mut cluster = Cluster::start();
    cluster.join("n1", &[]);
    let ann = cluster.client("ann");
    let gate = gate(&cluster);
    let id = begin(&ann, "n1", &gated(&gate));
    let thief = stolen(&cluster, &ann, "thief");
    assert_eq!(thief.run(["whoami"]).code, 0);
    let mut spying =
        Process::start(thief.command(["logs", "-f", &id]).stdout(Stdio::null()).stderr(Stdio::null()));
    let follower = ann.command(["logs", "-f", &id]).stdout(Stdio::piped()).spawn().unwrap();

    let before = ann.run(["identity", "-q"]).ok();
    let told = ann.run(["identity", "renew"]).ok();

    let key = ann.run(["identity", "-q"]).ok();
    assert_ne!(before, key);
    assert_eq!(told, format!("this user has another key: {}\n  known to lab\n", key.trim()));
    // A thief's connection is cut, and not made again.
    assert_eq!(spying.wait(), 5);
    let refused = thief.run(["jobs"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    std::fs::write(&gate, "").unwrap();
    ended_once(&ann, &id);
    let followed: Done = follower.wait_with_output().unwrap().into();
    assert_eq!((followed.code, followed.stdout.as_str()), (0, "begun\ndone\n"));
    let clients = cluster.operator.run(["clients", "--output", "json"]).ok();
    let clients: serde_json::Value = serde_json::from_str(&clients).unwrap();
    assert_eq!(clients.as_array().unwrap().len(), 1);
    assert_eq!(clients[0]["key"], key.trim());
    assert!(cluster.operator.run(["audit"]).ok().contains("key renewed"));
}

#[test]
fn a_renewal_that_was_cut_short_is_gone_on_with() {
    let cluster = Cluster::start();
    let ann = cluster.client("ann");
    let key = ann.state().join("client/key");
    let old = std::fs::read(&key).unwrap();
    ann.run(["identity", "renew"]).ok();
    let new = ann.run(["identity", "-q"]).ok();
    // As it was before its last step: one pool has taken the new key, and the old one is still the present one.
    std::fs::rename(&key, ann.state().join("client/key.next")).unwrap();
    write_private(&key, &old);

    assert_eq!(ann.run(["jobs"]).code, 0);
    assert!(ann.run(["identity"]).ok().contains(&format!("is being replaced by {}", new.trim())));
    ann.run(["identity", "renew"]).ok();

    assert_eq!(ann.run(["identity", "-q"]).ok(), new);
    assert!(!ann.state().join("client/key.next").exists());
}

fn write_private(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn no_key_is_replaced_while_a_pool_that_knows_it_is_away() {
    let mut cluster = Cluster::start();
    let ann = cluster.client("ann");
    let before = ann.run(["identity"]).ok();
    cluster.kill_pool();

    let refused = ann.run(["identity", "renew"]);

    assert_eq!(refused.code, 4);
    assert!(
        refused.stderr.contains(
            "hint: nothing has changed; if that pool is gone for good: clusterctl context remove lab"
        )
    );
    assert_eq!(ann.run(["identity"]).ok(), before);
    ann.run(["context", "remove", "lab"]).ok();
    let told = ann.run(["identity", "renew"]).ok();
    assert!(told.ends_with("\n  no pool knew the one before\n"), "{told}");
}

#[test]
fn a_worker_replaces_its_key_while_it_works_and_no_copy_of_it_does() {
    let mut cluster = Cluster::faster(10);
    let n1 = cluster.join("n1", &[]);
    let home = cluster.site.home("n1");
    let gate = gate(&cluster);
    let id = begin(&cluster.operator, "n1", &gated(&gate));
    let thief = stolen(&cluster, &home, "thief");

    let copy = thief.run(["worker", "identity", "renew"]);
    assert!(copy.stderr.contains("code: worker-elsewhere"), "{}", copy.stderr);
    let told = home.run(["worker", "identity", "renew"]).ok();

    assert!(told.starts_with("worker \"n1\" of pool \"lab\" has another key: sha256:"), "{told}");
    std::fs::write(&gate, "").unwrap();
    ended_once(&cluster.operator, &id);
    cluster.wait_for_worker("n1", "ready");
    assert_eq!(cluster.worker(n1).ended(), None);
    // The old key lets nobody in.
    let mut posing: Process = join(&thief, &cluster.address, "n1", &[]);
    assert_eq!(posing.wait(), 5);
    let log = std::fs::read_to_string(thief.path().join("worker.log")).unwrap();
    assert!(log.contains("code: auth-unknown-key"), "{log}");
    let nobody = cluster.operator.run(["worker", "identity", "renew", "--name", "n9"]);
    assert_eq!(nobody.code, 3);
}
