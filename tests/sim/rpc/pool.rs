//! The pool's host: the real pool on a directory of its own, and a listener.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use clusterctl::core::id::{Epoch, Fence, Name};
use clusterctl::core::output::{Chunk, Stream};
use clusterctl::core::timing::Timing;
use clusterctl::net::connection::{Connection, Peer};
use clusterctl::pool::{Alone, Mode, ServeOptions, Sources};
use clusterctl::store::output::{OutputRead, OutputWriter};
use clusterctl::store::sqlite::SqliteStore;
use clusterctl::store::{Commit, EachEntry, Store, StoreError};
use clusterctl::wire;

use super::time;
use crate::history::{Happened, History, Written};

/// Where it listens.
pub const HOST: &str = "pool";
pub const PORT: u16 = 7700;

const OUTPUT_LIMIT: u64 = 1 << 30;

/// What everybody tells what happened.
pub type Witness = Arc<Mutex<History>>;

/// Tells what happened now.
pub fn tell(witness: &Witness, event: Happened) {
    witness.lock().unwrap().add(time::now().at, event);
}

/// A store that tells of each record when it is durable.
struct Told {
    store: SqliteStore,
    witness: Witness,
}

impl Store for Told {
    fn acquire(&mut self) -> Result<Epoch, StoreError> {
        self.store.acquire()
    }

    fn load(&mut self, entry: &mut EachEntry<'_>) -> Result<u64, StoreError> {
        self.store.load(entry)
    }

    fn append(&mut self, commit: &Commit) -> Result<(), StoreError> {
        self.store.append(commit)?;
        for entry in &commit.entries {
            tell(&self.witness, Happened::Recorded(wire::record::decode(entry).unwrap()));
        }
        Ok(())
    }
}

fn options(state: PathBuf, timing: Timing) -> ServeOptions {
    ServeOptions {
        name: Some(Name::parse("sim").unwrap()),
        listen: None,
        advertise: None,
        state: Some(state),
        output_limit: OUTPUT_LIMIT,
        owner_tasks: 100_000,
        peers_memory: 1 << 30,
        mode: Mode::Foreground,
        timing,
    }
}

/// The body of the host: each time it is started, a pool's process.
pub async fn serve(state: PathBuf, timing: Timing, witness: Witness) -> turmoil::Result {
    let told = Arc::clone(&witness);
    let (alone, loops) =
        Alone::open(&options(state, timing), Sources { clock: time::now, nonce: time::nonce }, |store| {
            Box::new(Told { store, witness: told })
        })?;
    tell(&witness, Happened::PoolStarted);
    tokio::task::spawn_local(async move { loops.await.expect("the store does not fail") });
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let alone = alone.clone();
        let connection = Connection { stream: Box::pin(stream), peer: Peer::Local { uid: 0 } };
        tokio::task::spawn_local(async move { alone.serve(connection, "simulation").await });
    }
}

/// Adds what comes next of an attempt's output.
pub fn add(written: &mut Written, chunk: Chunk) {
    written[usize::from(chunk.stream == Stream::Stderr)].extend(chunk.bytes);
}

/// What it keeps of an attempt's output; the pool is gone.
pub fn kept(state: &std::path::Path, fences: impl Iterator<Item = Fence>) -> Vec<(Fence, Written)> {
    let (_, reader) = OutputWriter::open(&state.join("sim/output"), OUTPUT_LIMIT).unwrap();
    let read = |fence| {
        let (mut written, mut from) = (Written::default(), 0);
        while let OutputRead::Chunks(chunks) = reader.read(fence, from, 1 << 20).unwrap() {
            for chunk in chunks {
                from = chunk.end();
                add(&mut written, chunk);
            }
        }
        (fence, written)
    };
    fences.map(read).collect()
}
