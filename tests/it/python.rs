//! A client in another language: `tests/python/client.py`, written from the schema and docs/protocol.md alone.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Done, skipped};

/// Whether there is what the client needs; what is missing is said.
fn can_run() -> bool {
    let works = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    let missing = match () {
        () if !works("python3", &["-c", "import ssl"]) => "python3 is not installed",
        () if !works("python3", &["-c", "import capnp"]) => "python3 has no pycapnp (pip install pycapnp)",
        () if !works("openssl", &["version"]) => "openssl is not installed",
        () => return true,
    };
    skipped(&format!("a client in Python: {missing}"));
    false
}

#[test]
fn a_client_in_another_language_enrols_submits_follows_and_exits_as_its_script() {
    if !can_run() {
        return;
    }
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = cluster.site.home("python");
    let client = |token: &str, script: &str| -> Done {
        let mut command = Command::new("python3");
        command.arg(root.join("tests/python/client.py")).arg(root.join("schema"));
        command.args([&cluster.address, token]).arg(home.path()).arg(script);
        command.stdin(Stdio::null()).output().unwrap().into()
    };
    let token = cluster.token("--client");

    let first = client(&token, "echo out; echo err >&2; exit 7");
    // By the key that was let in, and more than a message of output.
    let second = client("-", "seq 1 100000; kill -9 $$");
    std::fs::remove_file(home.path().join("key.pem")).unwrap();
    let another = client(&token, "true");

    assert_eq!(first, Done { code: 7, stdout: "out\n".into(), stderr: "err\n".into() });
    let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!((second.code, &second.stdout) == (137, &numbers), "{} {}", second.code, second.stderr);
    assert_eq!(another.stderr, "refused (2): this token has been used\n");
    assert_eq!(cluster.operator.job("1")["owner"], "python");
}
