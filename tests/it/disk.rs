//! A disk that fills up under a pool or a worker. Needs root, to mount a small one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statvfs::statvfs;

use crate::cluster::{Cluster, Process, Site, join_command, pool_command, skipped, wait_until};
use crate::storage::revived::{Fault, Shim};

/// A small file system, for as long as this lives.
pub struct Small(PathBuf);

impl Small {
    pub fn mount(at: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=1777"), "none"]).arg(at);
        let mounted = mount.stderr(std::process::Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn free(&self) -> u64 {
        let system = statvfs(&self.0).unwrap();
        system.blocks_available() * system.fragment_size()
    }

    /// Leaves no more free than this.
    fn fill(&self, leave: u64, name: &str) -> PathBuf {
        let filler = self.0.join(name);
        let file = File::create(&filler).unwrap();
        let bytes = i64::try_from(self.free().saturating_sub(leave)).unwrap();
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, bytes).unwrap();
        filler
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the last process that uses it may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_pool_whose_disk_is_full_takes_nothing_new_and_ends_what_it_has() {
    let site = Site::new();
    let state = site.home("operator").state();
    let Some(small) = Small::mount(&state, 64) else {
        skipped("a pool whose disk is full (needs root, and a kernel that lets it mount)");
        return;
    };
    let mut cluster = Cluster::at(site);
    cluster.join("w1", &["--slots", "2"]);
    let operator = &cluster.operator;
    let gate = |name: &str| cluster.site.path().join(name);
    let wait = |name: &str| format!("while [ ! -e {} ]; do sleep 0.02; done", gate(name).display());
    let submit = |script: &str| operator.run(["submit", script]).ok().trim().to_owned();
    let short = submit(&format!("echo begun; {}; echo done; exit 7", wait("short")));
    let long = submit(&format!("{}; seq 1 6000000; exit 8", wait("long")));
    wait_until("there is a reserve", || state.join("lab/reserve").exists());

    // Less than half of what is to stay free, so that the reserve goes as well.
    let filler = small.fill(1 << 20, "filler");

    let refused = || operator.run(["submit", "true"]);
    wait_until("what is new is refused", || refused().code == 6);
    let said = refused().stderr;
    assert!(
        said.contains("error: the pool's disk is nearly full: ") && said.contains("code: disk-low"),
        "{said}"
    );
    let place = state.join("lab").display().to_string();
    assert!(
        said.contains(&format!("  place: {place}\n")) && said.contains("  hint: make room there"),
        "{said}"
    );
    let status = operator.run(["pool", "status"]).ok();
    assert!(status.contains("\n  disk      nearly full, so new jobs are refused: "), "{status}");
    let doctor = operator.run(["doctor"]);
    let checked = format!("FAIL  disk       the pool refuses new jobs, {place} is nearly full: ");
    assert!(doctor.code == 1 && doctor.stdout.contains(&checked), "{doctor:?}");
    wait_until("the reserve is let go", || !state.join("lab/reserve").exists());
    std::fs::write(gate("short"), "").unwrap();
    assert_eq!(operator.run(["wait", &short]).code, 7);
    assert_eq!(operator.run(["logs", &short]).ok(), "begun\ndone\n");
    std::fs::write(gate("long"), "").unwrap();
    // Old output makes room for new; none of it takes what the records need.
    assert_eq!(operator.run(["wait", &long]).code, 8);
    let logs = operator.run(["logs", &long]);
    assert!(logs.code == 0 && logs.stderr.contains("no longer kept"), "{} {}", logs.code, logs.stderr);
    assert!(small.free() > 0);

    std::fs::remove_file(filler).unwrap();
    wait_until("there is room again", || refused().code == 0);
    assert_eq!(operator.run(["run", "echo fine"]).ok(), "fine\n");
    wait_until("a reserve is held again", || state.join("lab/reserve").exists());
}

#[test]
fn a_pool_starts_on_a_disk_that_is_full_to_the_last_byte_as_long_as_anything_of_its_own_can_go() {
    let site = Site::new();
    let state = site.home("operator").state();
    let Some(small) = Small::mount(&state, 64) else {
        skipped("a pool that starts on a full disk (needs root, and a kernel that lets it mount)");
        return;
    };
    let mut cluster = Cluster::at(site);
    cluster.join("w1", &[]);
    let operator = cluster.operator.clone();
    let run = || {
        let job = operator.run(["submit", "seq 1 4000000; exit 9"]).ok().trim().to_owned();
        assert_eq!(operator.run(["wait", &job]).code, 9);
        job
    };
    let output = || -> u64 {
        let segments = std::fs::read_dir(state.join("lab/output")).unwrap().flatten();
        segments.map(|segment| segment.metadata().map_or(0, |file| file.len())).sum()
    };
    let takes_more = || operator.run(["submit", "true"]).code == 0;
    let wait_for_reserve = || wait_until("there is a reserve", || state.join("lab/reserve").exists());

    // There is no output: its reserve lets it start.
    wait_for_reserve();
    cluster.kill_pool();
    let filler = small.fill(0, "filler");
    cluster.restart_pool();
    wait_until("what is new is refused", || operator.run(["submit", "true"]).code == 6);
    std::fs::remove_file(filler).unwrap();
    cluster.wait_for_worker("w1", "ready");
    wait_until("it takes more", takes_more);

    // There is no reserve: output makes room.
    let job = run();
    wait_for_reserve();
    let before = output();
    cluster.kill_pool();
    std::fs::remove_file(state.join("lab/reserve")).unwrap();
    let filler = small.fill(0, "filler");
    cluster.restart_pool();
    assert_eq!(operator.run(["wait", &job]).code, 9);
    assert!(output() < before);

    // Nothing is appended, and it makes room all the same.
    let _another = small.fill(1 << 20, "another");
    wait_until("it takes nothing", || !takes_more());
    wait_until("it takes more", takes_more);
    std::fs::remove_file(filler).unwrap();
    cluster.wait_for_worker("w1", "ready");
    assert_eq!(operator.run(["run", "echo fine"]).ok(), "fine\n");
}

/// Lines of a job that writes more than a worker keeps in memory.
const LINES: u32 = 400_000;

/// While its pool is away a job writes more than its worker keeps in memory, as soon as the file is there that this is
/// told of; whether all of it arrives then.
fn all_arrives(cluster: &mut Cluster, meanwhile: impl FnOnce(&Path)) -> bool {
    let gate = cluster.site.path().join("gate");
    let script = format!("until [ -e {} ]; do sleep 0.02; done; seq 1 {LINES}; exit 3", gate.display());
    let id = cluster.operator.run(["submit", &script]).ok().trim().to_owned();
    cluster.operator.wait_for_state(&id, "running");
    cluster.kill_pool();
    meanwhile(&gate);
    cluster.restart_pool();
    let code = cluster.operator.run(["wait", &id]).code;
    let logs = cluster.operator.run(["logs", &id]);
    let all: String = (1..=LINES).map(|n| format!("{n}\n")).collect();
    code == 3 && logs.code == 0 && logs.stdout == all
}

#[test]
fn a_job_whose_output_has_no_space_waits_and_all_of_it_arrives() {
    let site = Site::new();
    let place = site.home("w1").path().to_owned();
    let Some(small) = Small::mount(&place, 32) else {
        skipped("a job whose output has no space (needs root, and a kernel that lets it mount)");
        return;
    };
    let mut cluster = Cluster::at(site);
    cluster.join("w1", &[]);

    let arrives = all_arrives(&mut cluster, |gate| {
        small.fill(1 << 20, "filler");
        std::fs::write(gate, "").unwrap();
        wait_until("there is no space for more", || small.free() == 0);
    });

    assert!(arrives);
}

#[test]
fn output_that_a_disk_has_dropped_is_found() {
    let site = Site::new();
    let Some(shim) = Shim::compile(site.path()) else { return };
    let mut cluster = Cluster::at(site);
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let mut command = join_command(&home, &cluster.address, "w1", &["--token", &token]);
    shim.load(&mut command, Some(&Fault { at: "write 1".to_owned(), deed: "lie" }));
    let _worker = Process::logged(&home, command);
    cluster.wait_for_worker("w1", "ready");

    let arrives = all_arrives(&mut cluster, |gate| {
        std::fs::write(gate, "").unwrap();
        wait_until("something is dropped", || shim.counts().done > 0);
    });

    assert!(!arrives, "nothing was found");
}

#[test]
fn a_pool_and_a_worker_whose_log_has_no_space_go_on() {
    let mut cluster = Cluster::start();
    cluster.kill_pool();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = pool_command(&cluster.operator, &cluster.address);
    let mut pool = Process::start(command.env("CLUSTERCTL_LOG", "debug").stdout(full()).stderr(full()));
    wait_until("the pool answers", || cluster.operator.run(["workers", "-q"]).code == 0);
    let (home, token) = (cluster.site.home("w1"), cluster.token("--worker"));
    let mut command = join_command(&home, &cluster.address, "w1", &["--token", &token]);
    let mut worker = Process::start(command.env("CLUSTERCTL_LOG", "debug").stdout(full()).stderr(full()));
    wait_until("the worker has joined", || {
        assert_eq!((pool.ended(), worker.ended()), (None, None));
        cluster.operator.run(["workers"]).stdout.contains("ready")
    });

    let done = cluster.operator.run(["run", "echo fine"]);

    assert_eq!((done.code, done.stdout.as_str()), (0, "fine\n"), "{}", done.stderr);
    assert_eq!((pool.ended(), worker.ended()), (None, None));
}

#[test]
fn a_worker_whose_disk_is_full_lives_and_takes_no_more_until_there_is_space() {
    let site = Site::new();
    let place = site.home("w1").path().to_owned();
    let Some(small) = Small::mount(&place, 32) else {
        skipped("a worker whose disk is full (needs root, and a kernel that lets it mount)");
        return;
    };
    let mut cluster = Cluster::at(site);
    cluster.join("w1", &["--slots", "2"]);
    let operator = &cluster.operator;
    let gate = cluster.site.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.02; done; echo done; exit 3", gate.display());
    let runs = operator.run(["submit", &wait]).ok().trim().to_owned();
    wait_until("it runs", || operator.run(["show", &runs]).ok().contains("job 1: running"));

    let filler = small.fill(1 << 20, "filler");

    wait_until("the worker says that it is full", || operator.run(["workers"]).ok().contains(" full "));
    let waits = operator.run(["submit", "echo later"]).ok().trim().to_owned();
    let why = operator.run(["why", &waits]).ok();
    assert!(why.contains("worker w1 has no space in ") && why.contains("1 MiB free"), "{why}");
    std::fs::write(gate, "").unwrap();
    assert_eq!(operator.run(["wait", &runs]).code, 3);

    std::fs::remove_file(filler).unwrap();
    assert_eq!(operator.run(["wait", &waits]).code, 0);
    assert_eq!(operator.run(["logs", &waits]).ok(), "later\n");
}
