//! A pool that is killed at its n-th sync, whose n-th sync fails, whose disk has no more space from its n-th write on.
//!
//! `CLUSTERCTL_SYNCS=all` tries every n of a scripted run; otherwise a sample of them.

use std::path::Path;
use std::sync::Arc;

use super::lab::Lab;
use super::revived::{Counts, End, Fault};
use super::{Dice, figures};
use crate::cluster::Site;

/// Which n of so many are tried.
fn tried(count: u64, sample: u64, dice: &mut Dice) -> Vec<u64> {
    if std::env::var("CLUSTERCTL_SYNCS").is_ok_and(|which| which == "all") {
        return (1..=count).collect();
    }
    // Each from a part of its own.
    (0..sample).map(|part| 1 + (part * count + dice.below(count)) / sample).collect()
}

/// Rounds of one kind, one at each n that is tried.
struct Rounds {
    lab: Lab,
    dice: Dice,
    count: u64,
    reached: u64,
    tried: u64,
}

impl Rounds {
    /// Counts what a run asks for that nothing befalls.
    fn new(of: fn(&Counts) -> u64) -> Option<Self> {
        let mut lab = Lab::at(Site::new(), Arc::new(|| ()))?;
        let (_, counts) = lab.round(None);
        Some(Self { lab, dice: Dice(7), count: of(&counts), reached: 0, tried: 0 })
    }

    /// Each n that is tried, with what came of it; those that a run did not get to are passed over.
    fn each(&mut self, kind: &str, deed: &'static str, sample: u64, ended: impl Fn(&Fault, &Counts, End)) {
        for n in tried(self.count, sample, &mut self.dice) {
            let fault = Fault { at: format!("{kind} {n}"), deed };
            let (end, counts) = self.lab.round(Some(&fault));
            self.tried += 1;
            if counts.done > 0 {
                self.reached += 1;
                match end {
                    Some(end) => ended(&fault, &counts, end),
                    // SQLite overlooks that a directory was not synced; the pool does it again itself.
                    None => assert!(Path::new(&counts.path).is_dir(), "the pool goes on: {counts:?}"),
                }
            }
        }
    }

    fn tell(self, what: &str) {
        let Self { lab, count, reached, tried, .. } = self;
        let acknowledged = lab.promised.acknowledged;
        assert!(reached * 2 > tried, "{reached} of {tried} rounds came to what was to befall them");
        assert!(acknowledged > 5 * tried, "{acknowledged} acknowledged: the pool took nothing");
        figures(&format!(
            "{what}: {count} in a run, {tried} rounds, {reached} hit, {acknowledged} acknowledged; every check held"
        ));
    }
}

#[test]
fn a_pool_that_is_killed_at_any_of_its_syncs_takes_back_nothing_that_it_said() {
    let Some(mut rounds) = Rounds::new(|counts| counts.syncs) else { return };

    for deed in ["kill-before", "kill-after"] {
        rounds.each("sync", deed, 3, |_, _, end| assert_eq!(end.code, None, "{end:?}"));
    }

    rounds.tell("killed at a sync");
}

/// A pool that stops by itself, or does not start, says why in a sentence.
fn is_told(fault: &Fault, counts: &Counts, end: &End, words: &[&str]) {
    let told = end.said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert_eq!(end.code, Some(1), "{fault:?} {counts:?} {end:?}");
    let is_named = words.iter().any(|words| told.contains(words));
    assert!(is_named && end.said.contains("code: pool-failed"), "{fault:?} {counts:?} {end:?}");
    assert!(!end.said.contains("panicked"), "{fault:?} {end:?}");
}

#[test]
fn a_pool_whose_sync_fails_says_so_and_stops_and_takes_back_nothing() {
    let Some(mut rounds) = Rounds::new(|counts| counts.syncs) else { return };

    rounds.each("sync", "eio", 4, |fault, counts, end| {
        is_told(fault, counts, &end, &["disk I/O error", "input/output error"])
    });

    rounds.tell("a sync fails");
}

#[test]
fn a_pool_that_cannot_write_any_more_says_so_and_stops_and_takes_back_nothing() {
    let Some(mut rounds) = Rounds::new(|counts| counts.writes) else { return };

    // In SQLite's words, in those for the log's index, and in the operating system's.
    let words = &["disk is full", "disk I/O error", "no space left on device"];
    rounds.each("write", "enospc", 4, |fault, counts, end| is_told(fault, counts, &end, words));

    rounds.tell("no space from a write on");
}
