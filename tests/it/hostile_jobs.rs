//! Jobs that are out to harm their worker, where they run as a user of their own. Needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
#[cfg(target_arch = "x86_64")]
use std::process::Command;

use crate::census;
use crate::cluster::{Cluster, Process, skipped, wait_until};
use crate::disk::Small;

/// What the processes of the bomb carry.
const MARK: &str = "CCTL_FORK_BOMB=here";

/// A pool of root, and beside it a worker whose jobs run as `nobody`.
struct Scene {
    cluster: Cluster,
    worker: Process,
    state: PathBuf,
}

impl Scene {
    fn set(what: &str, more: &[&str]) -> Option<Self> {
        if !nix::unistd::Uid::current().is_root() {
            skipped(&format!("{what} (run this as root)"));
            return None;
        }
        let cluster = Cluster::start();
        // So that the modes of what lies in it count, and not that of the whole.
        fs::set_permissions(cluster.site.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
        let state = cluster.site.path().join("w1-state");
        let mut command = home.command(["worker", "join", &cluster.address, "--token", &token]);
        command
            .args(["--name", "w1", "--run-as", "nobody", "--slots", "2", "--state"])
            .arg(&state)
            .args(more);
        let worker = Process::logged(&home, command);
        cluster.wait_for_worker("w1", "ready");
        Some(Self { cluster, worker, state })
    }

    fn executor(&self) -> i32 {
        let state = self.state.to_str().unwrap();
        let executors = self.cluster.site.detached("clusterctl executor");
        executors.into_iter().find(|pid| line_of(*pid).contains(state)).unwrap()
    }
}

fn line_of(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

#[test]
fn a_job_of_another_user_reaches_nothing_of_its_worker_and_its_pool() {
    let Some(scene) = Scene::set("a job that is out to harm its worker", &[]) else { return };
    let (agent, executor) = (scene.worker.pid(), scene.executor());
    let pool_state = scene.cluster.operator.state().join("lab");
    let precious = scene.cluster.site.path().join("precious");
    fs::write(&precious, "kept").unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
    let worker_state = fs::read_dir(&scene.state).unwrap().flatten().map(|entry| entry.path());
    let worker_state = worker_state.into_iter().find(|path| path.is_dir()).unwrap();
    // Each line succeeds for whoever can do it.
    let attacks = [
        format!("kill -9 {agent}"),
        format!("kill -STOP {executor}"),
        "kill -9 $PPID".to_owned(),
        format!("cat /proc/{agent}/environ"),
        format!("cat /proc/{executor}/maps"),
        "ls /proc/$PPID/fd".to_owned(),
        format!("head -c 1 /proc/{executor}/mem"),
        format!("ls {}", worker_state.display()),
        format!("cat {}/key", worker_state.display()),
        format!("cat {}/executor/journal-*", worker_state.display()),
        format!("ls {}", pool_state.display()),
        format!("cat {}/key", pool_state.display()),
        format!("cat {}/queue.db", pool_state.display()),
        format!("[ -w {}/socket ]", pool_state.display()),
        "ls ..".to_owned(),
        "touch ../planted".to_owned(),
        "mv $PWD ../elsewhere".to_owned(),
        format!("cat {}", precious.display()),
        "su -c true".to_owned(),
        "[ $(sed -n 's/NoNewPrivs:.//p' /proc/self/status) = 0 ]".to_owned(),
    ];
    let mut script = String::from("exec 2>&1\n");
    for attack in &attacks {
        script += &format!(
            "if ({attack}) >/dev/null </dev/null; then echo DONE: '{}'; fi\n",
            attack.replace('\'', "")
        );
    }
    // What is cleaned up behind it leads elsewhere, and is shut.
    script += &format!(
        "ln -s {0} link; mkdir -p shut/deep; ln -s {0} shut/deep/link; chmod 000 shut/deep shut; echo end",
        precious.display()
    );

    let told = scene.cluster.operator.run(["run", &script]).ok();

    assert_eq!(told.lines().filter(|line| line.starts_with("DONE")).collect::<Vec<_>>(), [] as [&str; 0]);
    assert!(told.ends_with("end\n"), "{told}");
    assert_eq!(scene.cluster.operator.run(["run", "id -un"]).ok(), "nobody\n");
    assert_eq!((scene.worker.pid(), scene.executor()), (agent, executor));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    assert_eq!(fs::metadata(&precious).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_a_job_leaves_however_deep_ends_nobody_elses_job() {
    let Some(scene) = Scene::set("a job that leaves a deep tree", &[]) else { return };
    let operator = &scene.cluster.operator;
    let gate = scene.cluster.site.path().join("gate");
    let neighbour =
        operator.run(["submit", &format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display())]).ok();
    let executor = scene.executor();

    // A path so long that it is left step by step.
    let deep = operator.run(["run", r#"pwd; perl -e 'for (1..18000) { mkdir "d"; chdir "d" or die }'"#]).ok();

    let tree = PathBuf::from(deep.trim());
    wait_until("it is gone", || !tree.exists());
    assert_eq!(scene.executor(), executor);
    fs::write(&gate, "").unwrap();
    assert_eq!(operator.run(["wait", neighbour.trim()]).code, 0);
}

#[test]
fn where_others_can_move_things_about_no_worker_of_root_makes_workspaces_for_them() {
    let Some(scene) = Scene::set("a work directory of the jobs' user", &[]) else { return };
    let work = scene.cluster.site.path().join("work");
    fs::create_dir(&work).unwrap();
    std::os::unix::fs::chown(&work, Some(65534), Some(65534)).unwrap();
    let (home, token) = (scene.cluster.site.home("w2"), scene.cluster.token("--worker"));
    let mut command =
        home.command(["worker", "join", &scene.cluster.address, "--token", &token, "--name", "w2"]);
    command.args(["--run-as", "nobody", "--work-dir"]).arg(&work);

    let mut refused = Process::logged(&home, command);

    assert_eq!(refused.wait(), 1);
    let said = fs::read_to_string(home.path().join("worker.log")).unwrap();
    let words = format!("have to be root's, and writable by nobody else: {} is not", work.display());
    assert!(said.contains(&words), "{said}");
}

#[test]
fn a_job_of_another_user_opens_its_own_outputs() {
    let Some(scene) = Scene::set("outputs of a job of another user", &[]) else { return };

    let told = scene.cluster.operator.run(["run", "echo out > /dev/stdout; echo err > /dev/stderr"]);

    assert_eq!((told.code, told.stdout.as_str(), told.stderr.as_str()), (0, "out\n", "err\n"));
    let nowhere = scene.cluster.operator.run(["run", "--cwd", "/nonexistent", "true"]);
    assert!(nowhere.stderr.contains("cannot enter its directory: "), "{}", nowhere.stderr);
}

/// Starts a program in a session of the kernel's keyrings that has a key. The numbers are this architecture's.
#[cfg(target_arch = "x86_64")]
const WITH_A_KEY: &str = r#"
    sub add_key { 248 } sub keyctl { 250 } sub JOIN { 1 } sub SESSION { -3 }
    exit 9 if syscall(keyctl, JOIN, 0) < 0;
    exit 9 if syscall(add_key, my $type = "user", my $name = "cctl-secret", my $value = "x", 1, SESSION) < 0;
    exec { $ARGV[0] } @ARGV;
"#;

#[cfg(target_arch = "x86_64")]
#[test]
fn a_job_of_another_user_has_no_keys_of_the_session_that_its_worker_was_started_in() {
    let Some(scene) = Scene::set("keys of the kernel", &[]) else { return };
    let cluster = &scene.cluster;
    let see = "grep -q cctl-secret /proc/keys && echo seen || echo unseen";
    let in_session = Command::new("perl").args(["-e", WITH_A_KEY, "bash", "-c", see]).output().unwrap();
    if in_session.stdout != b"seen\n" {
        skipped("keys of the kernel (it lets nobody have any)");
        return;
    }
    let (home, token) = (cluster.site.home("w2"), cluster.token("--worker"));
    let worker = home.command([
        "worker",
        "join",
        &cluster.address,
        "--token",
        &token,
        "--name",
        "w2",
        "--run-as",
        "nobody",
    ]);
    let mut command = Command::new("perl");
    command.args(["-e", WITH_A_KEY]).arg(worker.get_program()).args(worker.get_args()).env_clear();
    command.envs(worker.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let _worker = Process::logged(&home, command);
    cluster.wait_for_worker("w2", "ready");

    assert_eq!(cluster.operator.run(["run", "--on", "w2", see]).ok(), "unseen\n");
}

#[test]
fn a_script_too_long_for_an_argument_is_its_jobs_to_read() {
    let Some(scene) = Scene::set("a long script of another user", &[]) else { return };
    let long = format!("echo {} | wc -c\nstat -c '%U %a' \"$0\"\n", "x".repeat(200_000));

    let told = scene.cluster.operator.run_with_input(["--pool", "lab"], long.as_bytes());

    assert_eq!(told.ok(), "200001\nnobody 600\n");
}

#[test]
fn a_fork_bomb_is_ended_with_all_that_it_became_and_its_neighbour_goes_on() {
    let Some(scene) = Scene::set("a fork bomb", &[]) else { return };
    let operator = &scene.cluster.operator;
    let gate = scene.cluster.site.path().join("gate");
    let neighbour = operator
        .run(["submit", &format!("while [ ! -e {} ]; do sleep 0.05; done; echo fine", gate.display())]);
    let neighbour = neighbour.ok();
    // A tree of 255 that ignore what can be ignored and put another in the place of each that ends: as bad as a bomb
    // that has reached somebody's limit, and no worse if it should ever get out of here.
    let bomb = "trap '' TERM INT HUP\nbomb() { while :; do if [ $1 = 0 ]; then sleep 0.05; else bomb $(($1 - 1)) & bomb $(($1 - 1)) & wait; fi; done; }\nbomb 7";
    let id = operator.run(["submit", "--env", MARK, bomb]).ok();
    let id = id.trim();
    wait_until("it has grown", || census::carrying(MARK).len() > 200);

    operator.run(["cancel", "--kill", "--yes", id]).ok();

    operator.wait_for_state(id, "cancelled");
    census::assert_none(MARK);
    fs::write(&gate, "").unwrap();
    assert_eq!(operator.run(["wait", neighbour.trim()]).code, 0);
    assert_eq!(operator.run(["logs", neighbour.trim()]).ok(), "fine\n");
}

#[test]
fn a_job_that_fills_the_disk_fails_and_the_next_one_has_room() {
    let work = tempfile::Builder::new().prefix("cctl-work-").tempdir().unwrap();
    let Some(small) = Small::mount(work.path(), 8) else {
        skipped("a job that fills the disk (needs root, and a kernel that lets it mount)");
        return;
    };
    let Some(scene) =
        Scene::set("a job that fills the disk", &["--work-dir", small.path().to_str().unwrap()])
    else {
        return;
    };

    let full = scene.cluster.operator.run(["run", "head -c 100M /dev/zero > big || exit 9"]);

    assert_eq!(full.code, 9);
    assert!(full.stderr.contains("No space left on device"), "{full:?}");
    let next = scene.cluster.operator.run(["run", "head -c 1M /dev/zero > small && stat -c %s small"]);
    assert_eq!(next.ok(), "1048576\n");
}
