//! The audit trail, as an operator reads and verifies it.

use std::process::Stdio;

use crate::cluster::{Cluster, wait_until};

#[test]
fn it_tells_who_did_what_from_where_and_holds_no_secret() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let ann = cluster.client("ann");
    ann.run(["run", "echo my-script-body"]).ok();
    let id = ann.run(["submit", "--label", "gpu=none", "true"]).ok();
    ann.run(["cancel", id.trim()]).ok();
    let token = cluster.token("--worker");
    let wrong = token.replace("CCT1-w-", "CCT1-c-");
    cluster.site.home("bob").run(["context", "add", "lab", &cluster.address, "--token", &wrong]);
    cluster.operator.run(["token", "revoke", "1"]).ok();
    cluster.operator.run(["clients", "revoke", "ann"]).ok();
    assert_eq!(ann.run(["jobs"]).code, 5);

    let trail = || {
        let text = cluster.operator.run(["audit", "--output", "ndjson"]).ok();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines
    };
    let has = |what: &str, who: &str, about: &str| {
        trail().iter().any(|entry| {
            (entry["what"].as_str(), entry["who"].as_str(), entry["about"].as_str())
                == (Some(what), Some(who), Some(about))
        })
    };
    for (what, who, about) in [
        ("enrolled", "w1", ""),
        ("enrolled", "ann", ""),
        ("connected", "ann", ""),
        ("submitted", "ann", "job 1"),
        ("cancelled", "ann", "job 2"),
    ] {
        wait_until(&format!("{who} {what} {about}"), || has(what, who, about));
    }
    wait_until("the revoked client's knocking is written", || has("not let in", "", ""));
    let knocked = trail().into_iter().find(|entry| entry["what"] == "not let in").unwrap();
    assert_eq!(knocked["detail"], "its key is not known");
    let operator = nix::unistd::User::from_uid(nix::unistd::Uid::current()).unwrap().unwrap().name;
    assert!(has("token created", &operator, "token 1") && has("token revoked", &operator, "token 1"));
    assert!(has("client revoked", &operator, "client ann"));
    let entry = trail().into_iter().find(|entry| entry["about"] == "job 1").unwrap();
    assert_eq!(entry["source"], "127.0.0.1");

    let text = cluster.operator.run(["audit"]).ok();
    let secret = token.split('-').nth(4).unwrap();
    assert!(!text.contains("my-script-body") && !text.contains(secret), "{text}");
}

#[test]
fn a_changed_or_missing_entry_is_found() {
    let mut cluster = Cluster::start();
    for _ in 0..3 {
        cluster.token("--worker");
    }
    let told = cluster.operator.run(["audit", "--verify"]).ok();
    assert!(told.ends_with(" entries in order, from number 1 on\n"), "{told}");
    cluster.kill_pool();
    cluster.restart_pool();
    cluster.operator.run(["audit", "--verify"]).ok();

    let change = |sql: &str| {
        let path = cluster.operator.state().join("lab/queue.db");
        rusqlite::Connection::open(path).unwrap().execute(sql, []).unwrap();
        cluster.operator.run(["audit", "--verify"])
    };
    let changed = change("UPDATE audit SET body = zeroblob(48) WHERE number = 2");
    assert_eq!(changed.code, 1);
    assert!(changed.stderr.starts_with("error: the audit trail was changed at entry 2\n"), "{changed:?}");
    let missing = change("DELETE FROM audit WHERE number = 2");
    assert!(missing.stderr.starts_with("error: the audit trail was changed at entry 3\n"), "{missing:?}");
}

#[test]
fn what_comes_is_followed() {
    use std::io::BufRead;
    let mut cluster = Cluster::start();
    let mut command = cluster.operator.command(["audit", "-f"]);
    let mut follow = crate::cluster::Process::start(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut lines = follow.stdout().lines();

    cluster.token("--worker");

    assert!(lines.any(|line| line.unwrap().contains("token created · token 1 · for a worker")));
    cluster.kill_pool();
}
