//! A pool's state is copied while it runs, looked through, damaged, and put back.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::census;
use crate::cluster::{Cluster, wait_until};

/// What the processes of a job carry that the restored pool does not know.
const MARK: &str = "CCTL_AFTER_BACKUP=here";

fn state(cluster: &Cluster) -> PathBuf {
    cluster.operator.state().join("lab")
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// What `pool check` says: its exit code and its words.
fn check(cluster: &Cluster) -> (i32, String) {
    let checked = cluster.operator.run(["pool", "check", "--pool", "lab"]);
    (checked.code, checked.stdout + &checked.stderr)
}

#[test]
fn a_restored_backup_goes_on_and_takes_nothing_of_what_came_after_it_for_its_own() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &["--slots", "3"]);
    let ann = cluster.client("ann");
    let gate = cluster.site.path().join("gate");
    let script =
        format!("echo begun; while [ ! -e {} ]; do sleep 0.02; done; echo done; exit 7", gate.display());
    let kept = ann.run(["submit", &script]).ok();
    wait_until("it has begun", || ann.run(["logs", kept.trim()]).stdout == "begun\n");
    let backup = cluster.site.path().join("backup");

    let told = cluster.operator.run(["pool", "backup", "--pool", "lab", backup.to_str().unwrap()]).ok();

    assert!(told.starts_with(&format!("backed up to {}: ", backup.display())), "{told}");
    assert_eq!(check(&cluster).0, 0);
    let again = cluster.operator.run(["pool", "backup", "--pool", "lab", backup.to_str().unwrap()]);
    assert!(again.code == 1 && again.stderr.contains("is there already"), "{again:?}");
    let after = ann.run(["submit", "--env", MARK, "echo stale; sleep 1000"]).ok();
    wait_until("it has begun", || ann.run(["logs", after.trim()]).stdout == "stale\n");
    cluster.kill_pool();
    assert_eq!(check(&cluster).0, 0);
    std::fs::rename(state(&cluster), cluster.site.path().join("away")).unwrap();
    copy(&backup, &state(&cluster));
    cluster.restart_pool();

    // What came after the backup is nobody's; its id is given to another job, which has nothing of it.
    wait_until("what nobody knows is ended", || census::carrying(MARK).is_empty());
    let fresh = ann.run(["submit", "echo fresh"]).ok();
    assert_eq!(fresh, after);
    assert_eq!(ann.run(["wait", fresh.trim()]).code, 0);
    assert_eq!(ann.run(["logs", fresh.trim()]).ok(), "fresh\n");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(ann.run(["wait", kept.trim()]).code, 7);
    assert_eq!(ann.run(["logs", kept.trim()]).ok(), "begun\ndone\n");
    assert_eq!(ann.job(kept.trim())["attempt"], 1);
    assert_eq!(check(&cluster).0, 0);
}

/// Changes a byte in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// A pool that is down, with two segments of output and a long write-ahead log.
fn lived() -> Cluster {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    for _ in 0..2 {
        cluster.operator.run(["run", "seq 1 5000"]).ok();
        cluster.kill_pool();
        cluster.restart_pool();
        cluster.wait_for_worker("w1", "ready");
    }
    for n in 0..20 {
        cluster.operator.run(["run", &format!("echo {n}")]).ok();
    }
    cluster.kill_pool();
    cluster
}

#[test]
fn damage_is_found_where_it_is() {
    let cluster = lived();
    let whole = cluster.site.path().join("whole");
    copy(&state(&cluster), &whole);
    assert_eq!(check(&cluster).0, 0);
    let files = [
        ("output/0000000001.out", "0000000001.out is damaged at byte "),
        ("queue.db-wal", "queue.db-wal is bad, and valid commits follow it"),
    ];
    for (file, words) in files {
        std::fs::remove_dir_all(state(&cluster)).unwrap();
        copy(&whole, &state(&cluster));
        damage(&state(&cluster).join(file));

        let (code, said) = check(&cluster);

        assert!(code == 1 && said.contains(words), "{file}: {code} {said}");
        assert!(!said.contains("all in order"));
    }
}

#[test]
fn an_entry_of_the_log_that_was_changed_behind_sqlites_back_is_found() {
    let cluster = lived();
    let database = rusqlite::Connection::open(state(&cluster).join("queue.db")).unwrap();
    let changed = database.execute(
        "UPDATE log SET entries = CAST(substr(entries, 1, 8) || x'ff' || substr(entries, 10) AS BLOB) WHERE first_seq = (SELECT min(first_seq) FROM log)",
        [],
    );
    assert_eq!(changed.unwrap(), 1);
    drop(database);

    let (code, said) = check(&cluster);

    assert!(code == 1 && said.contains("the log's chain breaks at entry "), "{code} {said}");
    let elsewhere = cluster.operator.run(["pool", "check", "--pool", "nowhere"]);
    assert_eq!(elsewhere.code, 3, "{elsewhere:?}");
}
