//! The pool's server: threads around the core, the doors of those who connect, and its life from lock to goodbye.
//!
//! Decisions are in `core::pool`; here is only who may ask, when time passes, and how what was decided is carried out.

mod admin_service;
mod alone;
mod client_service;
mod disk;
mod driver;
mod ended;
mod enrol_service;
mod follow;
mod held;
mod hello;
mod job_service;
mod loops;
mod options;
mod peers;
mod refused;
mod renewing;
mod shard;
mod shared;
mod sources;
mod submitting;
mod threads;
mod watching;
mod worker_service;

use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Builder;

pub use self::alone::Alone;
pub use self::options::{Mode, ServeOptions};
pub use self::sources::Sources;

use self::shard::Listeners;
use self::shared::{Local, PoolInfo, Shared, Stop};
use self::threads::Threads;
use crate::core::id::Name;
use crate::core::limits;
use crate::net::keyring::Keyring;
use crate::net::listen::{self, Door};
use crate::process::{clock, limit};
use crate::store::lock::StateLock;
use crate::store::place::{self, Endpoint, StateRoot};
use crate::store::sqlite::SqliteStore;

/// Threads that serve the network.
const SHARDS_MAX: usize = 4;

/// A pool that has its state and its addresses, and serves nobody yet.
pub struct Opened {
    shared: Shared,
    sockets: Sockets,
    threads: Threads,
    options: ServeOptions,
    socket_path: PathBuf,
    _lock: StateLock,
}

struct Sockets {
    local: StdUnixListener,
    network: Option<StdTcpListener>,
}

/// What a pool says of itself when it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Its name.
    pub name: String,
    /// Its state directory.
    pub state: PathBuf,
    /// Where it listens.
    pub listening: Option<String>,
    /// Its key.
    pub fingerprint: crate::core::id::Fingerprint,
}

/// Takes a pool's lock, state and addresses, and starts its threads.
///
/// # Errors
/// When another process has the state, the state is damaged, or an address is in use.
pub fn open(options: ServeOptions) -> anyhow::Result<Opened> {
    let (name, lock) = take_state(&options)?;
    let state = lock.directory().to_owned();
    let keys = Arc::new(Keyring::open(&state, clock::wall)?);
    let socket_path = place::socket_path(&state);
    place::prepare_socket(&socket_path)?;
    let network = options.listen.as_deref().map(bind).transpose()?;
    let listening = network.as_ref().and_then(|listener| listener.local_addr().ok()).map(|at| at.to_string());
    let info = PoolInfo::here(&name, &state, listening.clone(), clock::wall());
    let (shared, loops) = loops::load(&options, info, keys, Sources::of_machine(), |store| Box::new(store))?;
    let threads = loops.on_threads(Arc::clone(&shared.stop))?;
    let local = {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let _guard = runtime.enter();
        let listener = listen::listen_local(&socket_path)
            .with_context(|| format!("cannot listen on {}", socket_path.display()))?;
        listener.into_std()?
    };
    Endpoint { listen: listening, socket: socket_path.clone() }.write(&state)?;
    Ok(Opened { shared, sockets: Sockets { local, network }, threads, options, socket_path, _lock: lock })
}

/// Makes the state of a pool ours.
fn take_state(options: &ServeOptions) -> anyhow::Result<(Name, StateLock)> {
    let root = StateRoot::find(&place::Surroundings::of_process(options.state.clone()))?;
    let name = options.name.clone().unwrap_or_else(place::private_pool_name);
    if !StateRoot::allows_pool(&name) {
        anyhow::bail!("a pool cannot be named \"{name}\"");
    }
    let lock = StateLock::acquire(&root.pool(&name))?;
    Ok((name, lock))
}

impl Opened {
    /// What it says of itself.
    pub fn serving(&self) -> Serving {
        let info = &self.shared.info;
        Serving {
            name: info.name.clone(),
            state: info.state.clone(),
            listening: info.listening.clone(),
            fingerprint: self.shared.keys.present(),
        }
    }

    /// Serves until somebody ends it.
    ///
    /// # Errors
    /// When a commit failed: what was shown is durable, what was not may be lost.
    pub fn serve(self) -> anyhow::Result<()> {
        let Self { shared, sockets, mut threads, options, socket_path, _lock } = self;
        // Not before: a worker that is started beside us hands on what it finds.
        limit::raise_files();
        let shards = std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_MAX);
        for n in 0..shards {
            let (shared, sockets) = (shared.clone(), sockets.try_clone()?);
            threads.start(&format!("net-{n}"), move || run_shard(shared, sockets))?;
        }
        drop(sockets);
        let idle_after = (options.mode == Mode::Background).then_some(options.timing.idle_exit);
        Builder::new_current_thread().enable_all().build()?.block_on(async move {
            tokio::select! {
                _ = shared.stopping() => {}
                () = disk::watch(&shared) => {}
                () = signalled(options.mode) => shared.stop(Stop::Asked),
                () = nobody_needs_it(&shared, idle_after) => shared.stop(Stop::Idle),
            }
        });
        let ended = threads.join();
        // The lock is still ours, so the socket is.
        let _ = std::fs::remove_file(socket_path);
        ended
    }
}

impl Sockets {
    fn try_clone(&self) -> std::io::Result<Self> {
        let network = self.network.as_ref().map(StdTcpListener::try_clone).transpose()?;
        Ok(Self { local: self.local.try_clone()?, network })
    }
}

fn run_shard(shared: Shared, sockets: Sockets) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let history = SqliteStore::history(&shared.info.state)?;
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        sockets.local.set_nonblocking(true)?;
        let network = match sockets.network {
            None => None,
            Some(listener) => {
                listener.set_nonblocking(true)?;
                let identities = Arc::clone(&shared.identities);
                let admits = Arc::new(move |key: &crate::core::id::Fingerprint| {
                    identities.read().is_ok_and(|identities| identities.contains_key(key))
                });
                let door = Door::new(&shared.keys, admits, shared.timing, shared.anteroom.clone())?;
                Some((TcpListener::from_std(listener)?, door))
            }
        };
        let listeners = Listeners { local: Some(UnixListener::from_std(sockets.local)?), network };
        shard::run(Local::new(shared, history), listeners).await;
        Ok(())
    })
}

fn bind(address: &str) -> anyhow::Result<StdTcpListener> {
    let listener = StdTcpListener::bind(address);
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    socket2::SockRef::from(&listener).listen(limits::CONNECTIONS_NOT_TAKEN_MAX)?;
    Ok(listener)
}

/// Waits for SIGTERM, or for SIGINT where that is meant for the pool.
async fn signalled(mode: Mode) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv(), if mode != Mode::Prompting => {}
    }
}

/// Waits until for so long no client was connected and no job unfinished.
async fn nobody_needs_it(shared: &Shared, after: Option<std::time::Duration>) {
    let Some(after) = after else { return std::future::pending().await };
    let mut idle_since = clock::boottime();
    loop {
        tokio::time::sleep(after / 20).await;
        let idle = shared.pool.update(|pool, _| pool.is_idle()).await.unwrap_or(true);
        if !idle || shared.clients.load(Ordering::Relaxed) > 0 {
            idle_since = clock::boottime();
        } else if clock::boottime().since(idle_since) >= after {
            return;
        }
    }
}
