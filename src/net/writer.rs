//! The coalescing writer: capnp-rpc flushes after every message, this one sends what has accumulated when its turn comes.
//!
//! The writer only fills a buffer; a pump, polled beside the RPC system, empties it. Merging messages saves a quarter of
//! the processor time of a call. The writer never waits: what waits would pile up before it, where nobody counts. Instead
//! what the peer has not taken is counted here, and beyond a bound the peer is cut.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::gate::GateState;

/// An emptied buffer that grew beyond this is not kept, in bytes: most of the time little is to be sent.
const BUFFER_KEPT_BYTES: usize = 64 << 10;

struct Shared {
    buffer: Vec<u8>,
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
    let shared = Shared { buffer: Vec::new(), under_way: 0, closed: false, failed: false, pump: None, state };
    let shared = Rc::new(RefCell::new(shared));
    (CoalescingWriter(Rc::clone(&shared)), Pump { shared, stream })
}

impl AsyncWrite for CoalescingWriter {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        if shared.failed || shared.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let backlog = shared.buffer.len() + shared.under_way + bytes.len();
        if let Err(excess) = shared.state.waits(backlog) {
            shared.failed = true;
            shared.buffer = Vec::new();
            return Poll::Ready(Err(io::Error::other(excess)));
        }
        shared.buffer.extend_from_slice(bytes);
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
    fn sent(&mut self, bytes: usize) {
        self.under_way -= bytes;
        // Less than before is within the bound.
        let _ = self.state.waits(self.buffer.len() + self.under_way);
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
        let mut batch = Vec::new();
        while self.take(&mut batch).await {
            if let Err(error) = self.send(&batch).await {
                self.shared.borrow_mut().failed = true;
                return Err(error);
            }
            batch.clear();
            if batch.capacity() > BUFFER_KEPT_BYTES {
                batch = Vec::new();
            }
        }
        self.stream.shutdown().await
    }

    async fn send(&mut self, mut batch: &[u8]) -> io::Result<()> {
        while !batch.is_empty() {
            let sent = self.stream.write(batch).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            batch = &batch[sent..];
            self.shared.borrow_mut().sent(sent);
        }
        self.stream.flush().await
    }

    /// Waits for something to send; `false` when nothing will ever come.
    async fn take(&mut self, batch: &mut Vec<u8>) -> bool {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.borrow_mut();
            if shared.buffer.is_empty() && !shared.closed {
                shared.pump = Some(cx.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut shared.buffer, batch);
            shared.under_way = batch.len();
            Poll::Ready(!batch.is_empty())
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
}
