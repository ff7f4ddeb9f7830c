//! The loops that a pool consists of beside its network: core, store and output. Each has a thread of its own, or all of
//! them share the one of whoever drives them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, RwLock};

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use super::disk;
use super::driver::{self, Commit, Driver};
use super::options::ServeOptions;
use super::peers::{Identities, Peers};
use super::shared::{PoolInfo, Shared, Stop};
use super::sources::Sources;
use super::threads::Threads;
use crate::core::id::Epoch;
use crate::core::pool::{Host, Pool};
use crate::net::anteroom::Anteroom;
use crate::net::budget::Budget;
use crate::net::keyring::Keyring;
use crate::store::output::OutputWriter;
use crate::store::output_thread::{OutputLoop, output_loop};
use crate::store::secrets::Secrets;
use crate::store::space::{Reserve, Room};
use crate::store::sqlite::SqliteStore;
use crate::store::{self, Store, StoreError};

/// The loops of a pool that has loaded its state, before any of them runs.
pub(super) struct Loops {
    core: Driver,
    store: Box<dyn Store>,
    epoch: Epoch,
    commits: mpsc::UnboundedReceiver<Commit>,
    output: OutputLoop,
}

/// Loads a pool's state.
pub(super) fn load(
    options: &ServeOptions,
    info: PoolInfo,
    keys: Arc<Keyring>,
    sources: Sources,
    over: impl FnOnce(SqliteStore) -> Box<dyn Store>,
) -> anyhow::Result<(Shared, Loops)> {
    let clock = sources.clock;
    // The first commit of this life may need what these can spare. What is wrong with the disk is told by who watches it.
    let _ = Room::of(&info.state).and_then(|room| Reserve::new(&info.state).keep(room));
    let (writer, reader) = OutputWriter::open(&info.state.join("output"), options.output_limit)?;
    let mut store = over(SqliteStore::open(&info.state)?);
    let epoch = store.acquire()?;
    let host = Host { boot_id: info.boot_id.clone(), uid: info.uid, owner: info.owner.clone() };
    let mut pool = Pool::new(options.timing, host).with_tasks_per_owner(options.owner_tasks);
    store::replay(&mut *store, &mut pool, clock().at)?;
    pool.start(clock(), epoch);
    if let Ok(room) = Room::of(&info.state) {
        pool.set_space(disk::space(room));
    }
    let identities: Identities = Arc::new(RwLock::new(pool.identities().collect::<HashMap<_, _>>()));
    let secrets = Secrets::open(&info.state)?;
    secrets.erase_all_but(&pool.secrets())?;
    let peers = Peers::new(secrets.clone());
    let (sender, commits) = mpsc::unbounded_channel();
    let (core, pool) = Driver::new(pool, sender, peers.clone(), Arc::clone(&identities), clock);
    let (output_loop, output) = output_loop(writer, reader);
    let shared = Shared {
        pool,
        peers,
        identities,
        keys,
        output,
        secrets,
        info: Arc::new(info),
        timing: options.timing,
        sources,
        stop: Arc::new(watch::channel(Stop::No).0),
        clients: Arc::new(AtomicUsize::new(0)),
        last_connection: Arc::new(AtomicU64::new(0)),
        budget: Budget::new(options.peers_memory),
        anteroom: Anteroom::default(),
    };
    Ok((shared, Loops { core, store, epoch, commits, output: output_loop }))
}

impl Loops {
    /// Starts a thread for each.
    pub(super) fn on_threads(self, stop: Arc<watch::Sender<Stop>>) -> anyhow::Result<Threads> {
        let Self { core, store, epoch, commits, output } = self;
        let mut threads = Threads::new(stop);
        threads.start("store", move || {
            let runtime = Builder::new_current_thread().build()?;
            runtime.block_on(driver::run_store(store, epoch, commits));
            Ok(())
        })?;
        threads.start("core", move || {
            Builder::new_current_thread().enable_time().build()?.block_on(run_core(core))
        })?;
        threads
            .start("output", move || Builder::new_current_thread().build()?.block_on(run_output(output)))?;
        Ok(threads)
    }

    /// Runs all of them, until nobody needs them any longer or one of them has failed.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { core, store, epoch, commits, output } = self;
        let store = driver::run_store(store, epoch, commits);
        let ((), core, output) = futures::join!(store, run_core(core), run_output(output));
        core.and(output)
    }
}

async fn run_core(core: Driver) -> anyhow::Result<()> {
    core.run().await.context("a commit failed, so the pool stops")
}

async fn run_output(output: OutputLoop) -> anyhow::Result<()> {
    output.run().await.map_err(StoreError::from).context("output cannot be kept, so the pool stops")
}
