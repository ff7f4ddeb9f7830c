//! A holder replaces its own key: what the old one stood for, the new one does from the next connection on.

use crate::core::audit::{AuditEntry, AuditKind};
use crate::core::id::{ConnectionId, Fingerprint};
use crate::core::record::{ClientState, HistoryItem, Record, WorkerState};
use crate::core::time::Now;

use super::access::Identity;
use super::apply::stands;
use super::batch::Effect;
use super::{Decision, Pool, Viewer};

/// Why a key does not take the place of another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewalRefused {
    /// The old one is not let in (any more).
    #[error("the pool does not know this key")]
    Unknown,
    /// The new one is or was somebody's already.
    #[error("the new key is known to the pool already")]
    InUse,
    /// The worker is connected, and it is another connection that asks.
    #[error("worker \"{0}\" is connected: only itself may replace its key, and not a copy of it")]
    Elsewhere(String),
}

impl Pool {
    /// One key takes the place of another, of the same worker or client. Whoever proved that it holds both may say so; of
    /// a worker that is connected only the worker itself. The old one is let in no longer, and its connections are cut;
    /// nothing that its holder has is touched.
    pub fn renew_key(
        &mut self,
        now: Now,
        connection: ConnectionId,
        (before, after): (Fingerprint, Fingerprint),
        source: String,
    ) -> Result<(), RenewalRefused> {
        if let Some(name) = self.is_connected_elsewhere(now, before, connection) {
            let refused = RenewalRefused::Elsewhere(name.clone());
            let (what, detail) = (AuditKind::NotConnected, refused.to_string());
            self.decided(now, Decision { what, who: name, source, detail });
            return Err(refused);
        }
        if self.worker_keys.contains_key(&after) || self.clients.contains_key(&after) {
            return Err(RenewalRefused::InUse);
        }
        let (record, identity) = self.renewed(before, after).ok_or(RenewalRefused::Unknown)?;
        let (who, about) = match &identity {
            Identity::Worker(_, name) => (name.clone(), format!("worker {name}")),
            Identity::Client { name, .. } => (name.clone(), format!("client {name}")),
        };
        let (what, detail) = (AuditKind::KeyRenewed, format!("key {after} instead of {before}"));
        let entry = AuditEntry { at: now.wall, what, who, source, about, detail, count: 1 };
        self.turn.remember(HistoryItem::Audit(entry));
        self.record(now, record);
        self.turn.act(Effect::Renew { before, after, identity });
        Ok(())
    }

    /// The pool itself has another key from now on, which its former one vouches for.
    pub fn note_own_renewal(&mut self, now: Now, viewer: &Viewer, before: Fingerprint, after: Fingerprint) {
        let detail = format!("key {after} instead of {before}");
        self.audit(now, viewer, AuditKind::PoolKeyRenewed, "pool".to_owned(), detail);
    }

    /// The worker of a key, if it is heard on another connection than this.
    fn is_connected_elsewhere(&self, now: Now, key: Fingerprint, here: ConnectionId) -> Option<String> {
        let worker = &self.workers[self.worker_keys.get(&key)?];
        let is_heard = worker.was_heard_within(now.at, self.timing.silent_after);
        let elsewhere = worker.connection.is_some_and(|connection| connection != here) && is_heard;
        elsewhere.then(|| worker.state.name.clone())
    }

    fn renewed(&self, before: Fingerprint, after: Fingerprint) -> Option<(Record, Identity)> {
        let worker = self.worker_keys.get(&before).map(|id| &self.workers[id].state);
        if let Some(worker) = worker.filter(|worker| stands(worker.validity)) {
            let identity = Identity::Worker(worker.id, worker.name.clone());
            return Some((Record::Worker(WorkerState { key: Some(after), ..worker.clone() }), identity));
        }
        let client = self.clients.get(&before).filter(|client| stands(client.validity))?;
        let identity = Identity::Client { name: client.name.clone(), owner: client.owner.clone() };
        let client = ClientState { key: after, ..client.clone() };
        Some((Record::ClientRenewed { before, client }, identity))
    }
}
