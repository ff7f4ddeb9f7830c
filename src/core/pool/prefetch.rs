//! What is handed to a worker beyond its slots, so that throughput does not fall with the round trip, and how it comes
//! back.
//!
//! Only tasks of jobs whose tasks have proven quick are handed ahead, and about as many as the worker does in a fifth of
//! a second. So what waits there for a second waits behind something that has become slow: it is asked back, and its job
//! is quick no longer until its tasks end quickly again. Asking decides nothing. The worker answers that it gave the
//! attempt back, and only when that is recorded does the task wait here again; or it has started it, and tells that.

use crate::core::id::{Fence, WorkerId};
use crate::core::time::Now;

use super::Pool;
use super::batch::Effect;
use super::job::{Active, Phase};
use super::timer::Timer;
use super::worker::Hearing;

impl Pool {
    /// Looks again later, if something waits at a worker.
    pub(super) fn arm_recall(&mut self, now: Now, id: WorkerId) {
        let after = self.timing.recall_after;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.recalls_at.is_none() && worker.used() > worker.slots() {
            let at = now.at + after;
            worker.recalls_at = Some(at);
            self.timers.insert((at, Timer::Recall(id)));
        }
    }

    pub(super) fn look_what_waits(&mut self, now: Now, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.recalls_at = None;
        let (is_full, is_heard) = (worker.used() > worker.slots(), worker.hearing == Hearing::Heard);
        if is_full && is_heard {
            let after = self.timing.recall_after;
            let waiting = self.waiting_at(id, |active| now.at.since(active.given) >= after);
            self.recall(now, id, waiting);
        }
        self.arm_recall(now, id);
    }

    /// Asks back all that a worker has not started.
    pub(super) fn recall_all(&mut self, now: Now, id: WorkerId) {
        let waiting = self.waiting_at(id, |_| true);
        self.recall(now, id, waiting);
    }

    /// Attempts that a worker has not told to run, of those that are meant.
    fn waiting_at(&self, id: WorkerId, is_meant: impl Fn(&Active) -> bool) -> Vec<Fence> {
        let waits = |active: &Active| active.phase != Phase::Running && is_meant(active);
        let fences = self.fences_at(id).into_iter();
        fences.filter(|&fence| self.active(fence).is_some_and(waits)).collect()
    }

    fn recall(&mut self, now: Now, id: WorkerId, attempts: Vec<Fence>) {
        let Some(connection) = self.workers[&id].connection.filter(|_| !attempts.is_empty()) else { return };
        for fence in &attempts {
            let active = self.active_mut(*fence).expect("what is asked back was just found");
            let waited = now.at.since(std::mem::replace(&mut active.given, now.at));
            // One that waited proves no job quick.
            if let Some(pace) = self.jobs.get_mut(&fence.task.job).and_then(|job| job.pace.as_mut()) {
                *pace = waited.max(*pace);
            }
            self.refresh_waiting(fence.task.job);
        }
        self.turn.act(Effect::TakeBack { connection, attempts });
    }
}
