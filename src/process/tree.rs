//! Everything that descends from this process: finding it, signalling it, and making sure that it is gone.
//!
//! This process is a child sub-reaper, so what loses its parent becomes its child. Only unreaped direct children are
//! *killed* by their pid, since no other pid is safe from being used again.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::clock;
use super::signal::{self, Process};

/// Between two rounds of killing.
const ROUND: Duration = Duration::from_millis(1);

/// Makes this process the one that orphans of its tree are given to.
pub(super) fn become_reaper() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Asks every descendant of this process to end; stopped ones are continued, or they would not notice. A group whose
/// leader has not been reaped is asked as one, so that each member is asked once.
pub(super) fn signal_all(group: Option<i32>, number: i32) {
    if let Some(group) = group {
        signal::send(-group, number);
        signal::send(-group, libc::SIGCONT);
    }
    let all = descendants();
    let own = i32::try_from(std::process::id()).expect("pids are positive");
    for &pid in &all {
        let Some(process) = Process::open(pid) else { continue };
        // It may have ended since it was found, and the number be somebody else's by now.
        let is_ours = parent_of(pid).is_some_and(|parent| parent == own || all.contains(&parent));
        // SAFETY: getpgid reads a number.
        if is_ours && Some(unsafe { libc::getpgid(pid) }) != group {
            process.send(number);
            process.send(libc::SIGCONT);
        }
    }
}

/// Reaps children that have ended; whether none is left at all.
pub(super) fn reap() -> bool {
    loop {
        // SAFETY: reaps any child; no status is wanted.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } {
            -1 => return true,
            0 => return false,
            _ => {}
        }
    }
}

/// Kills a group whose leader has not been reaped, and direct children. What they leave becomes our child, and is killed
/// in the next round.
pub(super) fn kill_children(group: Option<i32>) {
    if let Some(group) = group {
        signal::send(-group, libc::SIGKILL);
    }
    children().into_iter().for_each(|pid| signal::send(pid, libc::SIGKILL));
}

/// Kills and reaps in rounds until no child is left but those in `spare`, or the time is over: what runs as another user
/// or hangs in the kernel cannot be killed. Whether none is left.
pub(super) fn kill_all(spare: &BTreeSet<i32>, within: Duration) -> bool {
    let until = clock::boottime() + within;
    loop {
        let doomed: Vec<i32> = children().difference(spare).copied().collect();
        for &pid in &doomed {
            signal::send(pid, libc::SIGKILL);
            // SAFETY: reaps a direct child of ours; no status is wanted.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
        }
        if doomed.is_empty() {
            return true;
        }
        if clock::boottime() > until {
            return false;
        }
        std::thread::sleep(ROUND);
    }
}

/// Direct children of another process.
pub(super) fn children_of(pid: i32) -> BTreeSet<i32> {
    children_in(&pid.to_string(), pid)
}

fn children() -> BTreeSet<i32> {
    children_in("self", i32::try_from(std::process::id()).expect("pids are positive"))
}

/// All processes below this one.
fn descendants() -> BTreeSet<i32> {
    let mut found = children();
    let mut next: Vec<i32> = found.iter().copied().collect();
    while let Some(pid) = next.pop() {
        next.extend(children_of(pid).into_iter().filter(|child| found.insert(*child)));
    }
    found
}

/// Every thread of a process may have children.
fn children_in(name: &str, pid: i32) -> BTreeSet<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{name}/task")) else { return BTreeSet::new() };
    let mut found = BTreeSet::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // A kernel without CONFIG_PROC_CHILDREN, or a thread that has just ended.
            Err(_) => return by_parent(pid),
        }
    }
    found
}

/// The slow way: every process tells its parent.
fn by_parent(parent: i32) -> BTreeSet<i32> {
    let is_child = |pid: i32| parent_of(pid) == Some(parent);
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| is_child(*pid)).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_the_same_children() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();

        assert!(children().contains(&pid));
        assert!(by_parent(own).contains(&pid));

        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!by_parent(own).contains(&pid));
    }
}
