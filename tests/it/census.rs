//! Which processes are there: found by what they carry in their environment, as jobs pass it on to all that they start.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cluster::{Site, kill, wait_until};

/// Processes of the attempts that were given this variable.
pub fn carrying(variable: &str) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|pair| pair == variable.as_bytes())
        })
        .filter_map(|entry| std::str::from_utf8(entry.file_name().as_bytes()).ok()?.parse().ok())
        .collect()
}

/// Processes with these arguments, of whatever they carry nothing.
pub fn commanded(arguments: &[&str]) -> Vec<i32> {
    let wanted: String = arguments.iter().map(|argument| format!("{argument}\0")).collect();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted.as_bytes())
    })
    .collect()
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The child processes of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The command lines of processes of attempts that were given this variable.
pub fn left(variable: &str) -> Vec<String> {
    let line =
        |pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    carrying(variable).into_iter().map(line).collect()
}

/// Panics with their command lines if there are some.
#[track_caller]
pub fn assert_none(variable: &str) {
    let left = left(variable);
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Processes that write their ids into a file, and end with this. One of them would stay stopped for ever.
struct Planted(PathBuf);

impl Planted {
    fn pids(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Kills one, and what it waits for.
    fn end(pid: i32) {
        children(pid).into_iter().chain([pid]).for_each(|pid| kill(pid, libc::SIGKILL));
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        self.pids().into_iter().filter(|pid| is_alive(*pid)).for_each(Self::end);
    }
}

#[test]
fn planted_processes_are_found_whatever_they_have_left_and_until_the_last_has_ended() {
    let mark = format!("MARK=planted-{}", std::process::id());
    let variable = mark.split_once('=').unwrap();
    let site = Site::new();
    let planted = Planted(site.path().join("pids"));
    // Each is nobody's child and leads a session of its own; one hears no signal, one is stopped, one is called otherwise.
    let script = "ways=(\"trap '' HUP INT TERM; sleep 100; :\" 'kill -STOP $$' 'exec -a [kworker/0:1] sleep 100'); \
                  for way in \"${ways[@]}\"; do (setsid bash -c \"echo \\$\\$ >> $0; $way\" &); done";
    let mut plant = Command::new("bash");
    plant.args(["-c", script]).arg(&planted.0).env(variable.0, variable.1).stdout(Stdio::null());
    assert!(plant.status().unwrap().success());
    wait_until("all are there", || {
        planted.pids().len() == 3 && left(&mark).iter().any(|line| line.contains("kworker"))
    });

    let found = carrying(&mark);
    for pid in planted.pids() {
        assert!(found.contains(&pid), "{pid} was not found: {found:?}");
        assert!(std::panic::catch_unwind(|| assert_none(&mark)).is_err(), "{:?}", left(&mark));
        Planted::end(pid);
        wait_until("it has gone", || !is_alive(pid));
    }
    wait_until("nothing is found", || left(&mark).is_empty());
    assert_none(&mark);
}
