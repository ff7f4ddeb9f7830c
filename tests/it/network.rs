//! Pool, workers and a client, each with keys of their own, over TLS.

use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use clusterctl::core::id::Fingerprint;
use clusterctl::core::timing::Timing;
use clusterctl::net::dial::{self, Route};
use clusterctl::net::key::KeyPair;

use crate::canary::files_with;
use crate::cluster::{Cluster, Done, Process, skipped, wait_until};
use crate::tap::Tap;

/// A pool, two workers and a client, all let in by tokens.
fn lab() -> (Cluster, crate::cluster::Home) {
    let mut cluster = Cluster::start();
    cluster.join("w1", &["--label", "gpu=a100"]);
    cluster.join("w2", &[]);
    let client = cluster.client("ann");
    (cluster, client)
}

#[test]
fn each_line_is_shown_when_it_is_written() {
    let (cluster, client) = lab();
    let gate = |n: u32| cluster.site.path().join(format!("gate-{n}"));
    let script = format!(
        "for i in 1 2 3; do echo $i; while [ ! -e {}/gate-$i ]; do sleep 0.01; done; done",
        cluster.site.path().display()
    );
    let mut run = Process::start(client.command(["run", &script]).stdout(Stdio::piped()));
    let mut lines = run.stdout().lines();

    for n in 1..=3 {
        // The script goes on only when we have seen its line.
        assert_eq!(lines.next().unwrap().unwrap(), n.to_string());
        std::fs::write(gate(n), "").unwrap();
    }

    assert_eq!(run.wait(), 0);
}

#[test]
fn sixteen_mebibytes_arrive_exactly_and_stderr_stays_apart() {
    let (cluster, client) = lab();
    let file = cluster.site.path().join("random");
    let script = format!(
        "head -c 16777216 /dev/urandom > {0}; for i in 1 2 3 4; do cat {0} | head -c $((i * 4194304)) | tail -c 4194304; echo part $i >&2; done",
        file.display()
    );

    let output = client.command(["run", &script]).output().unwrap();

    assert_eq!(output.status.code(), Some(0));
    let written = std::fs::read(file).unwrap();
    assert_eq!(blake3::hash(&output.stdout), blake3::hash(&written));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "part 1\npart 2\npart 3\npart 4\n");
}

#[test]
fn each_attempt_has_a_new_empty_directory_that_is_gone_afterwards() {
    let (_cluster, client) = lab();
    let done =
        client.run(["run", "pwd; ls -A | wc -l; stat -c %a .; touch file; mkdir -m 0 shut; cd /; pwd"]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[1..], ["0", "700", "/"]);

    let next = client.run(["run", "pwd; ls -A | wc -l"]).ok();

    assert!(next.starts_with(lines[0]) || next.contains("worker-"), "{next}");
    assert!(next.ends_with("\n0\n"), "{next}");
    wait_until("the directory is gone", || !std::path::Path::new(lines[0]).exists());
}

#[test]
fn a_job_finds_the_environment_that_was_promised_and_no_more() {
    let (_cluster, client) = lab();
    let mut command = client.command(["run", "--env", "ONE=1", "--env", "OURS", "--on", "w1", "env -0"]);

    let done = command.env("OURS", "two words").output().unwrap();

    let text = String::from_utf8(done.stdout).unwrap();
    let mut names: Vec<&str> = text.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
    names.sort_unstable();
    let expected = [
        "CLUSTERCTL_ATTEMPT",
        "CLUSTERCTL_FENCE",
        "CLUSTERCTL_JOB",
        "CLUSTERCTL_TASK",
        "CLUSTERCTL_WORKER",
        "HOME",
        "ONE",
        "OURS",
        "PATH",
        "PWD",
        "SHLVL",
        "TMPDIR",
        "_",
    ];
    assert_eq!(names, expected, "{text}");
    assert!(text.contains("OURS=two words\0") && text.contains("CLUSTERCTL_WORKER=w1\0"));
}

#[test]
fn a_job_that_a_signal_ends_says_so() {
    let (_cluster, client) = lab();

    let done = client.run(["run", "--on", "w2", "kill -9 $$"]);

    assert_eq!(done.code, 137);
    assert!(
        done.stderr.starts_with("1 killed by SIGKILL · 0.") && done.stderr.ends_with("s · w2\n"),
        "{done:?}"
    );
}

#[test]
fn nothing_of_a_script_or_its_output_can_be_read_on_the_wire() {
    let cluster = Cluster::start();
    let tap = Tap::on(&cluster.address);
    let through = tap.address.clone();
    let token = cluster.token("--worker");
    let home = cluster.site.home("w1");
    let _worker = crate::cluster::join(&home, &through, "w1", &["--token", &token]);
    cluster.wait_for_worker("w1", "ready");
    let client = cluster.client_at("ann", &through);

    let said = client.run(["run", "echo canary-$((40 + 2)) # sung-in-a-script"]).ok();

    assert_eq!(said, "canary-42\n");
    let wire = tap.bytes();
    let seen = |text: &str| wire.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(wire.len() > 4096, "the tap is on the line");
    assert!(!seen("canary-42") && !seen("sung-in-a-script") && !seen("CLUSTERCTL") && !seen(&token));
}

#[tokio::test]
async fn a_key_that_nobody_knows_gets_nothing() {
    let cluster = Cluster::start();
    let key = KeyPair::generate().unwrap();
    let pool = pool_key(&cluster);

    let connection = dial::dial(&cluster.address, &key, pool, &Route::direct(Timing::default())).await;

    // The client's side of the handshake ends first; the refusal comes with the first read.
    let mut stream = connection.unwrap().stream;
    let mut answer = Vec::new();
    let refused = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    assert_eq!(answer, b"");
}

pub fn pool_key(cluster: &Cluster) -> Fingerprint {
    let status = cluster.operator.run(["pool", "status", "--output", "json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let hex = status["key"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    Fingerprint(data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap())
}

#[test]
fn openssl_with_a_foreign_key_gets_nothing_either() {
    let cluster = Cluster::start();
    let directory = cluster.site.path();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
        ])
        .args(["-subj", "/CN=stranger", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output();
    let Ok(made) = made else {
        skipped("what openssl gets with a foreign key: openssl is not installed");
        return;
    };
    assert!(made.status.success(), "{made:?}");

    for alpn in [None, Some("clusterctl/1")] {
        let mut client = std::process::Command::new("openssl");
        client.args([
            "s_client",
            "-quiet",
            "-connect",
            &cluster.address,
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
        ]);
        client.args(alpn.map_or(vec![], |alpn| vec!["-alpn", alpn]));
        let said: Done = client.current_dir(directory).stdin(Stdio::null()).output().unwrap().into();
        assert_eq!(said.stdout, "", "{said:?}");
        assert!(said.stderr.contains("alert"), "{said:?}");
    }
}

#[test]
fn a_spent_token_lets_nobody_else_in() {
    let cluster = Cluster::start();
    let token = cluster.token("--client");
    let (ann, bob) = (cluster.site.home("ann"), cluster.site.home("bob"));
    ann.run(["context", "add", "lab", &cluster.address, "--token", &token, "--as", "ann"]).ok();

    let refused = bob.run(["context", "add", "lab", &cluster.address, "--token", &token, "--as", "bob"]);

    assert_eq!(refused.code, 5);
    let address = &cluster.address;
    let expected = format!(
        "error: this token has been used\n  pool: {address}\n  code: auth-token-spent\n  hint: on 127.0.0.1: clusterctl token create --client\n"
    );
    assert_eq!(refused.stderr, expected);
}

#[test]
fn a_false_pool_is_refused_before_the_token_leaves() {
    let (real, mut false_pool) = (Cluster::start(), Cluster::start());
    let token = real.token("--client");
    let ann = real.site.home("ann");

    let refused = ann.run(["context", "add", "lab", &false_pool.address, "--token", &token]);

    assert_eq!(refused.code, 4);
    let first = format!("error: {} is not the pool this token is for", false_pool.address);
    assert_eq!(refused.stderr.lines().next(), Some(first.as_str()));
    assert!(refused.stderr.contains("code: key-mismatch"), "{refused:?}");
    // A token knows half of its pool's key, so that much is shown of both.
    let key = |name: &str| {
        let line = refused.stderr.lines().find_map(|line| line.strip_prefix(&format!("  {name}: sha256:")));
        line.unwrap().to_owned()
    };
    assert_eq!((key("expected").len(), key("presented").len()), (32 + "…".len(), 32 + "…".len()));

    let worker_token = real.token("--worker");
    let home = false_pool.site.home("w1");
    let mut worker = crate::cluster::join(&home, &false_pool.address, "w1", &["--token", &worker_token]);
    assert_eq!(worker.wait(), 4);
    false_pool.kill_pool();
}

#[test]
fn another_pool_at_a_known_address_is_never_accepted_silently() {
    let mut cluster = Cluster::start();
    let client = cluster.client("ann");
    cluster.kill_pool();
    std::fs::remove_file(cluster.operator.state().join("lab/key")).unwrap();
    cluster.restart_pool();

    let refused = client.run(["jobs"]);

    assert_eq!(refused.code, 4);
    assert!(
        refused.stderr.starts_with("error: pool \"lab\" presented a different key than before\n"),
        "{refused:?}"
    );
}

/// A job writes ten thousand lines, and the line behind the tap breaks when so many of them have been seen.
fn all_comes_although_a_line_breaks(
    cluster: &Cluster,
    home: &crate::cluster::Home,
    tap: &Tap,
    before: usize,
) {
    let go = cluster.site.path().join("go");
    let script = format!("seq 1 5000; while [ ! -e {} ]; do sleep 0.01; done; seq 5001 10000", go.display());
    let mut run = Process::start(home.command(["run", &script]).stdout(Stdio::piped()));
    let mut lines = run.stdout().lines().map(Result::unwrap);
    let mut seen: Vec<String> = lines.by_ref().take(before).collect();

    tap.cut();
    std::fs::write(&go, "").unwrap();
    tap.mend();
    seen.extend(lines);

    assert_eq!(run.wait(), 0);
    assert_eq!(seen, (1..=10_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn output_goes_on_where_it_was_when_the_clients_line_breaks() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let tap = Tap::on(&cluster.address);
    let client = cluster.client_at("ann", &tap.address);
    all_comes_although_a_line_breaks(&cluster, &client, &tap, 4000);
}

#[test]
fn a_worker_whose_line_breaks_comes_back_with_its_job_and_all_of_its_output() {
    let cluster = Cluster::start();
    let tap = Tap::on(&cluster.address);
    let token = cluster.token("--worker");
    let home = cluster.site.home("w1");
    let _worker = crate::cluster::join(&home, &tap.address, "w1", &["--token", &token]);
    cluster.wait_for_worker("w1", "ready");
    all_comes_although_a_line_breaks(&cluster, &cluster.operator, &tap, 100);
}

#[test]
fn a_worker_may_start_before_its_pool() {
    let mut cluster = Cluster::start();
    let token = cluster.token("--worker");
    cluster.kill_pool();
    let home = cluster.site.home("early");
    let _worker = crate::cluster::join(&home, &cluster.address, "early", &["--token", &token]);
    wait_until("the worker waits", || {
        std::fs::read_to_string(home.path().join("worker.log")).unwrap().contains("waiting for the pool")
    });

    cluster.restart_pool();

    cluster.wait_for_worker("early", "ready");
}

#[test]
fn the_pools_own_user_needs_no_token_on_its_machine() {
    let cluster = Cluster::start();
    let port = cluster.address.rsplit_once(':').unwrap().1;

    let _worker = crate::cluster::join(&cluster.operator, &format!("localhost:{port}"), "near", &[]);

    cluster.wait_for_worker("near", "ready");
    assert_eq!(cluster.operator.run(["run", "echo hi"]).ok(), "hi\n");
}

#[test]
fn a_worker_that_could_read_the_pools_state_takes_its_owners_jobs_alone() {
    let cluster = Cluster::start();
    let home = cluster.site.home("w1");
    let token = cluster.token("--worker");
    let mut command =
        home.command(["worker", "join", &cluster.address, "--name", "w1", "--token", &token, "--allow-root"]);
    let _worker = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    cluster.wait_for_worker("w1", "ready");
    let ann = cluster.client("ann");
    let id = ann.run(["submit", "true"]).ok();

    assert_eq!(cluster.operator.run(["run", "echo mine"]).ok(), "mine\n");

    let why = ann.run(["why", id.trim()]).ok();
    assert_eq!(
        why,
        "1 queued: the workers that fit take only their pool owner's jobs (worker join --trust-submitters)\n"
    );
}

#[test]
fn a_worker_that_root_starts_runs_no_job_as_root_unless_it_is_told_to() {
    if !nix::unistd::Uid::current().is_root() {
        skipped("a worker that root starts (run this as root)");
        return;
    }
    let cluster = Cluster::start();
    let site = cluster.site.path().to_owned();
    let token = cluster.token("--worker");
    let home = cluster.site.home("w1");
    let worker = |more: &[&str]| {
        let mut command = home.command(["worker", "join", &cluster.address, "--token", &token]);
        command.args(["--name", "w1", "--state"]).arg(site.join("w1-state")).args(more);
        command
    };

    let refused: Done = worker(&[]).output().unwrap().into();
    let nobody: Done = worker(&["--run-as", "no-such-user"]).output().unwrap().into();
    // Another user must get to the state, and to nothing else.
    std::fs::set_permissions(&site, std::fs::Permissions::from_mode(0o711)).unwrap();
    let _worker = Process::logged(&home, worker(&["--run-as", "nobody"]));
    cluster.wait_for_worker("w1", "ready");

    assert!(refused.stderr.starts_with("error: a worker does not run jobs as root\n"), "{refused:?}");
    assert_eq!((nobody.code, nobody.stderr.contains("there is no user \"no-such-user\"")), (2, true));
    let told = cluster.operator.run(["run", "id -un; id -Gn; echo $USER $LOGNAME; stat -c %U ."]).ok();
    assert_eq!(told, "nobody\nnogroup\nnobody nobody\nnobody\n");
    // It takes everybody's jobs, on the pool's machine, and these get at nothing of the pool.
    let doctor = cluster.operator.run(["doctor"]).stdout;
    assert!(doctor.contains("ok    isolation  no worker is known to run as the pool's user"), "{doctor}");
}

#[test]
fn a_revoked_client_is_cut_off_at_once_and_for_ever_and_its_job_goes_on() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let ann = cluster.client("ann");
    let gate = cluster.site.path().join("gate");
    let script = format!("echo begun; while [ ! -e {} ]; do sleep 0.01; done; echo done", gate.display());
    let mut run = Process::start(ann.command(["run", &script]).stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut lines = run.stdout().lines();
    assert_eq!(lines.next().unwrap().unwrap(), "begun");
    assert_eq!(ann.run(["whoami", "-q"]).ok(), "ann\n");

    cluster.operator.run(["clients", "revoke", "ann"]).ok();

    assert_eq!(run.wait(), 125);
    assert_eq!(lines.next().map(Result::unwrap), None);
    let refused = ann.run(["jobs"]);
    assert_eq!((refused.code, refused.stderr.contains("the pool does not know this key")), (5, true));
    cluster.kill_pool();
    cluster.restart_pool();
    assert_eq!(ann.run(["jobs"]).code, 5);
    std::fs::write(gate, "").unwrap();
    cluster.operator.wait_for_state("1", "done");
    assert_eq!(cluster.operator.run(["logs", "1"]).ok(), "begun\ndone\n");
}

#[test]
fn a_secret_reaches_its_job_and_no_file_status_or_trail() {
    let mut cluster = Cluster::start();
    let ann = cluster.client("ann");
    let secret = "canary-7f2e9c";
    let submit = |words: &[&str]| -> Done {
        let mut command = ann.command(["submit", "--secret-env", "KEY"]);
        command.args(words).env("KEY", secret).output().unwrap().into()
    };
    let keys =
        |cluster: &Cluster| std::fs::read_dir(cluster.operator.state().join("lab/secrets")).unwrap().count();
    // It waits, and goes through a restart of the pool.
    let id = submit(&["test -n \"$KEY\""]);
    assert_eq!(id.code, 0, "{id:?}");
    let digest = submit(&["printf %s \"$KEY\" | md5sum"]);
    assert_eq!((digest.code, keys(&cluster)), (0, 2));
    cluster.kill_pool();
    assert_eq!(files_with(cluster.site.path(), secret.as_bytes()), Vec::<std::path::PathBuf>::new());
    cluster.restart_pool();

    cluster.join("w1", &[]);
    ann.run(["wait", "2"]).ok();
    let told = ann.run(["logs", "2"]).ok();
    assert_eq!(told, format!("{}  -\n", md5_of(secret)));

    let refused = ann.run(["retry", "2"]);
    assert!(refused.stderr.contains("has secrets, which are kept for it alone"), "{refused:?}");
    let unset = ann.run(["run", "--secret-env", "NOT_THERE", "true"]);
    assert_eq!((unset.code, unset.stderr.contains("NOT_THERE is not set")), (2, true));
    ann.run(["wait", "1"]);
    wait_until("the keys are gone", || keys(&cluster) == 0);
    for words in [["show", "2"], ["jobs", "-a"]] {
        assert!(!ann.run(words).ok().contains(secret));
    }
    assert!(!cluster.operator.run(["audit"]).ok().contains(secret));
    assert_eq!(files_with(cluster.site.path(), secret.as_bytes()), Vec::<std::path::PathBuf>::new());
}

fn md5_of(text: &str) -> String {
    let output = std::process::Command::new("bash")
        .args(["-c", "printf %s \"$1\" | md5sum", "bash", text])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}
