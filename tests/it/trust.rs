//! A pool that shows another key than before: nobody goes on until a person has decided.

use crate::cluster::{Cluster, Home, join};
use crate::pty::Terminal;

/// A client whose pool has got another key since.
fn renewed() -> (Cluster, Home) {
    let mut cluster = Cluster::start();
    let client = cluster.client("ann");
    cluster.kill_pool();
    std::fs::remove_file(cluster.operator.state().join("lab/key")).unwrap();
    cluster.restart_pool();
    (cluster, client)
}

/// The pool's key as its operator sees it.
fn key(cluster: &Cluster) -> String {
    let status = cluster.operator.run(["pool", "status", "--output", "json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["key"].as_str().unwrap().to_owned()
}

fn config(client: &Home) -> String {
    std::fs::read_to_string(client.path().join(".config/clusterctl/config.toml")).unwrap()
}

#[test]
fn a_mismatch_shows_both_keys_and_names_the_command_that_decides() {
    let cluster = Cluster::start();
    let client = cluster.client("ann");
    let before = key(&cluster);
    let mut cluster = cluster;
    cluster.kill_pool();
    std::fs::remove_file(cluster.operator.state().join("lab/key")).unwrap();
    cluster.restart_pool();

    let refused = client.run(["jobs"]);

    let expected = format!(
        "error: pool \"lab\" presented a different key than before\n  expected: {before}\n  presented: {}\n  code: key-mismatch\n  hint: if you reinstalled the pool: clusterctl context trust lab\n",
        key(&cluster)
    );
    assert_eq!((refused.code, refused.stderr), (4, expected));
}

#[test]
fn without_a_terminal_nothing_is_trusted_but_what_somebody_spells_out() {
    let (cluster, client) = renewed();
    let (before, key) = (config(&client), key(&cluster));
    let trust = |yes: &str| client.run(["context", "trust", "lab", "--yes", yes]);

    let blind = client.run_with_input(["context", "trust", "lab"], b"yes\n");
    let (wrong, short, empty) = (trust("sha256:00112233445566778899"), trust(&key[..19]), trust(""));

    assert_eq!((blind.code, wrong.code, short.code, empty.code), (4, 4, 2, 2));
    assert!(blind.stderr.contains(&key) && blind.stderr.contains("on 127.0.0.1: clusterctl pool status"));
    assert!(short.stderr.starts_with("error: --yes needs 16 digits of the new key or more\n"), "{short:?}");
    assert_eq!(config(&client), before);
    let trusted = trust(&key[..23]);
    assert_eq!(trusted.stderr, "  it knows this user as ann\n");
    assert_eq!(trusted.ok(), format!("pool \"lab\" is known by {key} from now on\n"));
    assert_eq!(client.run(["jobs"]).ok(), "no jobs\n");
    let again = trust(&key);
    assert_eq!(again.ok(), "pool \"lab\" shows the key that it is known by; there is nothing to decide\n");
}

#[test]
fn on_a_terminal_a_person_sees_both_keys_and_says_yes_or_not() {
    let (cluster, client) = renewed();
    let before = config(&client);
    let ask = || {
        let terminal = Terminal::start(&client.command(["context", "trust", "lab"]), 30, 110);
        terminal.wait_for_end("is that the pool's key? (yes/no)");
        terminal
    };

    let mut hasty = ask();
    assert!(hasty.text().contains(&key(&cluster)), "{}", hasty.text());
    hasty.type_line("y");
    assert_eq!(hasty.wait_for_exit(), 4);
    assert_eq!(config(&client), before);
    let mut sure = ask();
    sure.type_line("yes");
    sure.wait_for("it knows this user as ann");

    assert_eq!(sure.wait_for_exit(), 0);
    assert_eq!(client.run(["jobs"]).ok(), "no jobs\n");
}

#[test]
fn a_pool_that_was_made_anew_is_told_to_want_a_token() {
    let mut cluster = Cluster::start();
    let client = cluster.client("ann");
    cluster.kill_pool();
    std::fs::remove_dir_all(cluster.operator.state().join("lab")).unwrap();
    cluster.restart_pool();

    let trusted = client.run(["context", "trust", "lab", "--yes", &key(&cluster)]);

    let address = &cluster.address;
    let expected = format!(
        "  it does not know this user yet\n  on 127.0.0.1: clusterctl token create --client\n  here: clusterctl context add lab {address} --token CCT1-c-…\n"
    );
    assert_eq!((trusted.code, trusted.stderr), (0, expected));
    assert_eq!(client.run(["jobs"]).code, 5);
    let token = cluster.token("--client");
    client.run(["context", "add", "lab", address, "--as", "ann", "--token", &token]).ok();
    assert_eq!(client.run(["jobs"]).ok(), "no jobs\n");
}

#[test]
fn only_a_pool_elsewhere_has_a_key_to_trust() {
    let cluster = Cluster::start();
    let client = cluster.client("ann");

    assert_eq!(client.run(["context", "trust", "nowhere"]).code, 3);
    assert_eq!(client.run(["context", "trust", "local"]).code, 2);
    assert_eq!(cluster.operator.run(["context", "trust", "lab"]).code, 2);
}

#[test]
fn a_worker_of_a_pool_that_was_made_anew_stops_and_joins_by_a_token_of_it() {
    let mut cluster = Cluster::start();
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let mut worker = join(&home, &cluster.address, "w1", &["--token", &token]);
    cluster.wait_for_worker("w1", "ready");
    cluster.kill_pool();
    std::fs::remove_dir_all(cluster.operator.state().join("lab")).unwrap();
    cluster.restart_pool();

    assert_eq!(worker.wait(), 4);

    let log = std::fs::read_to_string(home.path().join("worker.log")).unwrap();
    let hint =
        format!("hint: if you reinstalled the pool: clusterctl worker join {} --token", cluster.address);
    assert!(log.contains("presented a different key than before") && log.contains(&hint), "{log}");
    let _worker = join(&home, &cluster.address, "w1", &["--token", &cluster.token("--worker")]);
    cluster.wait_for_worker("w1", "ready");
}
