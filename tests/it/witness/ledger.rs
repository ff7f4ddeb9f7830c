//! What scripts themselves tell of their lives: each writes down when it began and ended, and keeps a copy of all that
//! it prints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clusterctl::core::id::{Fence, TaskId};
use clusterctl::core::outcome::Outcome;
use clusterctl::core::time::WallTime;

use crate::history::{Happened, Written};

/// What scripts begin with. Of one task none but one holds its lock at a time, and who starts says whether it got it:
/// then no process of an earlier attempt is left. A line is copied before it is printed, so that of one that is killed
/// no byte comes out that is not in the copy.
const PRELUDE: &str = r#"
fence=$CLUSTERCTL_FENCE
exec 9>>"$ledger/lock-${fence%%#*}"
flock -n 9 && alone=alone || alone=beside
echo "start $fence $EPOCHREALTIME $alone" >> "$ledger/ledger"
out() { echo "$1" >> "$ledger/out-$fence"; echo "$1"; }
err() { echo "$1" >> "$ledger/err-$fence"; echo "$1" >&2; }
end() { echo "end $fence $EPOCHREALTIME $1" >> "$ledger/ledger"; exit "$1"; }
"#;

/// A directory that all scripts of a cluster write into.
pub struct Ledger(PathBuf);

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub fence: Fence,
    pub at: WallTime,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It began; whether no other process of its task was there.
    Start { alone: bool },
    /// It is about to exit with this code.
    End(u8),
}

impl Ledger {
    pub fn new(directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// A script that prints by `out` and `err`, ends by `end CODE`, and leaves descriptor 9 alone.
    pub fn script(&self, body: &str) -> String {
        format!("ledger={}{PRELUDE}{body}", self.0.display())
    }

    /// Every whole line so far.
    pub fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.0.join("ledger")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| parse(line).unwrap_or_else(|| panic!("a line of the ledger: {line}")))
            .collect()
    }

    /// The copy of what an attempt printed.
    pub fn written(&self, fence: Fence) -> Written {
        ["out", "err"].map(|name| std::fs::read(self.0.join(format!("{name}-{fence}"))).unwrap_or_default())
    }

    /// What happened, by attempt, with when it did. An attempt that was ended by somebody else tells nothing of its end;
    /// the next one does, that finds nothing left of it.
    ///
    /// The last line that a killed one copied it may not have printed: what was kept of it decides.
    pub fn events(&self, kept: &BTreeMap<Fence, Written>) -> Vec<(WallTime, Fence, Happened)> {
        let nothing = Written::default();
        let printed = |fence: Fence| printed(self.written(fence), kept.get(&fence).unwrap_or(&nothing));
        let mut running: BTreeMap<TaskId, Vec<Fence>> = BTreeMap::new();
        let mut events = Vec::new();
        for Line { fence, at, what } in self.lines() {
            let ended = |fence, outcome, written| (at, fence, Happened::Ended { fence, outcome, written });
            let here = running.entry(fence.task).or_default();
            match what {
                What::Start { alone } => {
                    if alone {
                        let killed = here.drain(..);
                        events.extend(
                            killed.map(|killed| ended(killed, Outcome::Signaled(9), printed(killed))),
                        );
                    }
                    here.push(fence);
                    events.push((at, fence, Happened::Started(fence)));
                }
                What::End(code) => {
                    here.retain(|other| *other != fence);
                    events.push(ended(fence, Outcome::Exited(code), self.written(fence)));
                }
            }
        }
        let killed = running.into_values().flatten();
        let now = events.last().map_or(WallTime(0), |(at, ..)| *at);
        let last_seen = |fence| (now, fence, Happened::StillRuns { fence, written: printed(fence) });
        events.extend(killed.map(last_seen));
        events
    }
}

/// What came out of somebody who was killed, by their copy: all, or all but its last line.
fn printed(copies: Written, kept: &Written) -> Written {
    let [stdout, stderr] = copies;
    let printed = |mut copy: Vec<u8>, kept: &[u8]| {
        let last = copy
            .strip_suffix(b"\n")
            .map_or(0, |rest| rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
        if copy[..last] == *kept {
            copy.truncate(last);
        }
        copy
    };
    [printed(stdout, &kept[0]), printed(stderr, &kept[1])]
}

fn parse(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    let [kind, fence, at, more] = words[..] else { return None };
    // Microseconds of which milliseconds are wanted, rounded down as everywhere.
    let (seconds, micros) = at.split_once('.')?;
    let at = WallTime(seconds.parse::<i64>().ok()? * 1000 + micros.parse::<i64>().ok()? / 1000);
    let what = match (kind, more) {
        ("start", "alone") => What::Start { alone: true },
        ("start", "beside") => What::Start { alone: false },
        ("end", code) => What::End(code.parse().ok()?),
        _ => return None,
    };
    Some(Line { fence: Fence::parse(fence)?, at, what })
}
