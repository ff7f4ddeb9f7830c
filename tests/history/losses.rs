//! P7: what is lost although it may not be retried is lost for a reason that is true. That a worker is not heard is none
//! before its `--lost-after` is over; an executor that took another's place proves nothing but after lease and grace,
//! unless the other is gone and the machine was not booted meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clusterctl::core::id::{Fence, Incarnation, JobId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::outcome::Outcome;
use clusterctl::core::range::RangeSet;
use clusterctl::core::record::{PutBack, Record};
use clusterctl::core::time::Timestamp;

use super::workers::{EXECUTOR_ENDED, Place, Workers, went_silent};
use super::{Check, Findings, Happened, Promise};

#[derive(Debug, Default)]
pub(super) struct Losses {
    workers: Workers,
    /// Of jobs that may not be retried.
    specs: BTreeMap<JobId, Arc<JobSpec>>,
    ended_at_worker: BTreeMap<Fence, Outcome>,
    /// What somebody asked to give up.
    abandoned: BTreeMap<JobId, RangeSet>,
    /// Executors whose workers were told to take nothing new.
    drained: BTreeSet<Incarnation>,
}

impl Check for Losses {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Recorded(Record::Submitted(submission)) = event
            && submission.spec.retries == 0
        {
            self.specs.insert(submission.job, Arc::clone(&submission.spec));
        } else if let Happened::Abandoning { job, ranges } = event {
            let abandoned = self.abandoned.entry(*job).or_default();
            ranges.ranges().for_each(|(first, last)| abandoned.insert_range(first, last));
        } else if let Happened::Drains(executor) = event {
            self.drained.insert(*executor);
        } else if let Happened::Ended { fence, outcome, .. } = event {
            self.ended_there(*fence, outcome, found);
        } else if let Happened::Recorded(Record::Ended(ended)) = event {
            self.ended(ended.end.fence, &ended.end.outcome, found);
        } else if let Happened::Recorded(Record::PutBack { fence, reason }) = event {
            let again = matches!(reason, PutBack::Retry(_) | PutBack::WorkerLost(_));
            if again && self.specs.contains_key(&fence.task.job) {
                found.broken(Promise::P7, format!("{fence} may not be retried, and waits again: {reason:?}"));
            }
        }
        self.workers.see(found.now, event);
    }
}

impl Losses {
    fn ended_there(&mut self, fence: Fence, outcome: &Outcome, found: &mut Findings) {
        let by_its_lease = matches!(outcome, Outcome::Lost(reason) if reason == "its lease ran out");
        if by_its_lease && self.specs.contains_key(&fence.task.job) {
            found.broken(Promise::P7, format!("{fence} has no lease, and was ended by that"));
        }
        self.ended_at_worker.insert(fence, outcome.clone());
    }

    fn ended(&self, fence: Fence, outcome: &Outcome, found: &mut Findings) {
        let (Some(spec), Outcome::Lost(reason)) = (self.specs.get(&fence.task.job), outcome) else { return };
        let Some(place) = self.workers.place(fence).filter(|_| self.workers.tells()) else { return };
        if let Some(truth) = self.truth(found.now, fence, spec, place, reason) {
            found.broken(Promise::P7, format!("{fence} is recorded as lost: {reason}; and {truth}"));
        }
    }

    /// What speaks against the reason of a loss, if anything does.
    fn truth(
        &self,
        now: Timestamp,
        fence: Fence,
        spec: &JobSpec,
        place: Place,
        reason: &str,
    ) -> Option<String> {
        let there = self.ended_at_worker.get(&fence);
        let is_true = match reason {
            "abandoned" => {
                self.abandoned.get(&fence.task.job).is_some_and(|ranges| ranges.contains(fence.task.index))
            }
            "its worker was removed" => self.workers.was_removed(place.worker),
            "the worker was stopped" => self.drained.contains(&place.executor),
            "its worker was drained" => matches!(there, Some(Outcome::Cancelled(_))),
            EXECUTOR_ENDED => {
                let after = self.workers.present(place.worker).and_then(|present| self.workers.boot(present));
                self.workers.is_gone(place.executor) && self.workers.boot(place.executor) == after
            }
            reason if went_silent(reason) => return self.truth_of_silence(now, spec, place),
            // Only its executor can know.
            reason => matches!(there, Some(Outcome::Lost(there)) if there == reason),
        };
        (!is_true).then(|| format!("that is not so; at its worker it was {there:?}"))
    }

    fn truth_of_silence(&self, now: Timestamp, spec: &JobSpec, place: Place) -> Option<String> {
        let timing = self.workers.timing?;
        let lapses = timing.over_after(timing.lease);
        if self.workers.replaced(place).is_some_and(|at| at + lapses <= now) {
            return None;
        }
        let lost_after = spec.lost_after.unwrap_or(timing.lost_after);
        let quiet = self.workers.quiet_at_most(now, place);
        (quiet < lost_after)
            .then(|| format!("its worker was not heard for {quiet:?} at most, not {lost_after:?}"))
    }
}
