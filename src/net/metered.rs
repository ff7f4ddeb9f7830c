//! A stream from which only so much may come until its peer is known.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with a meter.
pub struct Metered<S> {
    stream: S,
    meter: Meter,
}

enum Meter {
    /// So many bytes may still come.
    Left(usize),
    /// Whoever is there may send what it likes.
    Off,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, bytes: usize) -> Self {
        Self { stream, meter: Meter::Left(bytes) }
    }

    /// The peer is known.
    pub(super) fn open(&mut self) -> &S {
        self.meter = Meter::Off;
        &self.stream
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let came = buffer.filled().len() - before;
        if let Meter::Left(left) = self.meter {
            let Some(left) = left.checked_sub(came) else {
                buffer.set_filled(before);
                return Poll::Ready(Err(io::Error::other("too much before a key was known")));
            };
            self.meter = Meter::Left(left);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn one_byte_more_than_may_come_is_an_error_until_the_peer_is_known() {
        let sent = [7; 30];
        let mut strange = Metered::new(&sent[..], 29);
        let mut known = Metered::new(&sent[..], 29);
        known.open();

        assert!(strange.read_to_end(&mut Vec::new()).await.is_err());
        assert_eq!(known.read_to_end(&mut Vec::new()).await.unwrap(), 30);
    }
}
