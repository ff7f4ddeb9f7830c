//! The one function that changes durable state, for live use and replay alike.
//!
//! A record that replay meets was decided by a live pool, so what it speaks of exists; where it might not (the log
//! before it was let go), the record is a whole state and replaces what is there.

use crate::core::id::{Fence, JobId};
use crate::core::outcome::{Cancel, Outcome};
use crate::core::range::RangeSet;
use crate::core::record::{
    Assignment, ClientState, Counters, HistoryItem, JobState, PutBack, Record, Spent, Submission, TaskEnded,
    TokenState, Validity, WorkerState,
};
use crate::core::time::{Timestamp, WallTime};
use crate::core::view::TaskState;

use super::batch::{Effect, Interest, JobEvent};
use super::job::{Active, Job, Phase, Tried};
use super::relog::Item;
use super::worker::Worker;
use super::{Pool, Request};
use crate::core::limits;

impl Pool {
    pub(super) fn apply(&mut self, now: Timestamp, record: &Record) {
        match record {
            Record::PoolStarted(epoch) => self.epoch = *epoch,
            Record::Counters(counters) => self.apply_counters(*counters),
            Record::Submitted(submission) => self.apply_submitted(submission),
            Record::Assigned(assignment) => self.apply_assigned(now, assignment),
            Record::Ended(ended) => self.apply_ended(ended),
            Record::PutBack { fence, reason } => self.apply_put_back(*fence, reason),
            Record::CancelWanted { job, ranges, how, at } => self.apply_cancel(*job, ranges, *how, *at),
            Record::Job(state) => self.apply_job(now, state),
            Record::Worker(state) => self.apply_worker(state),
            Record::Client(state) => self.apply_client(state),
            Record::ClientRenewed { before, client } => {
                self.clients.remove(before);
                self.relog.forget(Item::Client(*before));
                self.apply_client(client);
            }
            Record::Token(state) => self.apply_token(state),
            Record::TokenForgotten(id) => {
                self.tokens.remove(id);
                self.relog.forget(Item::Token(*id));
            }
            Record::WorkerForgotten(id) => self.apply_worker_forgotten(*id),
        }
    }

    fn apply_counters(&mut self, counters: Counters) {
        self.counters.job = self.counters.job.max(counters.job);
        self.counters.worker = self.counters.worker.max(counters.worker);
        self.counters.token = self.counters.token.max(counters.token);
        self.relog.logged(Item::Counters);
    }

    fn apply_submitted(&mut self, submission: &Submission) {
        let id = submission.job;
        self.counters.job = self.counters.job.max(id);
        self.requests.insert(
            (submission.owner.clone(), submission.request),
            Request { job: id, digest: submission.spec.digest() },
        );
        let job = Job::new(submission.clone());
        self.owners.entry(submission.owner.clone()).or_default().live += job.live();
        self.jobs.insert(id, job);
        self.relog.logged(Item::Job(id));
        self.refresh_waiting(id);
    }

    fn apply_assigned(&mut self, now: Timestamp, assignment: &Assignment) {
        let Some(job) = self.jobs.get_mut(&assignment.job) else { return };
        job.started.get_or_insert(assignment.at);
        for &(index, attempt) in &assignment.tasks {
            if !job.waiting.remove(index) {
                continue;
            }
            let spent = job.tried.remove(&index).map_or(Spent::default(), |tried| tried.spent);
            let active = Active {
                attempt,
                spent,
                worker: assignment.worker,
                incarnation: assignment.incarnation,
                at: assignment.at,
                cancel: None,
                phase: Phase::Sent,
                given: now,
                unknown_since: None,
                unknown: std::time::Duration::ZERO,
                doomed: None,
            };
            let fence = job.fence(index, attempt);
            job.active.insert(index, active);
            self.owners.entry(job.submission.owner.clone()).or_default().active += 1;
            if let Some(worker) = self.workers.get_mut(&assignment.worker) {
                worker.active.insert(fence.task);
            }
        }
        self.refresh_waiting(assignment.job);
        self.refresh_offer(assignment.worker);
    }

    fn apply_ended(&mut self, ended: &TaskEnded) {
        let fence = ended.end.fence;
        if self.take_active(fence).is_none() {
            return;
        }
        let job = self.jobs.get_mut(&fence.task.job).expect("the attempt was just taken from it");
        job.count_over(fence.task.index, &ended.end.outcome);
        if ended.end.outcome.is_own() {
            job.learn_pace(ended.end.usage.run);
        }
        self.owners.entry(job.submission.owner.clone()).or_default().live -= 1;
        self.refresh_waiting(fence.task.job);
        self.close_if_over(fence.task.job, ended.ended);
    }

    fn apply_put_back(&mut self, fence: Fence, reason: &PutBack) {
        let Some(active) = self.take_active(fence) else { return };
        let job = self.jobs.get_mut(&fence.task.job).expect("the attempt was just taken from it");
        let mut spent = active.spent;
        match reason {
            PutBack::Retry(_) => spent.attempts += 1,
            PutBack::WorkerLost(_) => {
                spent.attempts += 1;
                spent.workers += 1;
            }
            PutBack::NeverStarted => {}
        }
        job.tried.insert(fence.task.index, Tried { last: fence.attempt, spent });
        job.waiting.insert(fence.task.index);
        self.refresh_waiting(fence.task.job);
    }

    fn apply_cancel(&mut self, id: JobId, ranges: &[(u32, u32)], how: Cancel, at: WallTime) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let wanted = RangeSet::of(ranges);
        let waiting = job.waiting.intersection(&wanted);
        for (first, last) in waiting.ranges() {
            job.waiting.remove_range(first, last);
            job.failed.insert_range(first, last);
        }
        job.tried.retain(|index, _| !waiting.contains(*index));
        *job.over.of_mut(TaskState::Cancelled) += waiting.len();
        for (index, active) in &mut job.active {
            if wanted.contains(*index) {
                active.cancel = active.cancel.max(Some(how));
            }
        }
        self.owners.entry(job.submission.owner.clone()).or_default().live -= waiting.len();
        self.refresh_waiting(id);
        self.close_if_over(id, at);
    }

    /// Takes in a whole job. If the log still has what came before, it is known; but for how long its attempts were
    /// unknown, which nothing else records.
    fn apply_job(&mut self, now: Timestamp, state: &JobState) {
        let id = state.submission.job;
        self.relog.logged(Item::Job(id));
        if let Some(job) = self.jobs.get_mut(&id) {
            job.take_over_silence(now, state);
            debug_assert_eq!(job.state(now), *state, "a repeated job is what it was");
            return;
        }
        let job = Job::restored(state);
        self.counters.job = self.counters.job.max(id);
        let request = Request { job: id, digest: job.submission.spec.digest() };
        self.requests.insert((job.submission.owner.clone(), job.submission.request), request);
        let owner = self.owners.entry(job.submission.owner.clone()).or_default();
        owner.live += job.live();
        owner.active += job.active.len() as u64;
        for (&index, active) in &job.active {
            if let Some(worker) = self.workers.get_mut(&active.worker) {
                worker.active.insert(job.fence(index, active.attempt).task);
            }
        }
        self.jobs.insert(id, job);
        self.refresh_waiting(id);
    }

    fn apply_worker(&mut self, state: &WorkerState) {
        self.counters.worker = self.counters.worker.max(state.id);
        self.relog.logged(Item::Worker(state.id));
        // The name of one that was removed may be another's by now.
        if stands(state.validity) || !self.has_worker(&state.name) {
            self.worker_names.insert(state.name.clone(), state.id);
        }
        if let Some(before) = self.workers.get(&state.id).and_then(|worker| worker.state.key) {
            self.worker_keys.remove(&before);
        }
        if let Some(key) = state.key {
            self.worker_keys.insert(key, state.id);
        }
        match self.workers.get_mut(&state.id) {
            Some(worker) => worker.state = state.clone(),
            None => {
                let mut worker = Worker::new(state.clone());
                let held = |job: &Job| -> Vec<_> {
                    let here = job.active.iter().filter(|(_, active)| active.worker == state.id);
                    here.map(|(&index, active)| job.fence(index, active.attempt).task).collect()
                };
                worker.active = self.jobs.values().flat_map(held).collect();
                self.workers.insert(state.id, worker);
            }
        }
        self.refresh_offer(state.id);
    }

    fn apply_client(&mut self, state: &ClientState) {
        self.relog.logged(Item::Client(state.key));
        self.clients.insert(state.key, state.clone());
    }

    fn apply_token(&mut self, state: &TokenState) {
        self.counters.token = self.counters.token.max(state.id);
        self.relog.logged(Item::Token(state.id));
        self.tokens.insert(state.id, state.clone());
    }

    /// Takes an attempt from its job, its worker and its owner's count.
    fn take_active(&mut self, fence: Fence) -> Option<Active> {
        self.active(fence)?;
        let job = self.jobs.get_mut(&fence.task.job)?;
        let active = job.active.remove(&fence.task.index)?;
        self.owners.entry(job.submission.owner.clone()).or_default().active -= 1;
        if let Some(worker) = self.workers.get_mut(&active.worker) {
            worker.active.remove(&fence.task);
        }
        self.refresh_offer(active.worker);
        Some(active)
    }

    /// Takes a job whose last task has ended out of memory; what becomes of it is decided by `notice_jobs_over`.
    fn close_if_over(&mut self, id: JobId, at: WallTime) {
        if !self.jobs.get(&id).is_some_and(Job::is_over) {
            return;
        }
        let job = self.jobs.remove(&id).expect("the job was just found");
        self.relog.forget(Item::Job(id));
        let owner = &job.submission.owner;
        if self.owners.get(owner).is_some_and(|used| used.live == 0 && used.active == 0) {
            self.owners.remove(owner);
        }
        self.requests_ended.push_back((owner.clone(), job.submission.request));
        while self.requests_ended.len() > limits::REQUESTS_REMEMBERED_MAX {
            let oldest = self.requests_ended.pop_front().expect("the queue is not empty");
            self.requests.remove(&oldest);
        }
        let ended = job.ended(at);
        self.turn.over.push((job, ended));
    }

    /// Hands the jobs that the last record ended to the history and to those who watch them.
    pub(super) fn notice_jobs_over(&mut self) {
        for (job, ended) in std::mem::take(&mut self.turn.over) {
            let id = job.submission.job;
            if let Some(secrets) = job.submission.secrets() {
                self.turn.act(Effect::EraseSecrets(secrets));
            }
            let info = Self::info_of_ended(&ended);
            for &watcher in job.watchers.keys() {
                self.watchers.remove(&watcher);
                let event = JobEvent::Over(Box::new(info.clone()));
                self.turn.act(Effect::Notify { watcher, job: id, event });
            }
            self.turn.remember(HistoryItem::Job(Box::new(ended)));
        }
    }

    /// Ends a task: its record, its place in the history, and the news for those who watch.
    pub(super) fn end_task(&mut self, now: crate::core::time::Now, ended: TaskEnded) {
        let fence = ended.end.fence;
        self.turn.remember(HistoryItem::Task(ended.clone()));
        self.notify(fence.task.job, &JobEvent::Ended(ended.clone()));
        self.record(now, Record::Ended(ended));
    }

    /// Tells all who watch a job.
    pub(super) fn notify(&mut self, job: JobId, event: &JobEvent) {
        let Some(watchers) = self.jobs.get(&job).map(|job| &job.watchers) else { return };
        let everything = watchers.iter().filter(|(_, interest)| **interest == Interest::Everything);
        for (&watcher, _) in everything {
            self.turn.act(Effect::Notify { watcher, job, event: event.clone() });
        }
    }
}

/// Whether an outcome allows another attempt at all: never an exit, a signal, a time-out or a cancel.
pub(super) fn is_retryable(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Lost(_) | Outcome::SpawnFailed(_) => true,
        Outcome::Exited(_)
        | Outcome::Signaled(_)
        | Outcome::TimedOut
        | Outcome::Cancelled(_)
        | Outcome::Quarantined => false,
    }
}

/// Whether a state still counts.
pub(super) fn stands(validity: Validity) -> bool {
    validity == Validity::Standing
}
