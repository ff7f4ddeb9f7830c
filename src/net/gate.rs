//! The frame gate: stands before Cap'n Proto, and refuses a frame that claims to be larger than a bound before anybody
//! allocates for it.
//!
//! A frame begins with the number of its segments less one, then each segment's length in words (four bytes each,
//! little end first), filled up to eight bytes: <https://capnproto.org/encoding.html#serialization-over-a-stream>.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::core::limits;
use crate::core::time::Timestamp;

/// Segments of a frame: capnp's own bound.
const SEGMENTS_MAX: u32 = 512;

/// What others see of a gate.
#[derive(Clone, Debug)]
pub struct GateState {
    bound: Rc<Cell<usize>>,
    heard: Rc<Cell<Timestamp>>,
    denied: Rc<Cell<bool>>,
}

impl GateState {
    /// Of a peer that may send frames of at most so many bytes.
    pub fn new(bound: usize, now: Timestamp) -> Self {
        Self {
            bound: Rc::new(Cell::new(bound)),
            heard: Rc::new(Cell::new(now)),
            denied: Rc::new(Cell::new(false)),
        }
    }

    /// The peer's first call has been answered: frames may be as large as they ever may.
    pub fn open(&self) {
        self.bound.set(limits::FRAME_BYTES_MAX);
    }

    /// When a byte last came.
    pub fn heard(&self) -> Timestamp {
        self.heard.get()
    }

    /// Whether the peer's last word was that our key is not let in.
    pub fn denied(&self) -> bool {
        self.denied.get()
    }
}

/// A reader behind the gate.
pub struct Gate<R> {
    inner: R,
    scan: Scan,
    state: GateState,
    clock: fn() -> Timestamp,
}

impl<R> Gate<R> {
    /// Puts the gate before a reader; `clock` tells when something came.
    pub fn new(inner: R, state: GateState, clock: fn() -> Timestamp) -> Self {
        Self { inner, scan: Scan::default(), state, clock }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Gate<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        let before = buffer.filled().len();
        if let Err(error) = ready!(Pin::new(&mut gate.inner).poll_read(cx, buffer)) {
            gate.state.denied.set(gate.state.denied.get() || is_denial(&error));
            return Poll::Ready(Err(error));
        }
        let came = &buffer.filled()[before..];
        if !came.is_empty() {
            gate.state.heard.set((gate.clock)());
        }
        if let Err(bytes) = gate.scan.feed(came, gate.state.bound.get()) {
            buffer.set_filled(before);
            let text = format!("a frame of {bytes} bytes is beyond the bound");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether a peer refused our key: the alert comes with the first read.
fn is_denial(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(rustls::AlertDescription::AccessDenied)))
}

/// Follows frames in a stream of bytes, without keeping them.
#[derive(Debug, Default)]
struct Scan {
    at: At,
    /// The word of the header that is being read.
    word: [u8; 4],
    word_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The number of segments.
    #[default]
    Count,
    /// Lengths of segments: how many are left, their words so far, and whether filling follows.
    Lengths { left: u32, words: u64, filled: bool },
    /// The filling behind the lengths.
    Filling { words: u64 },
    /// The frame's own bytes: how many are left.
    Body(u64),
}

impl Scan {
    /// Follows some bytes; fails with a frame's size if that is beyond the bound.
    fn feed(&mut self, mut bytes: &[u8], bound: usize) -> Result<(), u64> {
        while !bytes.is_empty() {
            if let At::Body(left) = self.at {
                let skip = left.min(bytes.len() as u64);
                bytes = &bytes[usize::try_from(skip).expect("at most the length of a slice")..];
                self.at = if skip == left { At::Count } else { At::Body(left - skip) };
                continue;
            }
            let take = (4 - self.word_bytes).min(bytes.len());
            self.word[self.word_bytes..self.word_bytes + take].copy_from_slice(&bytes[..take]);
            self.word_bytes += take;
            bytes = &bytes[take..];
            if self.word_bytes == 4 {
                self.word_bytes = 0;
                self.at = self.next(u32::from_le_bytes(self.word), bound as u64)?;
            }
        }
        Ok(())
    }

    fn next(&self, word: u32, bound: u64) -> Result<At, u64> {
        let body = |words: u64| if words == 0 { At::Count } else { At::Body(words * 8) };
        Ok(match self.at {
            At::Count if word >= SEGMENTS_MAX => return Err(u64::from(word) * 4),
            At::Count => At::Lengths { left: word + 1, words: 0, filled: word % 2 == 1 },
            At::Lengths { left, words, filled } => {
                let words = words + u64::from(word);
                if words * 8 > bound {
                    return Err(words * 8);
                }
                match (left, filled) {
                    (1, true) => At::Filling { words },
                    (1, false) => body(words),
                    _ => At::Lengths { left: left - 1, words, filled },
                }
            }
            At::Filling { words } => body(words),
            At::Body(_) => unreachable!("a body is not read by words"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(words: usize) -> Vec<u8> {
        let mut message = capnp::message::Builder::new_default();
        let list = message.initn_root::<capnp::data::Builder<'_>>(u32::try_from(words * 8).unwrap());
        list.fill(0xff);
        capnp::serialize::write_message_to_words(&message)
    }

    #[test]
    fn a_claim_beyond_the_bound_is_refused_before_its_header_ends() {
        let mut scan = Scan::default();
        let mut claim = Vec::new();
        claim.extend(0_u32.to_le_bytes());
        claim.extend((63_u32 << 17).to_le_bytes());

        assert_eq!(scan.feed(&claim[..7], 2 << 20), Ok(()));
        assert_eq!(scan.feed(&claim[7..], 2 << 20), Err(63 << 20));
    }

    #[test]
    fn many_segments_are_counted_together() {
        let mut scan = Scan::default();
        let mut claim = 99_u32.to_le_bytes().to_vec();
        claim.extend((0..100).flat_map(|_| 4096_u32.to_le_bytes()));

        assert!(scan.feed(&claim, 2 << 20).is_err());
        assert!(Scan::default().feed(&u32::MAX.to_le_bytes(), 2 << 20).is_err());
    }

    proptest! {
        #[test]
        fn frames_in_order_pass_however_they_are_cut(sizes in prop::collection::vec(1usize..200, 1..8), cut in 1usize..50) {
            let bytes: Vec<u8> = sizes.iter().flat_map(|&words| frame(words)).collect();
            let mut scan = Scan::default();

            for piece in bytes.chunks(cut) {
                prop_assert_eq!(scan.feed(piece, 1 << 20), Ok(()));
            }

            prop_assert_eq!(scan.at, At::Count);
        }
    }
}
