//! Cap'n Proto over a stream whose other end is known: gate, coalescing writer, RPC system, and an orderly end.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use capnp::capability::{Client, FromClientHook};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::excess::Excess;
use super::gate::{Gate, GateState};
use super::watched::Watched;
use super::writer::coalescing;
use crate::core::id::Fingerprint;
use crate::core::limits;
use crate::core::time::Clock;

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
pub fn dialled<T: FromClientHook>(connection: Connection, clock: Clock) -> (T, Link) {
    let state = GateState::new(limits::FRAME_BYTES_MAX, clock().at);
    let mut link = link(connection, Side::Client, None, state, clock);
    let bootstrap = link.system.bootstrap(Side::Server);
    (bootstrap, link)
}

/// Starts Cap'n Proto on a connection that was accepted, offering `door`.
pub fn accepted(connection: Connection, door: Client, state: GateState, clock: Clock) -> Link {
    link(connection, Side::Server, Some(door), state, clock)
}

/// How a connection comes to its end.
enum End {
    /// The peer has gone, or broke the protocol.
    Over(Result<(), capnp::Error>),
    /// Nothing can be sent any more.
    Broken(std::io::Result<()>),
    /// It passed a bound.
    Cut(Excess),
    /// Whoever drives it wants no more.
    Stopped,
}

fn link(connection: Connection, side: Side, door: Option<Client>, state: GateState, clock: Clock) -> Link {
    let (read, write) = tokio::io::split(connection.stream);
    let reader = BufReader::with_capacity(READ_BYTES, Gate::new(read, state.clone(), clock));
    let (writer, pump) = coalescing(write, state.clone());
    let options = capnp::message::ReaderOptions {
        traversal_limit_in_words: Some(2 * limits::FRAME_BYTES_MAX / 8),
        nesting_limit: limits::MESSAGE_DEPTH_MAX,
    };
    let mut network = twoparty::VatNetwork::new(reader.compat(), writer.compat_write(), side, options);
    network.set_window_size(WINDOW_BYTES);
    let system = RpcSystem::new(Box::new(Watched::new(network, state.clone())), door);
    Link { system, pump: Box::pin(pump.run()), state }
}

impl Link {
    /// What is known of the peer.
    pub fn state(&self) -> GateState {
        self.state.clone()
    }

    /// Drives the connection until the peer is gone, or until `stop`, and then ends it in order. The only place that
    /// decides that a peer is gone. A peer that passes a bound is cut at once; one that reads is told why.
    ///
    /// # Errors
    /// When the connection broke, with what broke it.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), capnp::Error> {
        let Self { mut system, mut pump, state } = self;
        let disconnector = system.get_disconnector();
        let end = tokio::select! {
            biased;
            excess = state.exceeded() => End::Cut(excess),
            ended = &mut system => End::Over(ended),
            sent = &mut pump => End::Broken(sent),
            () = stop => End::Stopped,
        };
        // Dropping a system whose disconnector was not polled would leak it.
        let result = match end {
            End::Over(result) => {
                let end = async { futures::join!(disconnector, pump) };
                let _ = tokio::time::timeout(END_WITHIN, end).await;
                result
            }
            End::Broken(sent) => {
                let _ = tokio::time::timeout(END_WITHIN, disconnector).await;
                sent.map_err(|error| capnp::Error::disconnected(error.to_string()))
            }
            End::Cut(excess) if !excess.can_be_told() => {
                let _ = tokio::time::timeout(Duration::ZERO, disconnector).await;
                Err(excess.into())
            }
            End::Cut(excess) => {
                let end = async { futures::join!(disconnector, system, pump) };
                let _ = tokio::time::timeout(END_WITHIN, end).await;
                Err(excess.into())
            }
            End::Stopped => {
                let end = async { futures::join!(disconnector, system, pump) };
                let _ = tokio::time::timeout(END_WITHIN, end).await;
                Ok(())
            }
        };
        state.close();
        match state.excess() {
            Some(excess) => Err(excess.into()),
            None => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use capnp::capability::Promise;
    use tokio::task::LocalSet;

    use super::*;
    use crate::core::time::{Now, Timestamp};
    use crate::net::ledger::Counts;
    use crate::schema::worker_capnp::worker;

    /// Answers to `start` and never to `cancel`.
    struct Half;

    impl worker::Server for Half {
        fn start(
            self: Rc<Self>,
            _params: worker::StartParams,
            _results: worker::StartResults,
        ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
            Promise::ok(())
        }

        fn cancel(
            self: Rc<Self>,
            _params: worker::CancelParams,
            _results: worker::CancelResults,
        ) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
            std::future::pending()
        }
    }

    /// Two ends of a connection, each with what it knows of the other; `ended` tells what became of the pool's.
    struct Pair {
        worker: worker::Client,
        caller: GateState,
        called: GateState,
        ended: tokio::task::JoinHandle<Result<(), capnp::Error>>,
    }

    fn pair() -> Pair {
        let (near, far) = tokio::io::duplex(64 << 10);
        let connection = |stream| Connection { stream: Box::pin(stream), peer: Peer::Local { uid: 0 } };
        let (worker, dialled) = dialled::<worker::Client>(connection(near), Now::default);
        let called = GateState::new(limits::FRAME_BYTES_MAX, Timestamp::default());
        let door = capnp_rpc::new_client::<worker::Client, _>(Half).client;
        let accepted = accepted(connection(far), door, called.clone(), Now::default);
        let caller = dialled.state();
        tokio::task::spawn_local(dialled.run(std::future::pending()));
        let ended = tokio::task::spawn_local(accepted.run(std::future::pending()));
        Pair { worker, caller, called, ended }
    }

    /// Until both sides count the same.
    async fn settled(pair: &Pair, holds: impl Fn(Counts) -> bool) -> Counts {
        for _ in 0..10_000 {
            if holds(pair.called.counts()) {
                return pair.called.counts();
            }
            tokio::task::yield_now().await;
        }
        panic!("{:?}", pair.called.counts());
    }

    #[tokio::test]
    async fn whatever_was_answered_is_counted_no_more_on_either_side() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let pair = pair();
                for _ in 0..2000 {
                    pair.worker.start_request().send().promise.await.unwrap();
                }

                // The first, for the bootstrap object, stays as long as this is held.
                let counts = settled(&pair, |counts| counts.their_calls == 1).await;

                assert_eq!((counts.taken, counts.given_up), (0, 0));
                assert_eq!(pair.caller.counts().our_calls, 1);
            })
            .await;
    }

    #[tokio::test]
    async fn calls_that_are_given_up_are_not_open() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let pair = pair();
                for _ in 0..2 * limits::OPEN_CALLS_MAX {
                    let cancel = pair.worker.cancel_request().send().promise;
                    let _ = tokio::time::timeout(Duration::ZERO, cancel).await;
                    tokio::task::yield_now().await;
                }

                settled(&pair, |counts| counts.their_calls == 1).await;

                assert_eq!(pair.called.excess(), None);
                pair.worker.start_request().send().promise.await.unwrap();
            })
            .await;
    }

    #[tokio::test]
    async fn one_open_call_too_many_ends_the_connection_and_the_caller_reads_why() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let pair = pair();
                let calls = 1 + limits::OPEN_CALLS_MAX;
                let open: Vec<_> = (0..calls).map(|_| pair.worker.cancel_request().send().promise).collect();

                let ended = pair.ended.await.unwrap();

                assert_eq!(pair.called.excess(), Some(Excess::OpenCalls));
                assert!(ended.is_err());
                let told = futures::future::try_join_all(open).await.map(drop).unwrap_err();
                assert!(told.to_string().contains("more than 256 open calls"), "{told}");
            })
            .await;
    }
}
