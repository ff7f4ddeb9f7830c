//! Secrets are looked for wherever somebody might find them: in files, logs, lists of processes and what commands say.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clusterctl::net::token::Token;

use crate::cluster::{Cluster, Home, Process, join_command, pool_command, processes, serving, wait_until};

/// Every file below a directory whose bytes have this in them.
pub fn files_with(directory: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes.windows(needle.len()).any(|window| window == needle)
        {
            found.push(path);
        }
    }
    found
}

/// A line of the private key in a file.
fn key_of(file: &Path) -> String {
    let pem = std::fs::read_to_string(file).unwrap();
    pem.lines().nth(1).unwrap().to_owned()
}

fn all_keys(directory: &Path) -> Vec<PathBuf> {
    let mut keys = files_with(directory, b"PRIVATE KEY");
    keys.sort();
    keys
}

#[test]
fn no_token_key_or_secret_is_in_a_file_a_log_a_list_of_processes_or_an_answer() {
    let mut cluster = Cluster::start();
    cluster.kill_pool();
    // All that there is to log.
    let loud = |mut command: std::process::Command| {
        command.env("CLUSTERCTL_LOG", "trace");
        command
    };
    let (_pool, address) =
        serving(&cluster.operator, loud(pool_command(&cluster.operator, &cluster.address)));
    let tokens = ["--worker", "--client", "--client"].map(|role| cluster.token(role));
    let secret = "canary-51c0ffee";
    let home = cluster.site.home("w1");
    let joining = loud(join_command(&home, &address, "w1", &["--token", &tokens[0]]));
    let _worker = Process::logged(&home, joining);
    cluster.wait_for_worker("w1", "ready");
    let ann: Home = cluster.site.home("ann");
    let logs = |name: &str| std::fs::File::create(ann.path().join(name)).unwrap();
    let enrolled = loud(ann.command(["context", "add", "lab", &address, "--token", &tokens[1]]))
        .stdout(Stdio::null())
        .stderr(logs("enrolled.log"))
        .status();
    assert!(enrolled.unwrap().success());
    let gate = cluster.site.path().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.01; done; test -n \"$KEY\"", gate.display());
    let mut run = Process::start(
        loud(ann.command(["run", "--secret-env", "KEY", &script]))
            .env("KEY", secret)
            .stdout(Stdio::null())
            .stderr(logs("run.log")),
    );
    wait_until("it is there", || cluster.operator.run(["show", "1"]).code == 0);
    cluster.operator.wait_for_state("1", "running");

    let keys = all_keys(cluster.site.path());
    let names: Vec<&str> = keys.iter().map(|key| key.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["key", "key", "key"], "of the pool, the worker and the client: {keys:?}");
    let search = || {
        for needle in [secret.to_owned()].into_iter().chain(tokens.clone().map(|token| secret_of(&token).0)) {
            assert_eq!(files_with(cluster.site.path(), needle.as_bytes()), Vec::<PathBuf>::new(), "{needle}");
            let seen: Vec<_> = processes().filter(|(_, line)| line.contains(&needle)).collect();
            assert_eq!(seen, [], "{needle}");
        }
        for token in &tokens {
            // Nor as the bytes that it stands for.
            assert_eq!(files_with(cluster.site.path(), &secret_of(token).1), Vec::<PathBuf>::new());
        }
        for key in &keys {
            assert_eq!(files_with(cluster.site.path(), key_of(key).as_bytes()), std::slice::from_ref(key));
        }
        let said = [
            cluster.operator.run(["audit", "--output", "ndjson"]).ok(),
            cluster.operator.run(["token", "list"]).ok(),
            cluster.operator.run(["clients"]).ok(),
            cluster.operator.run(["show", "1", "--output", "json"]).ok(),
        ]
        .concat();
        assert!(!said.contains(secret) && !tokens.iter().any(|token| said.contains(&secret_of(token).0)));
    };
    search();
    std::fs::write(&gate, "").unwrap();
    assert_eq!(run.wait(), 0);
    search();

    // The search finds what is there.
    std::fs::write(cluster.site.path().join("leak"), secret_of(&tokens[2]).1).unwrap();
    assert_eq!(files_with(cluster.site.path(), &secret_of(&tokens[2]).1).len(), 1);
}

/// The secret of a token, as it is written and as it is.
fn secret_of(token: &str) -> (String, [u8; 16]) {
    let parsed: Token = token.parse().unwrap();
    (token.split('-').nth(4).unwrap().to_owned(), *parsed.secret())
}
