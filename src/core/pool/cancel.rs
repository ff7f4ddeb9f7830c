//! Ending jobs by decision: cancelling what waits and runs, and giving up what is unknown.

use std::sync::Arc;

use crate::core::attempt::AttemptEnd;
use crate::core::audit::AuditKind;
use crate::core::id::{Fence, JobId, WorkerId};
use crate::core::limits;
use crate::core::outcome::{Cancel, Outcome, Usage};
use crate::core::output::OutputTotals;
use crate::core::range::RangeSet;
use crate::core::record::{PutBack, Record, TaskEnded};
use crate::core::time::Now;
use crate::core::view::{Cancelled, TaskEvent, TaskEventKind};

use super::batch::{Effect, JobEvent};
use super::{Pool, Viewer};

/// Why nothing is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// There is no such live job, or the caller may not see it.
    #[error("no such job")]
    UnknownJob,
    /// Every task that was named has ended.
    #[error("already over")]
    AlreadyOver,
}

/// Why nothing is abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbandonError {
    /// There is no such live job, or the caller may not see it.
    #[error("no such job")]
    UnknownJob,
    /// None of the tasks is unknown.
    #[error("not unknown")]
    NotUnknown,
}

/// What was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// An attempt alone.
    Attempt,
    /// Its worker with it.
    Worker,
}

impl Pool {
    /// Keeps from starting what waits and ends what runs, of the tasks in `ranges` (none: all). Calling it again is
    /// harmless, and a stronger `how` counts.
    pub fn cancel(
        &mut self,
        now: Now,
        viewer: &Viewer,
        id: JobId,
        ranges: &[(u32, u32)],
        how: Cancel,
    ) -> Result<Cancelled, CancelError> {
        let job = self.seen_job(viewer, id).ok_or(CancelError::UnknownJob)?;
        let wanted = if ranges.is_empty() { RangeSet::of(&[(0, u32::MAX)]) } else { RangeSet::of(ranges) };
        let waiting = job.waiting.intersection(&wanted);
        let here: Vec<u32> = job.active.keys().copied().filter(|index| wanted.contains(*index)).collect();
        if waiting.is_empty() && here.is_empty() {
            return Err(CancelError::AlreadyOver);
        }
        let stronger: Vec<(Fence, WorkerId)> = here
            .iter()
            .map(|index| (*index, &job.active[index]))
            .filter(|(_, active)| active.cancel < Some(how))
            .map(|(index, active)| (job.fence(index, active.attempt), active.worker))
            .collect();
        let result = Cancelled { cancelled: waiting.len(), cancelling: here.len() as u64 };
        if !waiting.is_empty() || !stronger.is_empty() {
            if !waiting.is_empty() {
                self.notify(id, &JobEvent::Cancelled(waiting.ranges().collect(), how));
            }
            for &(fence, worker) in &stronger {
                self.tell(fence, worker, TaskEventKind::Cancelling(how));
                self.send_cancel(fence, worker, how);
            }
            let ranges = wanted.ranges().collect();
            let about = format!("job {id}");
            self.audit(now, viewer, AuditKind::Cancelled, about, tasks_in_words(&wanted));
            self.record(now, Record::CancelWanted { job: id, ranges, how, at: now.wall });
        }
        Ok(result)
    }

    /// A person's decision that unknown attempts are lost for good, whatever `--retries` says. Answers with the tasks
    /// that it was about.
    pub fn abandon(
        &mut self,
        now: Now,
        viewer: &Viewer,
        id: JobId,
        ranges: &[(u32, u32)],
    ) -> Result<RangeSet, AbandonError> {
        let job = self.seen_job(viewer, id).ok_or(AbandonError::UnknownJob)?;
        let wanted = if ranges.is_empty() { RangeSet::of(&[(0, u32::MAX)]) } else { RangeSet::of(ranges) };
        let unknown: Vec<Fence> = job
            .active
            .iter()
            .filter(|(index, active)| wanted.contains(**index) && active.unknown_since.is_some())
            .map(|(&index, active)| job.fence(index, active.attempt))
            .collect();
        if unknown.is_empty() {
            return Err(AbandonError::NotUnknown);
        }
        for &fence in &unknown {
            self.end_without_report(now, fence, Outcome::Lost("abandoned".to_owned()));
        }
        let abandoned: RangeSet = unknown.iter().map(|fence| fence.task.index).collect();
        self.audit(now, viewer, AuditKind::Abandoned, format!("job {id}"), tasks_in_words(&abandoned));
        Ok(abandoned)
    }

    /// An attempt is proven dead, or its time is over: its task waits again if `--retries` allows, else it is lost. One
    /// that was to be cancelled is cancelled, and one that has taken too many workers down is given to no other.
    pub(super) fn lose(&mut self, now: Now, fence: Fence, what: Lost, reason: &str) {
        let Some(active) = self.active(fence) else { return };
        let worker = active.worker;
        if let Some(how) = active.cancel {
            self.end_without_report(now, fence, Outcome::Cancelled(how));
        } else if what == Lost::Worker && active.spent.workers + 1 >= limits::WORKERS_LOST_MAX {
            self.end_without_report(now, fence, Outcome::Quarantined);
        } else if self.jobs[&fence.task.job].may_retry(active) {
            self.tell(fence, worker, TaskEventKind::AttemptLost(reason.to_owned()));
            let reason = match what {
                Lost::Attempt => PutBack::Retry(reason.to_owned()),
                Lost::Worker => PutBack::WorkerLost(reason.to_owned()),
            };
            self.record(now, Record::PutBack { fence, reason });
        } else {
            self.end_without_report(now, fence, Outcome::Lost(reason.to_owned()));
        }
    }

    /// Ends an attempt that nobody reports on.
    pub(super) fn end_without_report(&mut self, now: Now, fence: Fence, outcome: Outcome) {
        let Some(active) = self.active(fence) else { return };
        let worker = self.worker_name(active.worker);
        let started = active.at;
        let end = AttemptEnd {
            fence,
            outcome,
            usage: Usage::default(),
            totals: OutputTotals::default(),
            tail: Vec::new(),
        };
        self.end_task(now, TaskEnded { end: Arc::new(end), worker, started, ended: now.wall });
    }

    /// Sends a cancel to where the attempt is, if that is connected; otherwise it goes with the next registration.
    pub(super) fn send_cancel(&mut self, fence: Fence, worker: WorkerId, how: Cancel) {
        let Some(connection) = self.workers.get(&worker).and_then(|worker| worker.connection) else { return };
        self.turn.act(Effect::Cancel { connection, attempts: vec![(fence, how)] });
    }

    /// Tells those who watch a job what happened to an attempt at a worker.
    pub(super) fn tell(&mut self, fence: Fence, worker: WorkerId, kind: TaskEventKind) {
        let event = TaskEvent {
            task: fence.task.index,
            attempt: fence.attempt.0,
            worker: Some(self.worker_name(worker)),
            kind,
        };
        self.notify(fence.task.job, &JobEvent::Task(event));
    }

    pub(super) fn worker_name(&self, id: WorkerId) -> String {
        self.workers.get(&id).map(|worker| worker.state.name.clone()).unwrap_or_default()
    }
}

/// Which tasks a decision was about; nothing if about all.
fn tasks_in_words(tasks: &RangeSet) -> String {
    const SHOWN: usize = 20;
    if tasks.contains(u32::MAX) {
        return String::new();
    }
    let shown = tasks.ranges().take(SHOWN).map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    let words: Vec<String> = shown.collect();
    let more = if tasks.ranges().count() > SHOWN { ",…" } else { "" };
    format!("tasks {}{more}", words.join(","))
}
