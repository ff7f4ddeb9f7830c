//! What time brings: workers fall silent, unknown attempts lapse.
//!
//! A timer only says *look again*; what it finds decides. So a timer is never taken back, and a late one does no harm.

use crate::core::id::{Fence, WorkerId};
use crate::core::time::{Now, Timestamp};
use crate::core::view::TaskEventKind;

use super::Pool;
use super::apply::stands;
use super::cancel::Lost;
use super::worker::Hearing;

/// What to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Whether the worker was heard.
    Silence(WorkerId),
    /// Whether the attempt is still unknown.
    Lapse(Fence),
    /// Whether what a drained worker still has is to end.
    Evict(WorkerId),
    /// Whether something waits at a worker for too long.
    Recall(WorkerId),
    /// Whether an ephemeral worker is still gone.
    Forget(WorkerId),
    /// What was decided at the door within the last minute.
    Audit,
}

impl Pool {
    /// When `handle_timeout` wants to be called next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now.at {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Silence(id) => self.look_for(now, id),
                Timer::Lapse(fence) => self.look_whether_lapsed(now, fence),
                Timer::Evict(id) => self.look_whether_evicted(now, id),
                Timer::Recall(id) => self.look_what_waits(now, id),
                Timer::Forget(id) => self.look_whether_gone(now, id),
                Timer::Audit => self.end_minute(now),
            }
        }
    }

    pub(super) fn arm_silence(&mut self, id: WorkerId, heard: Timestamp) {
        self.timers.insert((heard + self.timing.silent_after, Timer::Silence(id)));
    }

    fn look_for(&mut self, now: Now, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(heard) = worker.heard.filter(|_| worker.hearing == Hearing::Heard) else { return };
        if now.at < heard + self.timing.silent_after {
            self.arm_silence(id, heard);
            return;
        }
        worker.hearing = Hearing::Silent;
        self.refresh_offer(id);
        self.arm_forgetting(now.at, id);
        for fence in self.fences_at(id) {
            self.becomes_unknown(now, fence, id);
        }
    }

    fn becomes_unknown(&mut self, now: Now, fence: Fence, worker: WorkerId) {
        let Some(active) = self.active_mut(fence) else { return };
        if active.unknown_since.is_some() {
            return;
        }
        active.unknown_since = Some(now.at);
        let until = self.lapses_at(fence);
        let may_retry = self.active(fence).is_some_and(|active| self.jobs[&fence.task.job].may_retry(active));
        if let Some(until) = until {
            self.timers.insert((until, Timer::Lapse(fence)));
        }
        let elsewhere = until.filter(|_| may_retry).map(|until| until.since(now.at));
        self.tell(fence, worker, TaskEventKind::Unknown(elsewhere));
    }

    /// An attempt can only lapse: its machine was booted anew, or its worker removed. It stays unknown until its lease
    /// and the grace are over, however often that is said again.
    pub(super) fn doom(&mut self, now: Now, fence: Fence) {
        let Some(active) = self.active(fence).filter(|active| active.doomed.is_none()) else { return };
        let worker = active.worker;
        let until = self.leases_over_at(worker).unwrap_or(now.at);
        let active = self.active_mut(fence).expect("the attempt was just found");
        active.doomed = Some(until);
        self.timers.insert((until, Timer::Lapse(fence)));
        self.becomes_unknown(now, fence, worker);
    }

    fn leases_over_at(&self, worker: WorkerId) -> Option<Timestamp> {
        self.workers.get(&worker)?.leases_over
    }

    /// When an unknown attempt is given up by itself.
    fn lapses_at(&self, fence: Fence) -> Option<Timestamp> {
        let active = self.active(fence)?;
        let since = active.unknown_since?;
        if let Some(doomed) = active.doomed {
            return Some(doomed);
        }
        let job = &self.jobs[&fence.task.job];
        if job.is_leased() {
            return self.leases_over_at(active.worker);
        }
        let lost_after = job.submission.spec.lost_after.unwrap_or(self.timing.lost_after);
        Some(since + lost_after.saturating_sub(active.unknown))
    }

    fn look_whether_lapsed(&mut self, now: Now, fence: Fence) {
        let Some(until) = self.lapses_at(fence) else { return };
        if now.at < until {
            self.timers.insert((until, Timer::Lapse(fence)));
            return;
        }
        let Some(worker) = self.active(fence).and_then(|active| self.workers.get(&active.worker)) else {
            return;
        };
        // A person who removes a worker takes it away from what runs there, and not the other way round.
        let what = if stands(worker.state.validity) { Lost::Worker } else { Lost::Attempt };
        let reason = format!("worker {} went silent and did not come back", worker.state.name);
        self.lose(now, fence, what, &reason);
    }
}
