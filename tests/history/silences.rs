//! P7: a worker from which no byte came is noticed, and then its attempts are shown as unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clusterctl::core::id::{AttemptNumber, Fence, WorkerId};
use clusterctl::core::time::Timestamp;
use clusterctl::core::view::TaskState;

use super::workers::{DECIDED_BEFORE, Workers};
use super::{Check, Findings, Happened, Promise, TaskSight};

/// A pool that is busy looks at the time, and decides about what came, so late.
const LOOKED_LATE: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub(super) struct Silences {
    workers: Workers,
    heard: BTreeMap<WorkerId, Vec<Timestamp>>,
    silent: BTreeSet<WorkerId>,
}

impl Check for Silences {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::PoolStarted = event {
            // Every silence is counted anew.
            self.silent.clear();
            self.heard.values_mut().for_each(|times| times.push(found.now));
        } else if let Happened::Heard(worker) = event {
            self.silent.remove(worker);
            self.heard.entry(*worker).or_default().push(found.now);
        } else if let Happened::Silent { worker, at } = event {
            self.noticed(*worker, *at, found);
        } else if let Happened::TaskSeen { sight, .. } = event {
            self.seen(sight, found);
        }
        self.workers.see(found.now, event);
    }
}

impl Silences {
    /// Silence must be noticed so long after the last byte.
    fn within(&self) -> Option<Duration> {
        self.workers.timing.map(|timing| timing.silent_after)
    }

    fn noticed(&mut self, worker: WorkerId, at: Timestamp, found: &mut Findings) {
        let (Some(times), Some(within)) = (self.heard.get(&worker), self.within()) else { return };
        let before = times.iter().rev().find(|heard| **heard <= at);
        if let Some(quiet) =
            before.map(|heard| at.since(*heard)).filter(|quiet| *quiet > within + LOOKED_LATE)
        {
            let text = format!("worker {worker} was not heard for {quiet:?} before that was noticed");
            found.broken(Promise::P7, text);
        }
        if times.last().is_none_or(|heard| *heard <= at) {
            self.silent.insert(worker);
        }
    }

    fn seen(&self, sight: &TaskSight, found: &mut Findings) {
        if !matches!(sight.state, TaskState::Starting | TaskState::Running) {
            return;
        }
        let fence = Fence { task: sight.task, attempt: AttemptNumber(sight.attempt), ..Fence::default() };
        let Some(worker) = self.workers.place(fence).map(|place| place.worker) else { return };
        let last = self.heard.get(&worker).and_then(|times| times.last());
        let (Some(last), Some(within)) = (last, self.within()) else { return };
        let quiet = found.now.since(*last);
        if self.silent.contains(&worker) || quiet > within + DECIDED_BEFORE {
            let (task, attempt, state) = (sight.task, sight.attempt, sight.state.as_str());
            let text =
                format!("{task}#{attempt} is shown as {state}, its worker was not heard for {quiet:?}");
            found.broken(Promise::P7, text);
        }
    }
}
