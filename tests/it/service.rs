//! `pool install` and `worker install`: what is written, what systemd is asked, and what a restart of an agent by its
//! unit does to jobs. Only units of a user are written here, in a home of the test's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Done, Home, Process, Site, skipped, wait_until};

/// A home in which a systemd of the user seems to run: what it is asked is written down.
struct Managed(Home);

impl Managed {
    fn new(home: Home) -> Self {
        let (bin, own) = (home.path().join("bin"), home.path().join("run/systemd"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(own).unwrap();
        let systemctl = bin.join("systemctl");
        std::fs::write(&systemctl, "#!/bin/sh\necho \"$@\" >> \"$HOME/asked\"\n").unwrap();
        std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(home)
    }

    fn run(&self, program: &Path, args: &[&str]) -> Done {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = of_program(program, &self.0.command(args));
        command.env("PATH", format!("{}:{path}", self.0.path().join("bin").display()));
        command.env("XDG_RUNTIME_DIR", self.0.path().join("run"));
        command.output().unwrap().into()
    }

    fn unit(&self, service: &str) -> PathBuf {
        self.0.path().join(".config/systemd/user").join(service)
    }

    /// What systemd was asked since the last time.
    fn asked(&self) -> Vec<String> {
        let path = self.0.path().join("asked");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // It may not be there yet.
        let _ = std::fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }
}

/// The same command by another file of the program.
fn of_program(program: &Path, command: &Command) -> Command {
    let mut same = Command::new(program);
    same.args(command.get_args()).env_clear();
    same.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    same.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    same
}

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_clusterctl").into()
}

/// What a unit runs, as words; those of these tests a shell reads in the same way.
fn exec_start(unit: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(unit).unwrap();
    shlex::split(text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap()).unwrap()
}

fn start(home: &Home, words: &[String]) -> Process {
    Process::logged(home, of_program(Path::new(&words[0]), &home.command(&words[1..])))
}

#[test]
fn a_worker_is_let_in_when_it_is_installed_and_its_unit_holds_no_secret() {
    let cluster = Cluster::start();
    let n1 = Managed::new(cluster.site.home("n1"));
    let token = cluster.token("--worker");
    let install =
        ["worker", "install", &cluster.address, "--token", &token, "--name", "n1", "--user", "--allow-root"];

    n1.run(&program(), &[&install[..], &["--print"]].concat()).ok();
    assert!(n1.asked().is_empty() && !n1.unit("clusterctl-worker-n1.service").exists());

    let installed = n1.run(&program(), &install);
    assert_eq!(installed.code, 0, "{installed:?}");
    assert!(installed.stdout.starts_with("installed "), "{installed:?}");
    let unit = n1.unit("clusterctl-worker-n1.service");
    let service = "clusterctl-worker-n1.service";
    assert_eq!(n1.asked(), ["--user daemon-reload".to_owned(), format!("--user enable --now {service}")]);
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(!text.contains("CCT1") && !text.contains("--token"), "{text}");
    let thief = cluster.site.home("thief");
    let spent = thief.run(["worker", "join", &cluster.address, "--token", &token, "--allow-root"]);
    assert!(spent.code == 5 && spent.stderr.contains("auth-token-spent"), "{spent:?}");

    // The token is spent; what counts is the key.
    let again = n1.run(&program(), &install);
    assert!(again.stdout.starts_with("unchanged "), "{again:?}");
    assert_eq!(n1.asked().len(), 2);
    let changed = n1.run(&program(), &[&install[..], &["--slots", "3"]].concat());
    assert!(changed.stdout.starts_with("changed "), "{changed:?}");
    assert_eq!(n1.asked().last().unwrap(), &format!("--user restart {service}"));

    let words = exec_start(&unit);
    let _agent = start(&n1.0, &words);
    cluster.wait_for_worker("n1", "ready");

    let removed = n1.run(&program(), &["worker", "uninstall", "--name", "n1", "--user"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert_eq!(n1.asked(), [format!("--user disable --now {service}"), "--user daemon-reload".to_owned()]);
    assert!(!unit.exists());
    assert_eq!(n1.run(&program(), &["worker", "uninstall", "--name", "n1", "--user"]).code, 3);
}

#[test]
fn an_upgrade_by_the_unit_leaves_a_running_job_its_pid_and_its_output() {
    let cluster = Cluster::start();
    let n1 = Managed::new(cluster.site.home("n1"));
    let place = n1.0.path().join("opt 100%");
    std::fs::create_dir(&place).unwrap();
    let installed = place.join("clusterctl");
    std::fs::copy(program(), &installed).unwrap();
    let token = cluster.token("--worker");
    n1.run(
        &installed,
        &[
            "worker",
            "install",
            &cluster.address,
            "--token",
            &token,
            "--user",
            "--allow-root",
            "--trust-submitters",
        ],
    )
    .ok();
    let unit = n1.unit("clusterctl-worker.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains("KillSignal=SIGHUP\n") && text.contains("KillMode=process\n"), "{text}");
    let words: Vec<String> = exec_start(&unit).iter().map(|word| word.replace("%%", "%")).collect();
    let mut agent = start(&n1.0, &words);
    let go = n1.0.path().join("go");
    let script =
        format!("echo $$; seq 1000; until [ -e {} ]; do read -t 0.05 <> <(:); done; echo $$", go.display());
    let id = cluster.operator.run(["submit", &script]).ok().trim().to_owned();
    wait_until("the job has begun", || cluster.operator.run(["logs", &id]).stdout.ends_with("\n1000\n"));

    // As systemd stops it: the one signal, to the one process.
    agent.signal(libc::SIGHUP);
    assert_eq!(agent.wait(), 0);
    let mut other = std::fs::read(&installed).unwrap();
    other.extend(b"another build");
    let next = place.join("next");
    std::fs::write(&next, other).unwrap();
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(next, &installed).unwrap();
    let _agent = start(&n1.0, &words);
    wait_until("the worker is back", || {
        let text = cluster.operator.run(["workers", "--output", "json"]).ok();
        text.contains("\"ready\"")
    });
    let output = cluster.operator.run(["logs", &id]).ok();
    let pid = output.lines().next().unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.contains("seq 1000"), "{line}");
    std::fs::write(&go, "").unwrap();

    assert_eq!(cluster.operator.run(["wait", &id]).ok(), "");
    let output = cluster.operator.run(["logs", &id]).ok();
    let counted: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    assert_eq!(output, format!("{pid}\n{counted}{pid}\n"));
    assert_eq!(cluster.operator.job(&id)["attempt"], 1);
}

#[test]
fn a_worker_of_the_pools_own_user_is_installed_without_a_token_and_may_start_before_its_pool() {
    let mut cluster = Cluster::start();
    let own = Managed::new(cluster.operator.clone());
    let port = cluster.address.rsplit_once(':').unwrap().1.to_owned();
    own.run(&program(), &["worker", "install", &format!("localhost:{port}"), "--name", "n1", "--user"]).ok();
    let words = exec_start(&own.unit("clusterctl-worker-n1.service"));
    assert_eq!(words[3], own.0.state().join("lab").to_str().unwrap());

    cluster.kill_pool();
    let _agent = start(&own.0, &words);
    let log = own.0.path().join("worker.log");
    wait_until("the worker waits", || {
        std::fs::read_to_string(&log).unwrap().contains("waiting for the pool")
    });
    cluster.restart_pool();

    cluster.wait_for_worker("n1", "ready");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skipped("systemd-analyze verify of the units (it is not installed)");
        return;
    }
    let site = Site::new();
    let home = site.home("ann");
    let place = home.path().join("opt 100%n $x");
    std::fs::create_dir(&place).unwrap();
    let program = place.join("clusterctl");
    std::fs::copy(self::program(), &program).unwrap();
    let pool: &[&str] = &["pool", "install", "--name", "lab", "--print"];
    let worker: &[&str] = &[
        "worker",
        "install",
        "head:7700",
        "--label",
        "a=50%",
        "--work-dir",
        "/x y/$z",
        "--stop-within",
        "1500ms",
        "--allow-root",
        "--print",
    ];
    for (n, args) in [pool, worker].into_iter().enumerate() {
        for (m, more) in [&[][..], &["--user"]].into_iter().enumerate() {
            let text = Managed(home.clone()).run(&program, &[args, more].concat()).ok();
            let unit = home.path().join(format!("unit-{n}-{m}.service"));
            std::fs::write(&unit, text).unwrap();

            let verified: Done =
                Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap().into();

            assert_eq!((verified.code, verified.stderr.as_str()), (0, ""), "{verified:?}");
        }
    }
}

#[test]
fn where_systemd_does_not_run_the_unit_is_written_and_what_to_type_is_said() {
    let site = Site::new();
    let home = site.home("ann");

    let done = home.run(["pool", "install", "--name", "lab", "--listen", "127.0.0.1:7811", "--user"]);

    assert_eq!(done.code, 0, "{done:?}");
    let unit = home.path().join(".config/systemd/user/clusterctl-pool-lab.service");
    let state = home.state();
    let words = exec_start(&unit);
    assert_eq!(
        words[1..],
        ["pool", "serve", "--name", "lab", "--listen", "127.0.0.1:7811", "--state", state.to_str().unwrap()]
    );
    for said in [
        "systemctl --user daemon-reload && systemctl --user enable --now clusterctl-pool-lab.service",
        "loginctl enable-linger",
    ] {
        assert!(done.stderr.contains(said), "{done:?}");
    }
}

#[test]
fn what_would_not_work_as_a_service_is_refused_before_anything_is_written() {
    let site = Site::new();
    let home = Managed::new(site.home("ann"));
    let proxy = "http://ann:secret@proxy:3128";

    let secret = home.run(&program(), &["worker", "install", "head:7700", "--user", "--proxy", proxy]);
    assert_eq!(secret.code, 2, "{secret:?}");
    assert!(!secret.stderr.contains("secret@"), "{secret:?}");
    assert_eq!(home.run(&program(), &["pool", "install", "--repl", "--user"]).code, 2);
    if nix::unistd::Uid::current().is_root() {
        let root = home.run(&program(), &["worker", "install", "head:7700", "--user"]);
        assert!(root.stderr.contains("root-refused") && root.stderr.contains("--run-as USER"), "{root:?}");
        // Nor is a unit shown that could not start.
        let shown = home.run(&program(), &["worker", "install", "head:7700", "--user", "--print"]);
        assert!(shown.stderr.contains("root-refused") && shown.stdout.is_empty(), "{shown:?}");
    } else {
        skipped("that a worker of root's is not installed without --run-as or --allow-root (needs root)");
    }
    assert!(home.asked().is_empty() && !home.unit("").exists());
}
