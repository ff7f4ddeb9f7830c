//! A person takes a worker out of service for a while: it gets nothing new, and after a deadline, if there is one, what
//! still runs there is ended, to run elsewhere if `--retries` allows.

use std::time::Duration;

use crate::core::audit::AuditKind;
use crate::core::id::WorkerId;
use crate::core::outcome::Cancel;
use crate::core::record::{Drain, Record, WorkerState};
use crate::core::time::Now;

use super::apply::stands;
use super::timer::Timer;
use super::{Pool, RemoveError, Viewer};

/// The reason of what was lost with a deadline.
pub(super) const DRAINED: &str = "its worker was drained";

impl Pool {
    /// A worker gets nothing new until it is resumed, also over restarts of either side. Answers with how many tasks it
    /// has; they go on, at most until the deadline.
    pub fn drain_worker(
        &mut self,
        now: Now,
        viewer: &Viewer,
        name: &str,
        deadline: Option<Duration>,
    ) -> Result<u64, RemoveError> {
        let id = self.standing_worker(name)?;
        let detail = deadline.map_or_else(String::new, |after| format!("deadline {}s", after.as_secs()));
        self.audit(now, viewer, AuditKind::WorkerDrained, format!("worker {name}"), detail);
        self.set_drain(now, id, Some(Drain { deadline }));
        self.arm_eviction(now, id);
        self.recall_all(now, id);
        Ok(self.workers[&id].active.len() as u64)
    }

    /// A worker that was drained gets tasks again.
    pub fn resume_worker(&mut self, now: Now, viewer: &Viewer, name: &str) -> Result<(), RemoveError> {
        let id = self.standing_worker(name)?;
        self.audit(now, viewer, AuditKind::WorkerResumed, format!("worker {name}"), String::new());
        self.set_drain(now, id, None);
        Ok(())
    }

    fn standing_worker(&self, name: &str) -> Result<WorkerId, RemoveError> {
        let id = *self.worker_names.get(name).ok_or(RemoveError::Unknown)?;
        if stands(self.workers[&id].state.validity) { Ok(id) } else { Err(RemoveError::Unknown) }
    }

    fn set_drain(&mut self, now: Now, id: WorkerId, drain: Option<Drain>) {
        let state = WorkerState { drain, ..self.workers[&id].state.clone() };
        self.record(now, Record::Worker(state));
    }

    /// Looks again when the deadline of a drained worker is over. As every deadline it restarts in full with the pool.
    pub(super) fn arm_eviction(&mut self, now: Now, id: WorkerId) {
        let worker = self.workers.get_mut(&id).expect("a drained worker is known");
        let deadline = worker.state.drain.and_then(|drain| drain.deadline);
        worker.evicts_at = deadline.map(|after| now.at + after);
        if let Some(at) = worker.evicts_at {
            self.timers.insert((at, Timer::Evict(id)));
        }
    }

    /// Ends what a drained worker still has, if its time is over: by TERM, and KILL after 10 s.
    pub(super) fn look_whether_evicted(&mut self, now: Now, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let is_over = worker.evicts_at.is_some_and(|at| at <= now.at);
        if worker.state.drain.is_none() || !is_over {
            return;
        }
        for fence in self.fences_at(id) {
            if self.active(fence).is_some_and(|active| active.cancel.is_none()) {
                self.send_cancel(fence, id, Cancel::Terminate);
            }
        }
    }
}
