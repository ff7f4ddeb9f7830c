//! Taking jobs in, and giving their tasks out.

use std::sync::Arc;

use crate::core::audit::AuditKind;
use crate::core::id::{JobId, JobNonce, RequestId, SecretsId, WorkerId};
use crate::core::job::JobSpec;
use crate::core::limits;
use crate::core::record::{Assignment, Record, Submission};
use crate::core::space::{Space, low};
use crate::core::time::Now;

use super::{Batch, Pool, Viewer};

/// Why a job is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The same request id came before with another spec.
    #[error("this request id was used for another job")]
    RequestReused(JobId),
    /// The owner has too many tasks that have not ended.
    #[error("the pool's queue is full: {live} tasks of yours have not ended, at most {bound} may")]
    QueueFull {
        /// How many it has.
        live: u64,
        /// How many it may.
        bound: u64,
    },
    /// The pool's disk is nearly full.
    #[error("the pool's disk is nearly full: {}", low(*free_bytes, *needed_bytes))]
    DiskLow {
        /// What is free.
        free_bytes: u64,
        /// What has to be.
        needed_bytes: u64,
    },
    /// The pool has too many tasks that have not ended.
    #[error("the pool's queue is full: {0} tasks have not ended")]
    PoolFull(u64),
}

/// A submit, with all that the pool is given for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submit {
    /// Who submits, and for whom.
    pub viewer: Viewer,
    /// Chosen by the client.
    pub request: RequestId,
    /// Random.
    pub nonce: JobNonce,
    /// What is asked for; checked.
    pub spec: Arc<JobSpec>,
}

impl Pool {
    /// Accepts a job, or finds the one that the same request made before.
    pub fn submit(&mut self, now: Now, submit: Submit) -> Result<JobId, SubmitError> {
        let Submit { viewer, request, nonce, spec } = submit;
        let owner = viewer.owner().to_owned();
        if let Some(known) = self.requests.get(&(owner.clone(), request)) {
            let same = known.digest == spec.digest();
            return if same { Ok(known.job) } else { Err(SubmitError::RequestReused(known.job)) };
        }
        if let Space::Low { free_bytes, needed_bytes } = self.space {
            return Err(SubmitError::DiskLow { free_bytes, needed_bytes });
        }
        let tasks = spec.task_count();
        let live = self.owners.get(&owner).map_or(0, |used| used.live);
        if live + tasks > self.tasks_per_owner {
            return Err(SubmitError::QueueFull { live, bound: self.tasks_per_owner });
        }
        let all: u64 = self.owners.values().map(|used| used.live).sum();
        if all + tasks > limits::QUEUE_TASKS_MAX {
            return Err(SubmitError::PoolFull(all));
        }
        let job = JobId(self.counters.job.0 + 1);
        let script = format!("script {}", spec.script_hash());
        self.audit(now, &viewer, AuditKind::Submitted, format!("job {job}"), script);
        self.record(now, Record::Submitted(Submission { job, nonce, owner, request, spec, at: now.wall }));
        Ok(job)
    }

    /// Whether there is room for new jobs.
    pub fn space(&self) -> Space {
        self.space
    }

    /// So much room there is.
    pub fn set_space(&mut self, space: Space) {
        self.space = space;
    }

    /// Secrets of jobs that have not ended.
    pub fn secrets(&self) -> Vec<SecretsId> {
        self.jobs.values().filter_map(|job| job.submission.secrets()).collect()
    }

    /// Ends the turn: gives out what can be given out, and hands over all that was decided.
    pub fn poll_batch(&mut self, now: Now) -> Option<Batch> {
        self.schedule(now);
        self.relog(now);
        let (first_seq, keep_from) = self.relog.end_turn(self.turn.len());
        let batch = self.turn.take(first_seq, keep_from);
        (!batch.is_empty()).then_some(batch)
    }

    /// Whether the turn holds as much as one commit should: nothing more is decided before that.
    pub fn is_turn_full(&self) -> bool {
        self.turn.bytes() >= limits::TURN_BYTES_MAX
    }

    fn schedule(&mut self, now: Now) {
        loop {
            let owners = &self.owners;
            let in_use = |owner: &str| owners.get(owner).map_or(0, |used| used.active);
            let Some((job, worker)) = self.scheduler.next(in_use) else { return };
            self.assign(now, job, worker);
        }
    }

    fn assign(&mut self, now: Now, id: JobId, worker: WorkerId) {
        let job = self.jobs.get(&id).expect("the scheduler knows live jobs only");
        let index = job.waiting.first().expect("the scheduler knows jobs with waiting tasks only");
        let attempt = job.next_attempt(index);
        let fence = job.fence(index, attempt);
        let lease = job.is_leased().then_some(self.timing.lease);
        let to = &self.workers[&worker];
        let connection = to.connection.expect("an offer is made by a registration");
        let incarnation =
            to.state.facts.as_ref().expect("a registered worker has said its facts").incarnation;
        let tasks = vec![(index, attempt)];
        self.record(now, Record::Assigned(Assignment { job: id, worker, incarnation, tasks, at: now.wall }));
        self.turn.start(connection, &self.jobs[&id].submission, fence, lease);
        self.arm_recall(now, worker);
    }
}
