//! Everything that descends from this process: finding it, signalling it, and making sure that it is gone.
//!
//! This process is a child sub-reaper, so what loses its parent becomes its child. Only unreaped direct children are
//! *killed* by their pid, since no other pid is safe from being used again.

use std::collections::BTreeSet;
use std::fs;

use super::signal;

/// Makes this process the one that orphans of its tree are given to.
pub(super) fn become_reaper() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Direct children of this process that have not been reaped.
pub(super) fn children() -> BTreeSet<i32> {
    children_of("self")
}

/// Sends a signal to a process group, and to every descendant of this process that has left it; stopped ones are
/// continued, or they would not notice.
pub(super) fn signal_all(group: i32, number: i32, spare: &BTreeSet<i32>) {
    signal::send(-group, number);
    signal::send(-group, libc::SIGCONT);
    for pid in descendants(spare) {
        // SAFETY: getpgid reads a number.
        if unsafe { libc::getpgid(pid) } != group {
            signal::send(pid, number);
            signal::send(pid, libc::SIGCONT);
        }
    }
}

/// Kills every descendant but those in `spare` (and theirs), and reaps until none is left.
pub(super) fn kill_all(spare: &BTreeSet<i32>) {
    loop {
        let doomed: Vec<i32> = children().difference(spare).copied().collect();
        if doomed.is_empty() {
            return;
        }
        for &pid in &doomed {
            signal::send(pid, libc::SIGKILL);
        }
        for pid in doomed {
            // SAFETY: waits for a direct child of ours; no status is wanted. It was killed, so it ends.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
        }
    }
}

/// As `kill_all` for a process whose children are all of one attempt: no look at /proc where nothing was left.
pub(super) fn kill_all_children() {
    loop {
        // SAFETY: reaps any child; no status is wanted.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } {
            -1 => return,
            0 => kill_all(&BTreeSet::new()),
            _ => {}
        }
    }
}

/// All processes below this one, except `spare` and what is below those.
fn descendants(spare: &BTreeSet<i32>) -> Vec<i32> {
    let mut found: Vec<i32> = children().difference(spare).copied().collect();
    let mut next = 0;
    while next < found.len() {
        let below = children_of(&found[next].to_string());
        for pid in below {
            if !found.contains(&pid) {
                found.push(pid);
            }
        }
        next += 1;
    }
    found
}

/// Every thread of a process may have children.
fn children_of(process: &str) -> BTreeSet<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return BTreeSet::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect()
}
