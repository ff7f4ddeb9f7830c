//! What one connection may have of the pool at a time, beside what its gate counts: calls that last, and what they cost.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::limits;
use crate::net::gate::GateState;

/// The shares of one connection.
#[derive(Clone)]
pub(super) struct Held {
    /// What is known of the peer.
    pub(super) gate: GateState,
    followings: Arc<Semaphore>,
    waited: Arc<Semaphore>,
}

impl Held {
    pub(super) fn new(gate: GateState) -> Self {
        Self {
            gate,
            followings: Arc::new(Semaphore::new(limits::FOLLOWINGS_PER_CONNECTION_MAX)),
            waited: Arc::new(Semaphore::new(limits::WAITED_PER_CONNECTION_MAX)),
        }
    }

    /// One more following, until the permit is dropped; `None` beyond the bound.
    pub(super) fn following(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.followings).try_acquire_owned().ok()
    }

    /// So many more jobs whose end is waited for.
    ///
    /// # Errors
    /// Beyond the bound: the caller may ask again when others have ended.
    pub(super) fn waiting(&self, jobs: usize) -> Result<OwnedSemaphorePermit, capnp::Error> {
        let count = u32::try_from(jobs).unwrap_or(u32::MAX);
        Arc::clone(&self.waited).try_acquire_many_owned(count).map_err(|_| {
            let most = limits::WAITED_PER_CONNECTION_MAX;
            capnp::Error::overloaded(format!("a connection waits for the ends of at most {most} jobs"))
        })
    }
}
