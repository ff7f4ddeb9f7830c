//! Cap'n Proto over a stream whose other end is known: gate, coalescing writer, RPC system, and an orderly end.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use capnp::capability::{Client, FromClientHook};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::gate::{Gate, GateState};
use super::writer::coalescing;
use crate::core::id::Fingerprint;
use crate::core::limits;
use crate::core::time::Timestamp;

/// Streaming calls that are on their way, in bytes.
const WINDOW_BYTES: usize = 512 << 10;
/// Bytes read at a time: more only costs memory, since what is read is small.
const READ_BYTES: usize = 4 << 10;
/// An orderly end that takes longer is cut off: a peer that reads nothing would hold it for ever.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Any stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The holder of a key.
    Key(Fingerprint),
    /// A process of this machine.
    Local {
        /// Its user.
        uid: u32,
    },
}

/// A stream whose other end is known.
pub struct Connection {
    /// The stream.
    pub stream: Pin<Box<dyn Duplex>>,
    /// Who is there.
    pub peer: Peer,
}

/// A running RPC system, to be driven by its owner.
pub struct Link {
    system: RpcSystem<Side>,
    pump: Pin<Box<dyn Future<Output = std::io::Result<()>>>>,
    state: GateState,
}

/// Starts Cap'n Proto on a connection that was dialled: the peer's bootstrap object, and the link that must be driven
/// for it to work.
pub fn dialled<T: FromClientHook>(connection: Connection, clock: fn() -> Timestamp) -> (T, Link) {
    let state = GateState::new(limits::FRAME_BYTES_MAX, clock());
    let mut link = link(connection, Side::Client, None, state, clock);
    let bootstrap = link.system.bootstrap(Side::Server);
    (bootstrap, link)
}

/// Starts Cap'n Proto on a connection that was accepted, offering `door`.
pub fn accepted(connection: Connection, door: Client, state: GateState, clock: fn() -> Timestamp) -> Link {
    link(connection, Side::Server, Some(door), state, clock)
}

fn link(
    connection: Connection,
    side: Side,
    door: Option<Client>,
    state: GateState,
    clock: fn() -> Timestamp,
) -> Link {
    let (read, write) = tokio::io::split(connection.stream);
    let reader = BufReader::with_capacity(READ_BYTES, Gate::new(read, state.clone(), clock));
    let (writer, pump) = coalescing(write);
    let options = capnp::message::ReaderOptions {
        traversal_limit_in_words: Some(2 * limits::FRAME_BYTES_MAX / 8),
        nesting_limit: limits::MESSAGE_DEPTH_MAX,
    };
    let mut network = twoparty::VatNetwork::new(reader.compat(), writer.compat_write(), side, options);
    network.set_window_size(WINDOW_BYTES);
    let system = RpcSystem::new(Box::new(network), door);
    Link { system, pump: Box::pin(pump.run()), state }
}

impl Link {
    /// What is known of the peer.
    pub fn state(&self) -> GateState {
        self.state.clone()
    }

    /// Drives the connection until the peer is gone, or until `stop`, and then ends it in order. The only place that
    /// decides that a peer is gone.
    ///
    /// # Errors
    /// When the connection broke, with what broke it.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), capnp::Error> {
        let Self { mut system, mut pump, .. } = self;
        let disconnector = system.get_disconnector();
        let ended = tokio::select! {
            biased;
            ended = &mut system => Some(ended),
            sent = &mut pump => Some(sent.map_err(|error| capnp::Error::disconnected(error.to_string()))),
            () = stop => None,
        };
        // Dropping a system whose disconnector was not polled would leak it.
        match ended {
            Some(result) => {
                let _ = tokio::time::timeout(END_WITHIN, disconnector).await;
                result
            }
            None => {
                let end = async { futures::join!(disconnector, system, pump) };
                let _ = tokio::time::timeout(END_WITHIN, end).await;
                Ok(())
            }
        }
    }
}
