//! A pool that listens nowhere: whoever has it brings its peers, and drives all of it on one thread. The simulation's.

use std::sync::Arc;

use futures::future::LocalBoxFuture;

use super::loops;
use super::options::ServeOptions;
use super::shard;
use super::shared::{Local, PoolInfo};
use super::sources::Sources;
use super::take_state;
use crate::net::connection::Connection;
use crate::net::keyring::Keyring;
use crate::process::clock;
use crate::store::Store;
use crate::store::lock::StateLock;
use crate::store::sqlite::SqliteStore;

/// A pool that has its state. Cloned for each connection; dropping the last one lets go of the state, as a crash does.
#[derive(Clone)]
pub struct Alone {
    local: Local,
    _lock: Arc<StateLock>,
}

impl Alone {
    /// Takes a pool's lock and state; with its loops, which have to be driven. `over` may put something over its store.
    ///
    /// # Errors
    /// When another process has the state, or it is damaged.
    pub fn open(
        options: &ServeOptions,
        sources: Sources,
        over: impl FnOnce(SqliteStore) -> Box<dyn Store>,
    ) -> anyhow::Result<(Self, LocalBoxFuture<'static, anyhow::Result<()>>)> {
        let (name, lock) = take_state(options)?;
        let state = lock.directory().to_owned();
        let keys = Arc::new(Keyring::open(&state, clock::wall)?);
        let info = PoolInfo::here(&name, &state, None, (sources.clock)().wall);
        let (shared, loops) = loops::load(options, info, keys, sources, over)?;
        let local = Local::new(shared, SqliteStore::history(&state)?);
        Ok((Self { local, _lock: Arc::new(lock) }, Box::pin(loops.run())))
    }

    /// Drives a connection to its end; on a `LocalSet`.
    pub async fn serve(&self, connection: Connection, source: &str) {
        shard::serve(self.local.clone(), connection, source.to_owned()).await;
    }
}
