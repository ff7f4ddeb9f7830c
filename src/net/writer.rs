//! The coalescing writer: capnp-rpc flushes after every message, this one sends what has accumulated when its turn comes.
//!
//! The writer only fills chunks; a pump, polled beside the RPC system, empties them. Merging messages saves a quarter of
//! the processor time of a call. The writer never waits: what waits would pile up before it, where nobody counts. Instead
//! what the peer has not taken is counted here, and beyond a bound the peer is cut. What it has taken is given back chunk
//! by chunk, so that what is counted is about what is kept.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::gate::GateState;

/// What is sent at a time, in bytes: as much as TLS takes at once.
const CHUNK_BYTES: usize = 64 << 10;

/// An emptied chunk that is no larger is kept for the next one, in bytes: most of the time little is to be sent.
const SPARE_BYTES: usize = 4 << 10;

struct Shared {
    /// In order; all but the last are full.
    chunks: VecDeque<Vec<u8>>,
    /// Bytes in them.
    waiting: usize,
    /// An emptied chunk, for the next one.
    spare: Vec<u8>,
    /// Bytes that the pump has taken and the peer has not.
    under_way: usize,
    closed: bool,
    failed: bool,
    pump: Option<Waker>,
    state: GateState,
}

/// What the RPC system writes to.
pub struct CoalescingWriter(Rc<RefCell<Shared>>);

/// What sends it.
pub struct Pump<W> {
    shared: Rc<RefCell<Shared>>,
    stream: W,
}

/// A writer and its pump; `state` is told what the peer has not taken.
pub fn coalescing<W>(stream: W, state: GateState) -> (CoalescingWriter, Pump<W>) {
    let shared = Rc::new(RefCell::new(Shared {
        chunks: VecDeque::new(),
        waiting: 0,
        spare: Vec::new(),
        under_way: 0,
        closed: false,
        failed: false,
        pump: None,
        state,
    }));
    (CoalescingWriter(Rc::clone(&shared)), Pump { shared, stream })
}

impl AsyncWrite for CoalescingWriter {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        if shared.failed || shared.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let backlog = shared.waiting + shared.under_way + bytes.len();
        if let Err(excess) = shared.state.waits(backlog) {
            shared.failed = true;
            (shared.chunks, shared.waiting) = (VecDeque::new(), 0);
            return Poll::Ready(Err(io::Error::other(excess)));
        }
        shared.append(bytes);
        if let Some(pump) = shared.pump.take() {
            pump.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// What was written is on its way: the pump is awake.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for CoalescingWriter {
    fn drop(&mut self) {
        self.0.borrow_mut().close();
    }
}

impl Shared {
    fn append(&mut self, mut bytes: &[u8]) {
        self.waiting += bytes.len();
        while !bytes.is_empty() {
            if self.chunks.back().is_none_or(|last| last.len() == CHUNK_BYTES) {
                self.chunks.push_back(std::mem::take(&mut self.spare));
            }
            let last = self.chunks.back_mut().expect("one was just made if there was none");
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - last.len()));
            // Beyond a few small messages no more than what is there.
            if last.len() + now.len() > SPARE_BYTES {
                last.reserve_exact(now.len());
            }
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.under_way -= bytes;
        // Less than before is within the bound.
        let _ = self.state.waits(self.waiting + self.under_way);
    }

    fn close(&mut self) {
        self.closed = true;
        if let Some(pump) = self.pump.take() {
            pump.wake();
        }
    }
}

impl<W: AsyncWrite + Unpin> Pump<W> {
    /// Sends until the writer is closed and all is sent, then says goodbye.
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn run(mut self) -> io::Result<()> {
        while let Some(mut chunk) = self.take().await {
            if let Err(error) = self.send(&chunk).await {
                self.shared.borrow_mut().failed = true;
                return Err(error);
            }
            if chunk.capacity() <= SPARE_BYTES {
                chunk.clear();
                self.shared.borrow_mut().spare = chunk;
            }
        }
        self.stream.shutdown().await
    }

    async fn send(&mut self, mut chunk: &[u8]) -> io::Result<()> {
        while !chunk.is_empty() {
            let sent = self.stream.write(chunk).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            chunk = &chunk[sent..];
            self.shared.borrow_mut().sent(sent);
        }
        self.stream.flush().await
    }

    /// Waits for something to send; none when nothing will ever come.
    async fn take(&mut self) -> Option<Vec<u8>> {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.borrow_mut();
            match shared.chunks.pop_front() {
                Some(chunk) => {
                    shared.waiting -= chunk.len();
                    shared.under_way = chunk.len();
                    Poll::Ready(Some(chunk))
                }
                None if shared.closed => Poll::Ready(None),
                None => {
                    shared.pump = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limits;
    use crate::core::time::Timestamp;
    use crate::net::excess::Excess;

    #[tokio::test]
    async fn what_a_peer_does_not_read_is_counted_and_beyond_the_bound_it_is_cut() {
        let state = GateState::new(0, Timestamp::default());
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut writer, pump) = coalescing(near, state.clone());
        let pump = pump.run();
        tokio::pin!(pump);

        writer.write_all(&[1; 5000]).await.unwrap();
        assert!(futures::poll!(&mut pump).is_pending());
        assert_eq!(state.backlog(), 4000, "a thousand are under way to the peer");
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut [0; 700]).await.unwrap();
        assert!(futures::poll!(&mut pump).is_pending());
        assert_eq!(state.backlog(), 3300);

        let refused = writer.write_all(&vec![1; limits::BACKLOG_BYTES_MAX]).await;
        assert!(refused.is_err());
        assert_eq!(state.excess(), Some(Excess::Backlog));
    }

    #[tokio::test]
    async fn whatever_is_written_arrives_in_order_and_nothing_is_kept_of_it() {
        let state = GateState::new(0, Timestamp::default());
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut writer, pump) = coalescing(near, state.clone());
        let shared = Rc::clone(&writer.0);
        let sizes = [1, 70_000, CHUNK_BYTES, 0, 3 * CHUNK_BYTES + 5, 7];
        let written: Vec<u8> = (0..sizes.iter().sum()).map(|n: usize| (n % 251) as u8).collect();
        let mut rest = &written[..];
        for size in sizes {
            writer.write_all(&rest[..size]).await.unwrap();
            rest = &rest[size..];
        }
        assert_eq!(state.backlog(), written.len());
        drop(writer);

        let mut read = Vec::new();
        let (sent, received) =
            tokio::join!(pump.run(), tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read));

        sent.unwrap();
        received.unwrap();
        assert!(read == written);
        assert!(shared.borrow().spare.capacity() <= SPARE_BYTES);
        assert_eq!(state.backlog(), 0);
    }
}
