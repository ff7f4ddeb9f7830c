//! What every connection of a pool has at hand.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::watch;

use super::driver::PoolHandle;
use super::peers::{Identities, Peers};
use super::sources::Sources;
use crate::core::id::{ConnectionId, Name};
use crate::core::time::WallTime;
use crate::core::timing::Timing;
use crate::net::anteroom::Anteroom;
use crate::net::budget::Budget;
use crate::net::keyring::Keyring;
use crate::process::facts;
use crate::store::output_thread::OutputHandle;
use crate::store::secrets::Secrets;
use crate::store::sqlite::SqliteHistory;
use crate::store::{History, StoreError};

/// What does not change while a pool runs.
#[derive(Clone, Debug)]
pub(super) struct PoolInfo {
    pub(super) name: String,
    pub(super) state: std::path::PathBuf,
    pub(super) boot_id: String,
    pub(super) uid: u32,
    /// The pool's own user.
    pub(super) owner: String,
    pub(super) listening: Option<String>,
    pub(super) since: WallTime,
}

impl PoolInfo {
    /// Of a pool that begins on this machine, as this process's user.
    pub(super) fn here(name: &Name, state: &Path, listening: Option<String>, since: WallTime) -> Self {
        Self {
            name: name.as_str().to_owned(),
            state: state.to_owned(),
            boot_id: facts::boot_id(),
            uid: facts::uid(),
            owner: facts::user(),
            listening,
            since,
        }
    }
}

/// Why a pool ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It does not.
    No,
    /// Somebody wants it to; workers dial again.
    Asked,
    /// Nobody needs it; its worker goes too.
    Idle,
}

impl Stop {
    /// Orders the end of a pool; the first reason counts.
    pub(super) fn order(self, stop: &watch::Sender<Self>) {
        stop.send_if_modified(|present| {
            let first = *present == Self::No;
            if first {
                *present = self;
            }
            first
        });
    }
}

/// Shared between all threads.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) pool: PoolHandle,
    pub(super) peers: Peers,
    pub(super) identities: Identities,
    /// What the pool is known by.
    pub(super) keys: Arc<Keyring>,
    pub(super) output: OutputHandle,
    pub(super) secrets: Secrets,
    pub(super) info: Arc<PoolInfo>,
    pub(super) timing: Timing,
    pub(super) sources: Sources,
    pub(super) stop: Arc<watch::Sender<Stop>>,
    pub(super) clients: Arc<AtomicUsize>,
    pub(super) last_connection: Arc<AtomicU64>,
    /// What peers make the pool keep for them.
    pub(super) budget: Budget,
    /// Those who are not known yet.
    pub(super) anteroom: Anteroom,
}

/// Shared between the connections of one thread.
#[derive(Clone)]
pub(super) struct Local {
    pub(super) shared: Shared,
    history: Rc<RefCell<SqliteHistory>>,
}

impl Shared {
    pub(super) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Ends the pool; the first reason counts.
    pub(super) fn stop(&self, why: Stop) {
        why.order(&self.stop);
    }

    /// Waits until the pool is to end.
    pub(super) async fn stopping(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        // The sender is in `self`.
        stop.wait_for(|stop| *stop != Stop::No).await.map_or(Stop::Asked, |stop| *stop)
    }
}

impl Local {
    pub(super) fn new(shared: Shared, history: SqliteHistory) -> Self {
        Self { shared, history: Rc::new(RefCell::new(history)) }
    }

    /// Asks the history. It answers from the disk's cache within microseconds, so nobody waits elsewhere.
    pub(super) fn history<R>(
        &self,
        ask: impl FnOnce(&mut dyn History) -> Result<R, StoreError>,
    ) -> Result<R, capnp::Error> {
        ask(&mut *self.history.borrow_mut()).map_err(|error| capnp::Error::failed(error.to_string()))
    }
}
