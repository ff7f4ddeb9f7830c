//! P5: a task has one outcome, and what that says of an attempt is what became of that attempt.

use std::collections::{BTreeMap, BTreeSet};

use clusterctl::core::id::{Fence, JobId, TaskId};
use clusterctl::core::outcome::Outcome;
use clusterctl::core::range::RangeSet;
use clusterctl::core::record::{Record, TaskEnded};

use super::tasks::Jobs;
use super::{Check, Findings, Happened, Promise};

#[derive(Debug, Default)]
pub(super) struct Outcomes {
    jobs: Jobs,
    over: BTreeSet<TaskId>,
    /// Those that were at a worker when somebody wanted their end.
    cancelled: BTreeSet<TaskId>,
    ended_at_worker: BTreeMap<Fence, Outcome>,
    known_at_worker: BTreeSet<Fence>,
}

impl Check for Outcomes {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Recorded(record) = event {
            if let Record::Ended(ended) = record {
                self.ended(ended, found);
            } else if let Record::CancelWanted { job, ranges, .. } = record {
                self.cancel(*job, &RangeSet::of(ranges));
            }
            self.jobs.apply(record);
        } else if let Happened::Ended { fence, outcome, .. } = event {
            self.ended_at_worker.insert(*fence, outcome.clone());
            self.known_at_worker.insert(*fence);
        } else if let Happened::Started(fence) = event {
            self.known_at_worker.insert(*fence);
        }
    }
}

impl Outcomes {
    /// Notes whose outcome may be that somebody wanted its end, and which tasks end by that alone.
    fn cancel(&mut self, id: JobId, wanted: &RangeSet) {
        let Some(job) = self.jobs.0.get(&id) else { return };
        let task = |index: u32| TaskId { job: id, index };
        let active = job.active.keys().copied().filter(|index| wanted.contains(*index));
        self.cancelled.extend(active.map(task));
        let waiting = job.waiting.iter().copied().filter(|index| wanted.contains(*index));
        self.over.extend(waiting.map(task));
    }

    fn ended(&mut self, ended: &TaskEnded, found: &mut Findings) {
        let (fence, outcome) = (ended.end.fence, &ended.end.outcome);
        let task = fence.task;
        if !self.over.insert(task) {
            found.broken(Promise::P5, format!("{task} ends a second time: {outcome:?}"));
            return;
        }
        if self.jobs.active(task) != Some(fence.attempt) {
            let text = format!("{task} ends by attempt {}, which is not the one that counts", fence.attempt);
            found.broken(Promise::P5, text);
        }
        let there = self.ended_at_worker.get(&fence);
        let is_true = match outcome {
            Outcome::Exited(_) | Outcome::Signaled(_) | Outcome::TimedOut | Outcome::SpawnFailed(_) => {
                there == Some(outcome)
            }
            Outcome::Cancelled(_) => self.cancelled.contains(&task),
            // Whoever stops a worker ends what is there: what never came there waits for another.
            Outcome::Lost(reason) => {
                reason != "the worker was stopped" || self.known_at_worker.contains(&fence)
            }
            // How often its workers went down is looked at by itself.
            Outcome::Quarantined => true,
        };
        if !is_true {
            found.broken(Promise::P5, format!("{fence} is recorded as {outcome:?}, and was {there:?} there"));
        }
    }
}
