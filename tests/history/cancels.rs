//! P11: after a cancel was acknowledged no attempt of its tasks starts, but the one that was at a worker already.

use std::collections::BTreeMap;

use clusterctl::core::id::{Fence, JobId, TaskId};
use clusterctl::core::range::RangeSet;
use clusterctl::core::record::Record;

use super::tasks::{Jobs, all_tasks};
use super::{Check, Findings, Happened, Promise};

#[derive(Debug, Default)]
pub(super) struct Cancels {
    jobs: Jobs,
    /// The attempts by which tasks ended: a start of one may still be under way, to a worker that was removed.
    ended: BTreeMap<TaskId, u32>,
    /// The highest attempt of a cancelled task that may start.
    last_allowed: BTreeMap<TaskId, u32>,
}

impl Check for Cancels {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Recorded(record) = event {
            self.jobs.apply(record);
            if let Record::Ended(ended) = record {
                let Fence { task, attempt, .. } = ended.end.fence;
                self.ended.insert(task, attempt.0);
            }
            if let Record::Assigned(assignment) = record {
                for &(index, attempt) in &assignment.tasks {
                    let task = TaskId { job: assignment.job, index };
                    self.begins(task, attempt.0, "is given to a worker", found);
                }
            }
        } else if let Happened::CancelAccepted { job, ranges } = event {
            self.cancel(*job, ranges);
        } else if let Happened::Started(Fence { task, attempt, .. }) = event {
            self.begins(*task, attempt.0, "starts", found);
        }
    }
}

impl Cancels {
    fn cancel(&mut self, id: JobId, ranges: &RangeSet) {
        let Some(job) = self.jobs.0.get(&id) else { return };
        for index in all_tasks(&job.spec).intersection(ranges).iter() {
            let task = TaskId { job: id, index };
            let ended = self.ended.get(&task).copied();
            let here = self.jobs.active(task).map(|attempt| attempt.0).or(ended).unwrap_or(0);
            self.last_allowed.entry(task).or_insert(here);
        }
    }

    fn begins(&self, task: TaskId, attempt: u32, what: &str, found: &mut Findings) {
        if self.last_allowed.get(&task).is_some_and(|allowed| attempt > *allowed) {
            found.broken(Promise::P11, format!("{task} was cancelled, and its attempt {attempt} {what}"));
        }
    }
}
