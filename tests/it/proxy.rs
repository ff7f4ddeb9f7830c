//! Dialling out through an HTTP proxy. Loopback is never dialled so, which is where these tests run: so the pool has a
//! name that nobody but the proxy can resolve.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::cluster::{Cluster, Done, Home, Process, join_command, skipped, wait_until};
use crate::connect_proxy::ConnectProxy;

/// RFC 6761: no resolver knows it.
const POOL: &str = "lab.invalid:7700";
const PASSWORD: &str = "canary-of-the-proxy";

fn done(command: &mut Command) -> Done {
    command.output().unwrap().into()
}

/// A client that was let in through a proxy.
fn client(cluster: &Cluster, url: &str) -> Home {
    let home = cluster.site.home("ann");
    let token = cluster.token("--client");
    let args = ["context", "add", "lab", POOL, "--as", "ann", "--token", &token];
    done(home.command(args).env("https_proxy", url)).ok();
    home
}

#[test]
fn a_worker_joins_and_a_client_runs_a_job_through_a_proxy_that_wants_a_password() {
    let cluster = Cluster::start();
    let proxy = ConnectProxy::knowing(POOL, &cluster.address);
    let url = proxy.url("ann", PASSWORD);
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let mut worker = join_command(&home, POOL, "w1", &["--token", &token]);
    worker.env("HTTPS_PROXY", &url).env("CLUSTERCTL_LOG", "trace");
    let _worker = Process::logged(&home, worker);
    cluster.wait_for_worker("w1", "ready");
    let ann = client(&cluster, &url);

    let said = done(ann.command(["run", "--on", "w1", "echo through"]).env("HTTPS_PROXY", &url));

    assert_eq!(said.ok(), "through\n");
    // Enrolment and work of either.
    let requests = proxy.requests();
    assert!(requests.len() >= 4, "{requests:?}");
    let login = data_encoding::BASE64.encode(format!("ann:{PASSWORD}").as_bytes());
    let expected =
        format!("CONNECT {POOL} HTTP/1.1\r\nHost: {POOL}\r\nProxy-Authorization: Basic {login}\r\n\r\n");
    assert!(requests.iter().all(|request| *request == expected), "{requests:?}");
    let log = std::fs::read_to_string(home.path().join("worker.log")).unwrap();
    assert!(!log.contains(PASSWORD) && !log.contains(&login), "{log}");
    let checks = done(ann.command(["doctor"]).env("HTTPS_PROXY", &url)).stdout;
    let line =
        format!("ok    network    {POOL} reachable by the proxy at {}, key fingerprint", proxy.address);
    assert!(checks.contains(&line) && !checks.contains(PASSWORD), "{checks}");
    let checks = done(home.command(["worker", "doctor"]).env("HTTPS_PROXY", &url)).stdout;
    assert!(checks.contains(&format!("{POOL} reachable by the proxy at")), "{checks}");
    // Without the proxy there is no way.
    assert_eq!(ann.run(["jobs"]).code, 4);
}

#[test]
fn what_a_proxy_says_is_told_in_plain_words() {
    let cluster = Cluster::start();
    let proxy = ConnectProxy::knowing("other.invalid:7700", &cluster.address);
    let url = proxy.url("ann", PASSWORD);
    let (ann, token) = (cluster.site.home("ann"), cluster.token("--client"));
    let add = ["context", "add", "lab", POOL, "--token", &token];

    let forbidden = done(ann.command(add).args(["--proxy", &url]));
    let away = done(ann.command(add).args(["--proxy", "127.0.0.1:1"]));
    let unknown = done(ann.command(add).args(["--proxy", "socks5://ann:canary@p:1"]));
    let variable = done(ann.command(add).env("HTTPS_PROXY", "https://ann:canary@p:1"));

    let first = |done: &Done| done.stderr.lines().next().unwrap_or_default().to_owned();
    let address = &proxy.address;
    assert_eq!(
        (forbidden.code, first(&forbidden)),
        (4, format!("error: cannot reach {POOL}: the proxy at {address} refused: 403 Forbidden"))
    );
    assert_eq!(
        (away.code, first(&away)),
        (
            4,
            format!(
                "error: cannot reach {POOL}: the proxy at 127.0.0.1:1 cannot be reached: connection refused"
            )
        )
    );
    assert_eq!(
        (unknown.code, first(&unknown)),
        (2, "error: cannot use the proxy: only proxies with http:// in front are spoken to".to_owned())
    );
    let words = "HTTPS_PROXY is set, but only proxies with http:// in front are spoken to";
    assert_eq!((variable.code, first(&variable)), (4, format!("error: cannot reach {POOL}: {words}")));
    let said = [forbidden, away, unknown, variable].map(|done| done.stderr).concat();
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn loopback_and_what_no_proxy_names_are_dialled_directly() {
    let cluster = Cluster::start();
    let proxy = ConnectProxy::knowing(POOL, &cluster.address);
    let ann = client(&cluster, &proxy.address);
    let asked = proxy.requests().len();
    let direct = cluster.client("bob");

    let near = done(direct.command(["jobs"]).env("HTTPS_PROXY", &proxy.address));
    let exempt = done(ann.command(["jobs", "--proxy", &proxy.address]).env("NO_PROXY", "invalid"));
    let none = done(ann.command(["jobs", "--proxy", ""]).env("HTTPS_PROXY", &proxy.address));

    assert_eq!(near.ok(), "no jobs\n");
    assert_eq!((exempt.code, none.code, proxy.requests().len()), (4, 4, asked));
    assert_eq!(ann.run(["jobs", "--proxy", &proxy.address]).ok(), "no jobs\n");
}

#[test]
fn a_refusal_of_the_proxy_says_how_to_go_around_it() {
    let cluster = Cluster::start();
    let proxy = ConnectProxy::knowing(POOL, &cluster.address);
    let ann = client(&cluster, &proxy.address);
    let strict = ConnectProxy::knowing("other.invalid:1", &cluster.address);

    let refused = ann.run(["run", "--proxy", &strict.address, "true"]);

    let address = &strict.address;
    let expected = format!(
        "error: cannot reach pool \"lab\" at {POOL}: the proxy at {address} refused: 403 Forbidden\n  code: unreachable\n  hint: NO_PROXY=lab.invalid goes without; --proxy URL goes through another\n"
    );
    assert_eq!((refused.code, refused.stderr), (125, expected));
    let checks = ann.run(["doctor", "--proxy", &strict.address]);
    assert!(checks.stdout.contains("FAIL  network") && checks.code == 1, "{checks:?}");
}

#[test]
fn a_proxy_that_does_not_answer_is_given_up_and_a_password_is_in_no_process_list() {
    let cluster = Cluster::faster(10);
    let proxy = ConnectProxy::mute();
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let url = proxy.url("ann", PASSWORD);
    let worker =
        Process::logged(&home, join_command(&home, POOL, "w1", &["--token", &token, "--proxy", &url]));

    wait_until("the worker is told that the proxy does not answer", || {
        let log = std::fs::read_to_string(home.path().join("worker.log")).unwrap();
        log.contains(&format!("the proxy at {} cannot be reached: no answer within 0.3s", proxy.address))
    });

    let line = std::fs::read(format!("/proc/{}/cmdline", worker.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains(PASSWORD));
    assert!(String::from_utf8_lossy(&line).contains("--proxy"));
}

#[test]
fn a_worker_that_goes_on_as_another_user_keeps_its_proxy() {
    if !nix::unistd::Uid::current().is_root() {
        skipped("a worker that goes on as another user, through a proxy (run this as root)");
        return;
    }
    let cluster = Cluster::start();
    let proxy = ConnectProxy::knowing(POOL, &cluster.address);
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    // Another user must get to the state, and to nothing else.
    std::fs::set_permissions(cluster.site.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mut worker = home.command(["worker", "join", POOL, "--name", "w1", "--run-as", "nobody"]);
    worker.args(["--token", &token, "--proxy", &proxy.url("ann", PASSWORD), "--state"]);
    worker.arg(cluster.site.path().join("w1-state"));
    let worker = Process::logged(&home, worker);

    cluster.wait_for_worker("w1", "ready");

    let line = std::fs::read(format!("/proc/{}/cmdline", worker.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains(PASSWORD));
    let login = data_encoding::BASE64.encode(format!("ann:{PASSWORD}").as_bytes());
    assert!(proxy.requests().iter().all(|request| request.contains(&login)));
}
