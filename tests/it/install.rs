//! systemd units: what is written, that it starts what it says, and that the agent may be replaced under its jobs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, Home, Process, skipped};

/// Installs a worker of a cluster into a directory of units.
fn install(cluster: &Cluster, home: &Home, units: &Path, token: &str) -> String {
    let units = units.to_str().unwrap();
    let work = home.path().to_str().unwrap();
    let done = home.run([
        "worker",
        "install",
        &cluster.address,
        "--token",
        token,
        "--name",
        "w1",
        "--slots",
        "3",
        "--label",
        "rack=row 1",
        "--work-dir",
        work,
        "--trust-submitters",
        "--allow-root",
        "--unit-dir",
        units,
    ]);
    done.ok()
}

/// The command of a unit, as systemd reads it here.
fn command_of(unit: &str, home: &Home) -> Command {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words = shlex::split(line).unwrap();
    let command = home.command(&words[1..]);
    assert_eq!(words[0], command.get_program().to_str().unwrap());
    command
}

#[test]
fn an_installed_worker_has_spent_its_token_and_its_agent_is_replaced_under_its_jobs() {
    let cluster = Cluster::start();
    let (home, units) = (cluster.site.home("w1"), cluster.site.path().join("units"));
    let token = cluster.token("--worker");
    let said = install(&cluster, &home, &units, &token);
    let path = units.join("clusterctl-worker-w1.service");
    assert!(said.starts_with(&format!("wrote {}\n", path.display())), "{said}");
    let unit = std::fs::read_to_string(&path).unwrap();
    assert!(!unit.contains("CCT1-") && unit.contains("--label \"rack=row 1\""), "{unit}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);

    // What systemd does to start it, to stop it, and to start what somebody has put in its place.
    let agent = Process::logged(&home, command_of(&unit, &home));
    cluster.wait_for_worker("w1", "ready");
    let gate = cluster.site.path().join("gate");
    let script = format!("echo $$; until [ -e {} ]; do sleep 0.01; done; echo $$; exit 4", gate.display());
    let id = cluster.operator.run(["submit", &script]).ok();
    let id = id.trim();
    cluster.operator.wait_for_state(id, "running");
    let mut agent = agent;
    agent.signal(libc::SIGHUP);
    assert_eq!(agent.wait(), 0);
    let command = command_of(&unit, &home);
    let newer = cluster.site.path().join("clusterctl-newer");
    let mut build = std::fs::read(command.get_program()).unwrap();
    build.push(0);
    std::fs::write(&newer, build).unwrap();
    std::fs::set_permissions(&newer, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut replaced = Command::new(&newer);
    replaced.args(command.get_args());
    replaced.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let _agent = Process::logged(&home, replaced);
    cluster.wait_for_worker("w1", "ready");
    std::fs::write(gate, "").unwrap();

    assert_eq!(cluster.operator.run(["wait", id]).code, 4);
    let pids = cluster.operator.run(["logs", id]).ok();
    let pids: Vec<&str> = pids.lines().collect();
    assert!(pids.len() == 2 && pids[0] == pids[1], "{pids:?}");
    assert_eq!(cluster.operator.job(id)["attempt"], 1);
}

#[test]
fn installing_again_changes_nothing_and_uninstalling_keeps_the_state() {
    let cluster = Cluster::start();
    let (home, units) = (cluster.site.home("w1"), cluster.site.path().join("units"));
    let token = cluster.token("--worker");
    install(&cluster, &home, &units, &token);

    assert!(install(&cluster, &home, &units, &token).starts_with("nothing to change in "));

    let elsewhere = home.run(["worker", "uninstall", "w2", "--unit-dir", units.to_str().unwrap()]);
    assert_eq!((elsewhere.code, elsewhere.stderr.contains("code: no-unit")), (1, true), "{elsewhere:?}");
    let removed = home.run(["worker", "uninstall", "w1", "--unit-dir", units.to_str().unwrap()]).ok();
    assert!(removed.contains("its state stays"), "{removed}");
    assert_eq!(std::fs::read_dir(&units).unwrap().count(), 0);
    // It is known without a token.
    let _agent = crate::cluster::join(&home, &cluster.address, "w1", &[]);
    cluster.wait_for_worker("w1", "ready");
}

#[test]
fn a_unit_of_another_pool_is_not_overwritten() {
    let (first, second) = (Cluster::start(), Cluster::start());
    let (home, units) = (first.site.home("w1"), first.site.path().join("units"));
    install(&first, &home, &units, &first.token("--worker"));
    let token = second.token("--worker");

    let refused = home.run([
        "worker",
        "install",
        &second.address,
        "--token",
        &token,
        "--name",
        "w1",
        "--allow-root",
        "--unit-dir",
        units.to_str().unwrap(),
    ]);

    assert_eq!((refused.code, refused.stderr.contains("code: unit-exists")), (1, true), "{refused:?}");
}

#[test]
fn systemd_takes_the_units() {
    if !Command::new("systemd-analyze").arg("--version").output().is_ok_and(|done| done.status.success()) {
        skipped("that systemd takes the units (no systemd-analyze)");
        return;
    }
    let site = crate::cluster::Site::new();
    let home = site.home("w1");
    let units = site.path().join("units");
    std::fs::create_dir_all(&units).unwrap();
    let worker = ["worker", "install", "head:7700", "--name", "w1", "--label", "a=100% $b \"c\"", "--print"];
    let pool = ["pool", "install", "--name", "lab", "--print"];
    let texts =
        [("clusterctl-worker-w1.service", home.run(worker)), ("clusterctl-pool-lab.service", home.run(pool))];
    for (name, text) in texts {
        let path = units.join(name);
        std::fs::write(&path, text.ok()).unwrap();
        let verified =
            Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && !said.contains(name), "{said}");
    }
}
