//! The frame gate: stands before Cap'n Proto, and refuses a frame that claims to be larger than a bound before anybody
//! allocates for it; and what is known of the peer behind it.
//!
//! A large frame is held here until it is complete, in memory that grows as it comes: what merely claims two mebibytes
//! costs what it has sent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use capnp_rpc::rpc_capnp::message;
use capnp_rpc::{IncomingMessage, OutgoingMessage};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{Mutex, MutexGuard, Notify};

use super::budget::Account;
use super::excess::Excess;
use super::ledger::{Counts, Ledger};
use super::scan::{Header, Scan, is_believed};
use crate::core::limits;
use crate::core::time::{Clock, Timestamp};

/// Bytes read at a time where a header may follow: no large frame fits into that.
const HEADER_READ_BYTES: usize = 4 << 10;
/// Bytes read at a time of a frame that is held.
const BODY_READ_BYTES: usize = 64 << 10;

/// What is known of a connection's peer: shared by gate, counters, writer and whoever calls the peer.
#[derive(Clone)]
pub struct GateState(Rc<Known>);

struct Known {
    bound: Cell<usize>,
    heard: Cell<Timestamp>,
    denied: Cell<bool>,
    /// Sizes of frames that came and were not read as messages yet.
    frames: RefCell<VecDeque<usize>>,
    ledger: RefCell<Ledger>,
    backlog: Cell<usize>,
    /// Calls that we may have open at this peer.
    own_calls: Cell<usize>,
    /// What the peer costs; nothing any more once its connection is over.
    account: RefCell<Option<Rc<Account>>>,
    excess: Cell<Option<Excess>>,
    cut: RefCell<Option<Waker>>,
    /// A call was answered, or the peer has read.
    room: Notify,
    /// One large answer at a time.
    answer: Mutex<()>,
}

impl GateState {
    /// Of a peer that may send frames of at most so many bytes.
    pub fn new(bound: usize, now: Timestamp) -> Self {
        Self::with(bound, now, None)
    }

    /// Of a peer among others, who draw on one budget.
    pub fn among(bound: usize, now: Timestamp, account: Account) -> Self {
        Self::with(bound, now, Some(account))
    }

    fn with(bound: usize, now: Timestamp, account: Option<Account>) -> Self {
        Self(Rc::new(Known {
            bound: Cell::new(bound),
            heard: Cell::new(now),
            denied: Cell::new(false),
            frames: RefCell::default(),
            ledger: RefCell::default(),
            backlog: Cell::new(0),
            own_calls: Cell::new(limits::OWN_CALLS_MAX),
            account: RefCell::new(account.map(Rc::new)),
            excess: Cell::new(None),
            cut: RefCell::default(),
            room: Notify::new(),
            answer: Mutex::new(()),
        }))
    }

    /// The peer's first call has been answered: frames may be as large as they ever may.
    pub fn open(&self) {
        self.0.bound.set(limits::FRAME_BYTES_MAX);
    }

    /// The peer has said how many calls it lets us have open: of few, half.
    pub fn heed_open_calls(&self, bound: u32) {
        let half = usize::try_from(bound / 2).unwrap_or(usize::MAX);
        self.0.own_calls.set(half.clamp(1, limits::OWN_CALLS_MAX));
    }

    /// When a byte last came.
    pub fn heard(&self) -> Timestamp {
        self.0.heard.get()
    }

    /// Whether the peer's last word was that our key is not let in.
    pub fn denied(&self) -> bool {
        self.0.denied.get()
    }

    /// Calls and capabilities that are open.
    pub fn counts(&self) -> Counts {
        self.0.ledger.borrow().counts()
    }

    /// Bytes that the peer has not taken yet.
    pub fn backlog(&self) -> usize {
        self.0.backlog.get()
    }

    /// The bound that the peer has passed, if it is cut for one.
    pub fn excess(&self) -> Option<Excess> {
        self.0.excess.get()
    }

    /// Waits until the peer passes a bound. Cancel-safe; one at a time waits.
    pub(super) async fn exceeded(&self) -> Excess {
        let passed = std::future::poll_fn(|cx| match self.excess() {
            Some(excess) => Poll::Ready(excess),
            None => {
                *self.0.cut.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        });
        let account = self.0.account.borrow().clone();
        let shed = async {
            match account {
                Some(account) => account.cut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            excess = passed => excess,
            () = shed => {
                self.exceed(Excess::Budget);
                Excess::Budget
            }
        }
    }

    /// Whether one more call of ours keeps below what the peer accepts, and is worth making: it reads.
    pub fn may_call(&self) -> bool {
        let counts = self.counts();
        counts.our_calls < self.0.own_calls.get()
            && counts.our_bytes < limits::OWN_CALLS_BYTES_MAX
            && self.backlog() < limits::BACKLOG_BYTES_ENOUGH
    }

    /// Waits until `may_call`. The call must be sent before anything else is awaited. Cancel-safe.
    pub async fn turn_to_call(&self) {
        while !self.may_call() {
            self.0.room.notified().await;
        }
    }

    /// Waits for the turn to make a large answer: the one before has been written by then, and counts.
    pub async fn turn_to_answer(&self) -> MutexGuard<'_, ()> {
        let turn = self.0.answer.lock().await;
        // Whatever drives the connection sends what was made before it comes back here.
        tokio::task::yield_now().await;
        turn
    }

    pub(super) fn incoming(&self, message: &dyn IncomingMessage) -> Result<(), Excess> {
        let bytes = self.0.frames.borrow_mut().pop_front().unwrap_or_default();
        let Ok(message) = message.get_body().and_then(|body| body.get_as::<message::Reader<'_>>()) else {
            return Ok(());
        };
        let counted = self.0.ledger.borrow_mut().incoming(message, bytes);
        self.settle(counted)
    }

    pub(super) fn outgoing(&self, message: &dyn OutgoingMessage) {
        let bytes = message.size_in_words() * 8;
        let Ok(message) = message.get_body_as_reader().and_then(|body| body.get_as::<message::Reader<'_>>())
        else {
            return;
        };
        let counted = self.0.ledger.borrow_mut().outgoing(message, bytes);
        // It goes nowhere: whoever drives the connection sees the excess first.
        let _ = self.settle(counted);
    }

    /// So much waits for the peer to read it.
    pub(super) fn waits(&self, bytes: usize) -> Result<(), Excess> {
        self.0.backlog.set(bytes);
        let within = if bytes > limits::BACKLOG_BYTES_MAX { Err(Excess::Backlog) } else { Ok(()) };
        self.settle(within)
    }

    /// The connection is over: whoever still has this holds nothing for the peer.
    pub(super) fn close(&self) {
        self.0.account.borrow_mut().take();
    }

    fn settle(&self, within: Result<(), Excess>) -> Result<(), Excess> {
        if let Some(account) = &*self.0.account.borrow() {
            let beside = if self.backlog() > 0 { limits::BACKLOG_BYTES_BESIDE } else { 0 };
            account.set(self.backlog() + beside + self.counts().their_bytes);
        }
        if let Err(excess) = within {
            self.exceed(excess);
        } else if self.may_call() {
            self.0.room.notify_waiters();
        }
        within
    }

    fn exceed(&self, excess: Excess) {
        self.0.excess.set(self.excess().or(Some(excess)));
        if let Some(waker) = self.0.cut.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A reader behind the gate.
pub struct Gate<R> {
    inner: R,
    scan: Scan,
    held: Option<Held>,
    state: GateState,
    clock: Clock,
}

/// A frame that is not passed on before it is complete, from the last word of its header on.
struct Held {
    bytes: Vec<u8>,
    missing: usize,
    passed: usize,
}

impl<R> Gate<R> {
    /// Puts the gate before a reader; `clock` tells when something came.
    pub fn new(inner: R, state: GateState, clock: Clock) -> Self {
        Self { inner, scan: Scan::default(), held: None, state, clock }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Gate<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        while buffer.remaining() > 0 {
            match gate.held.take() {
                Some(mut held) if held.missing == 0 => {
                    let pass = buffer.remaining().min(held.bytes.len() - held.passed);
                    buffer.put_slice(&held.bytes[held.passed..held.passed + pass]);
                    held.passed += pass;
                    if held.passed < held.bytes.len() {
                        gate.held = Some(held);
                    }
                    return Poll::Ready(Ok(()));
                }
                Some(mut held) => {
                    let (start, want) = (held.bytes.len(), held.missing.min(BODY_READ_BYTES));
                    held.bytes.resize(start + want, 0);
                    let read = gate.poll_inner(cx, &mut held.bytes[start..]);
                    let came = if let Poll::Ready(Ok(came)) = read { came } else { 0 };
                    held.bytes.truncate(start + came);
                    held.missing -= came;
                    gate.held = Some(held);
                    if ready!(read)? == 0 {
                        return Poll::Ready(Err(cut_short()));
                    }
                }
                None => {
                    let limit = gate.scan.body_left().max(HEADER_READ_BYTES).min(buffer.remaining());
                    let came = ready!(gate.poll_inner(cx, buffer.initialize_unfilled_to(limit)))?;
                    if came == 0 && !gate.scan.is_between() {
                        return Poll::Ready(Err(cut_short()));
                    }
                    let passed = gate.follow(&buffer.initialize_unfilled_to(limit)[..came])?;
                    buffer.advance(passed);
                    if passed > 0 || came == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<R: AsyncRead + Unpin> Gate<R> {
    fn poll_inner(&mut self, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut to = ReadBuf::new(to);
        if let Err(error) = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut to)) {
            self.state.0.denied.set(self.state.denied() || is_denial(&error));
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            return Poll::Ready(Err(if is_end { cut_short() } else { error }));
        }
        if !to.filled().is_empty() {
            self.state.0.heard.set((self.clock)().at);
        }
        Poll::Ready(Ok(to.filled().len()))
    }

    /// Looks at what came; how much of it may pass now. The rest is held.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bound = self.state.0.bound.get();
        let mut passed = 0;
        loop {
            let fed = self.scan.feed(&bytes[passed..], bound);
            let Some(Header { taken, last_word, body }) = fed.map_err(|excess| {
                self.state.exceed(excess);
                io::Error::new(io::ErrorKind::InvalidData, excess)
            })?
            else {
                return Ok(bytes.len());
            };
            self.state.0.frames.borrow_mut().push_back(body);
            let header_end = passed + taken;
            if !is_believed(body) {
                let held = bytes[header_end - last_word..].to_vec();
                // The body is longer than what is read at a time where a header may be.
                let missing = body - (bytes.len() - header_end);
                self.scan = Scan::default();
                self.held = Some(Held { bytes: held, missing, passed: 0 });
                return Ok(header_end - last_word);
            }
            passed = header_end;
        }
    }
}

/// A peer that was killed ends its stream anywhere, also in a frame: that is a lost connection, like any other. What
/// capnp makes of an early end is none, and nobody would dial again.
fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection ended in the midst of a message")
}

/// Whether a peer refused our key: the alert comes with the first read.
fn is_denial(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(rustls::AlertDescription::AccessDenied)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::core::time::Now;

    const MIB: usize = 1 << 20;

    fn gate<R>(stream: R) -> Gate<R> {
        Gate::new(stream, GateState::new(2 * MIB, Timestamp::default()), Now::default)
    }

    fn frame(bytes: usize) -> Vec<u8> {
        let mut frame = 0_u32.to_le_bytes().to_vec();
        frame.extend(u32::try_from(bytes / 8).unwrap().to_le_bytes());
        frame.extend((0..bytes).map(|n| n as u8));
        frame
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_a_frame_is_a_lost_connection_and_one_that_ends_behind_it_is_not() {
        let small = [&[0, 0, 0, 0, 2, 0, 0, 0][..], &[7; 16]].concat();
        let large = [&[0, 0, 0, 0, 0, 64, 0, 0][..], &vec![7; 8 << 14]].concat();
        for frame in [small, large] {
            let mut whole = Vec::new();
            gate(&frame[..]).read_to_end(&mut whole).await.unwrap();
            assert_eq!(whole, frame);
            for cut in [1, 5, 9, frame.len() - 1] {
                let error = gate(&frame[..cut]).read_to_end(&mut Vec::new()).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "cut at {cut}");
                assert_eq!(capnp::Error::from(error).kind, capnp::ErrorKind::Disconnected);
            }
        }
    }

    #[tokio::test]
    async fn a_large_frame_is_passed_on_when_it_is_complete_and_costs_what_has_come() {
        let (near, mut far) = tokio::io::duplex(MIB);
        let mut gate = gate(near);
        let large = frame(MIB);
        let (begin, rest) = large.split_at(100_000);

        far.write_all(begin).await.unwrap();
        let mut all = Vec::new();
        while read_what_is_there(&mut gate, &mut all) {}

        // The header's last word is kept back: nobody can allocate for it.
        assert_eq!(all, [0; 4]);
        assert!(gate.held.as_ref().unwrap().bytes.capacity() < 300_000);

        far.write_all(rest).await.unwrap();
        far.write_all(&frame(16)).await.unwrap();
        drop(far);
        gate.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [large, frame(16)].concat());
    }

    /// Reads once; whether there was something to read.
    fn read_what_is_there<R: AsyncRead + Unpin>(gate: &mut Gate<R>, to: &mut Vec<u8>) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = [0; 8];
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = Pin::new(gate).poll_read(&mut cx, &mut buffer);
        to.extend_from_slice(buffer.filled());
        matches!(read, Poll::Ready(Ok(())))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_passes_is_what_came_however_it_is_cut(
            sizes in prop::collection::vec(prop_oneof![0usize..40, 16_000usize..18_000, 100_000usize..160_000], 1..6),
            cut in prop_oneof![50usize..100, 1000usize..70_000],
            take in prop_oneof![50usize..100, 1000usize..300_000],
        ) {
            let bytes: Vec<u8> = sizes.iter().flat_map(|words| frame(words / 8 * 8)).collect();
            let pieces: Vec<io::Result<&[u8]>> = bytes.chunks(cut).map(Ok).collect();
            let stream = tokio_util::io::StreamReader::new(futures::stream::iter(pieces));
            let mut gate = gate(stream);
            let (mut passed, mut buffer) = (Vec::new(), vec![0; take]);

            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                loop {
                    let read = gate.read(&mut buffer).await.unwrap();
                    if read == 0 { break }
                    passed.extend_from_slice(&buffer[..read]);
                }
            });

            prop_assert_eq!(passed.len(), bytes.len());
            prop_assert!(passed == bytes);
            prop_assert_eq!(gate.state.0.frames.borrow().len(), sizes.len());
        }

        #[test]
        fn random_bytes_break_nothing_and_are_never_kept(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut gate = gate(&bytes[..]);
            let mut cx = Context::from_waker(Waker::noop());
            let mut buffer = [0; 512];
            for _ in 0..50 {
                let mut to = ReadBuf::new(&mut buffer);
                if !matches!(Pin::new(&mut gate).poll_read(&mut cx, &mut to), Poll::Ready(Ok(()))) {
                    break;
                }
                let held = gate.held.as_ref().map_or(0, |held| held.bytes.capacity());
                prop_assert!(held <= bytes.len() + BODY_READ_BYTES);
            }
        }
    }
}
