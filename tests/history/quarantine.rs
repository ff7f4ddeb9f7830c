//! P6: a task is quarantined by the loss of a worker that is one too many, and by nothing else; nothing counts as such
//! a loss but an attempt whose worker went down, or was silent when its lease was over.

use std::collections::BTreeMap;

use clusterctl::core::id::{Fence, TaskId};
use clusterctl::core::limits::WORKERS_LOST_MAX;
use clusterctl::core::outcome::Outcome;
use clusterctl::core::record::{PutBack, Record};

use super::workers::{EXECUTOR_ENDED, Workers, went_silent};
use super::{Check, Findings, Happened, Promise};

#[derive(Debug, Default)]
pub(super) struct Quarantine {
    workers: Workers,
    /// How often a task was put back since its worker had gone down.
    lost: BTreeMap<TaskId, u32>,
}

impl Check for Quarantine {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Recorded(Record::PutBack { fence, reason }) = event {
            self.put_back(*fence, reason, found);
        } else if let Happened::Recorded(Record::Assigned(assignment)) = event {
            for &(index, attempt) in &assignment.tasks {
                let task = TaskId { job: assignment.job, index };
                if self.lost(task) >= WORKERS_LOST_MAX {
                    let text = format!("{task}#{attempt} is given out, after {} workers", self.lost(task));
                    found.broken(Promise::P6, text);
                }
            }
        } else if let Happened::Recorded(Record::Ended(ended)) = event {
            self.ended(ended.end.fence, &ended.end.outcome, found);
        }
        self.workers.see(found.now, event);
    }
}

impl Quarantine {
    fn lost(&self, task: TaskId) -> u32 {
        self.lost.get(&task).copied().unwrap_or(0)
    }

    fn put_back(&mut self, fence: Fence, reason: &PutBack, found: &mut Findings) {
        match reason {
            PutBack::WorkerLost(_) => {
                self.look_at_loss(fence, found);
                *self.lost.entry(fence.task).or_default() += 1;
                let lost = self.lost(fence.task);
                if lost >= WORKERS_LOST_MAX {
                    let text = format!("{fence} is put back, although {lost} workers went down");
                    found.broken(Promise::P6, text);
                }
            }
            PutBack::Retry(reason) => {
                if self.speaks_of_its_worker(fence, reason) {
                    found.broken(Promise::P6, format!("of {fence} no worker is counted: {reason}"));
                }
            }
            PutBack::NeverStarted => {}
        }
    }

    fn ended(&self, fence: Fence, outcome: &Outcome, found: &mut Findings) {
        let lost = self.lost(fence.task);
        match outcome {
            Outcome::Quarantined => {
                self.look_at_loss(fence, found);
                if lost + 1 != WORKERS_LOST_MAX {
                    found.broken(
                        Promise::P6,
                        format!("{fence} is quarantined after {lost} workers before it"),
                    );
                }
            }
            Outcome::Lost(reason) => {
                if lost + 1 >= WORKERS_LOST_MAX && self.speaks_of_its_worker(fence, reason) {
                    let text = format!("{fence} is lost and not quarantined, after {lost} workers: {reason}");
                    found.broken(Promise::P6, text);
                }
            }
            Outcome::Exited(_)
            | Outcome::Signaled(_)
            | Outcome::TimedOut
            | Outcome::Cancelled(_)
            | Outcome::SpawnFailed(_) => {}
        }
    }

    /// Whether a reason says that an attempt's worker went down. Who removes a worker takes it from what runs there.
    fn speaks_of_its_worker(&self, fence: Fence, reason: &str) -> bool {
        let was_removed =
            self.workers.place(fence).is_some_and(|place| self.workers.was_removed(place.worker));
        reason == EXECUTOR_ENDED || (went_silent(reason) && !was_removed)
    }

    /// A loss counts: its executor is gone, or another took its place, or it was not heard. (Its lease goes by answered
    /// heartbeats, so it may have been over while other bytes came.)
    fn look_at_loss(&self, fence: Fence, found: &mut Findings) {
        let (Some(place), Some(timing)) = (self.workers.place(fence), self.workers.timing) else { return };
        let is_there = self.workers.tells()
            && !self.workers.is_gone(place.executor)
            && self.workers.present(place.worker) == Some(place.executor);
        let was_heard =
            self.workers.quiet(found.now, place.worker).is_some_and(|quiet| quiet < timing.silent_after);
        if is_there && was_heard {
            found.broken(Promise::P6, format!("the worker of {fence} counts as lost, and is there"));
        }
    }
}
