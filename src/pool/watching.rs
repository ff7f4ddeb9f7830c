//! A place among those who watch a job. However it is dropped, also while the pool still decides about it, it is given
//! back.

use tokio::sync::mpsc;

use super::peers::Peers;
use super::shared::Shared;
use crate::core::id::JobId;
use crate::core::pool::{JobEvent, Pool, Viewer, WatchError, WatchStart, WatcherId};

/// Events that a follower lets pile up; one that is further behind begins again from the pool's state.
const EVENTS_MAX: usize = 4096;

/// A place among those who watch a job, and what it brings.
pub(super) struct Watching {
    _place: Place,
    events: mpsc::Receiver<(JobId, JobEvent)>,
}

/// What has to be given back.
struct Place {
    watcher: WatcherId,
    peers: Peers,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peers.unwatch(self.watcher);
    }
}

impl Watching {
    /// Watches everything that happens to a live job, from the state that comes along.
    pub(super) async fn everything(
        shared: &Shared,
        viewer: Viewer,
        job: JobId,
    ) -> Result<Result<(Self, WatchStart), WatchError>, capnp::Error> {
        let watch = move |pool: &mut Pool| {
            let start = pool.watch(&viewer, job)?;
            Ok((start.watcher, start))
        };
        Self::begin(shared, EVENTS_MAX, watch).await
    }

    /// Watches for the end of a live job.
    pub(super) async fn end(
        shared: &Shared,
        viewer: Viewer,
        job: JobId,
    ) -> Result<Result<Self, WatchError>, capnp::Error> {
        let watch = move |pool: &mut Pool| Ok((pool.watch_end(&viewer, job)?, ()));
        Ok(Self::begin(shared, 1, watch).await?.map(|(watching, ())| watching))
    }

    async fn begin<S: Send + 'static>(
        shared: &Shared,
        capacity: usize,
        watch: impl FnOnce(&mut Pool) -> Result<(WatcherId, S), WatchError> + Send + 'static,
    ) -> Result<Result<(Self, S), WatchError>, capnp::Error> {
        let (sender, events) = mpsc::channel(capacity);
        let peers = shared.peers.clone();
        let begun = shared.pool.update(move |pool, _| {
            let (watcher, start) = watch(pool)?;
            peers.watch(watcher, sender);
            Ok((Place { watcher, peers }, start))
        });
        Ok(begun.await?.map(|(place, start)| (Self { _place: place, events }, start)))
    }

    /// What happens next; `None` for one that was too slow, or when the pool has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<JobEvent> {
        self.events.recv().await.map(|(_, event)| event)
    }
}
