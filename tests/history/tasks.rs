//! Jobs as the durable records tell them, in the most naive way: every task by itself, nothing cached.
//!
//! The checks compare what the pool does with this.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clusterctl::core::id::{AttemptNumber, Fence, JobId, RequestId, TaskId, WorkerId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::range::RangeSet;
use clusterctl::core::record::{PutBack, Record};

/// All jobs that were ever recorded.
#[derive(Debug, Default)]
pub(super) struct Jobs(pub(super) BTreeMap<JobId, Job>);

/// A job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) owner: String,
    pub(super) request: RequestId,
    pub(super) spec: Arc<JobSpec>,
    pub(super) waiting: BTreeSet<u32>,
    pub(super) active: BTreeMap<u32, (AttemptNumber, WorkerId)>,
}

/// The tasks of a spec.
pub(super) fn all_tasks(spec: &JobSpec) -> RangeSet {
    spec.array.as_ref().map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()))
}

impl Jobs {
    /// Takes a record in. A task that a record speaks of and that is not where it should be is left alone: other
    /// checks say so.
    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Submitted(submission) => {
                let job = Job {
                    owner: submission.owner.clone(),
                    request: submission.request,
                    spec: Arc::clone(&submission.spec),
                    waiting: all_tasks(&submission.spec).iter().collect(),
                    active: BTreeMap::new(),
                };
                self.0.insert(submission.job, job);
            }
            Record::Assigned(assignment) => {
                let Some(job) = self.0.get_mut(&assignment.job) else { return };
                for &(index, attempt) in &assignment.tasks {
                    job.waiting.remove(&index);
                    job.active.insert(index, (attempt, assignment.worker));
                }
            }
            Record::Ended(ended) => {
                self.take(ended.end.fence);
            }
            Record::PutBack {
                fence,
                reason: PutBack::Retry(_) | PutBack::WorkerLost(_) | PutBack::NeverStarted,
            } => {
                if let Some(job) = self.take(*fence) {
                    job.waiting.insert(fence.task.index);
                }
            }
            Record::CancelWanted { job, ranges, .. } => {
                let wanted = RangeSet::of(ranges);
                if let Some(job) = self.0.get_mut(job) {
                    job.waiting.retain(|index| !wanted.contains(*index));
                }
            }
            Record::PoolStarted(_)
            | Record::Counters(_)
            | Record::Job(_)
            | Record::Worker(_)
            | Record::Client(_)
            | Record::ClientRenewed { .. }
            | Record::Token(_)
            | Record::TokenForgotten(_)
            | Record::WorkerForgotten(_) => {}
        }
    }

    fn take(&mut self, fence: Fence) -> Option<&mut Job> {
        let job = self.0.get_mut(&fence.task.job)?;
        job.active.remove(&fence.task.index)?;
        Some(job)
    }

    /// The attempt of a task that is at a worker.
    pub(super) fn active(&self, task: TaskId) -> Option<AttemptNumber> {
        self.0.get(&task.job)?.active.get(&task.index).map(|(attempt, _)| *attempt)
    }

    /// How many tasks are at a worker.
    pub(super) fn at(&self, worker: WorkerId) -> u32 {
        let here = self.0.values().flat_map(|job| job.active.values()).filter(|(_, at)| *at == worker);
        u32::try_from(here.count()).unwrap()
    }

    /// How many tasks of an owner are at workers.
    pub(super) fn in_use(&self, owner: &str) -> usize {
        self.0.values().filter(|job| job.owner == owner).map(|job| job.active.len()).sum()
    }
}
