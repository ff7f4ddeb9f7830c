//! Workers that come once, as the containers of an autoscaler do: nobody removes them by hand when they have gone.
//!
//! What such a worker has goes by the same rules as anybody's: only a worker that holds nothing is forgotten.

use crate::core::audit::{AuditEntry, AuditKind};
use crate::core::id::WorkerId;
use crate::core::membership::Tenure;
use crate::core::record::{HistoryItem, Record};
use crate::core::time::{Now, Timestamp};

use super::Pool;
use super::apply::stands;
use super::batch::Effect;
use super::relog::Item;
use super::timer::Timer;
use super::worker::{Hearing, Worker};

impl Pool {
    /// Looks later whether an ephemeral worker, which may have gone, has stayed away.
    pub(super) fn arm_forgetting(&mut self, now: Timestamp, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.is_ephemeral() && worker.is_gone() && worker.forgets_at.is_none() {
            let long = self.timing.forget_after;
            let at = worker.heard.filter(|&heard| now.since(heard) < long).unwrap_or(now) + long;
            worker.forgets_at = Some(at);
            self.timers.insert((at, Timer::Forget(id)));
        }
    }

    pub(super) fn look_whether_gone(&mut self, now: Now, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.forgets_at = None;
        let was_here = worker.was_heard_within(now.at, self.timing.forget_after);
        if was_here || !worker.active.is_empty() {
            self.arm_forgetting(now.at, id);
        } else if worker.is_ephemeral() {
            self.forget_worker(now, id);
        }
    }

    fn forget_worker(&mut self, now: Now, id: WorkerId) {
        let worker = &self.workers[&id];
        let (key, connection, name) = (worker.state.key, worker.connection, worker.state.name.clone());
        let entry = AuditEntry {
            at: now.wall,
            what: AuditKind::WorkerForgotten,
            who: String::new(),
            source: "pool".to_owned(),
            about: format!("worker {name}"),
            detail: "ephemeral, and gone".to_owned(),
            count: 1,
        };
        self.turn.remember(HistoryItem::Audit(entry));
        if let Some(key) = key {
            self.turn.act(Effect::Expel(key));
        }
        if let Some(connection) = connection {
            self.connections.remove(&connection);
            self.turn.act(Effect::Cut(connection));
        }
        self.record(now, Record::WorkerForgotten(id));
    }

    pub(super) fn apply_worker_forgotten(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else { return };
        assert!(worker.active.is_empty(), "who holds something is not forgotten");
        self.worker_names.retain(|_, named| *named != id);
        if let Some(key) = worker.state.key {
            self.worker_keys.remove(&key);
        }
        self.scheduler.offer(id, None);
        self.relog.forget(Item::Worker(id));
    }
}

impl Worker {
    /// Whether it is forgotten by itself. One that a person removed is not: its key is not to be let in again.
    fn is_ephemeral(&self) -> bool {
        stands(self.state.validity) && self.tenure() == Tenure::Ephemeral
    }

    fn is_gone(&self) -> bool {
        self.connection.is_none() || self.hearing == Hearing::Silent
    }
}
