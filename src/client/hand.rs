//! The signals of whoever has a hand on a job.
//!
//! Taken before the job is submitted, so that no Ctrl-C comes too early for it. Tokio keeps a signal for the life of the
//! process, so from then on whoever waits must listen.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::Failure;
use crate::say::say;

/// The Ctrl-C that gives the prompt back.
pub const INTERRUPTS_MAX: u32 = 3;

/// SIGINT and SIGTERM, as one process hears them.
pub struct Hand {
    interrupt: Signal,
    terminate: Signal,
    /// Interrupts that nobody has acted on yet.
    pressed: u32,
}

/// What somebody wants by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Hand {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn take() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())?, pressed: 0 })
    }

    /// Submits a job, say: one interrupt does not break it off, and is acted on afterwards. A second one does. While it
    /// takes longer, each is answered by a word, so that nobody presses into the dark.
    ///
    /// # Errors
    /// As the work fails, or that it was interrupted.
    pub async fn holding<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                _ = self.interrupt.recv() => self.pressed += 1,
                _ = self.terminate.recv() => self.pressed = INTERRUPTS_MAX,
            }
            if self.pressed == 1 {
                say!("  waiting for the pool to answer (Ctrl-C again to give up)");
            }
            if self.pressed > 1 {
                return Err(Failure::interrupted("interrupted; the pool may have taken the job"));
            }
        }
    }

    /// Does something that any interrupt breaks off.
    ///
    /// # Errors
    /// As the work fails, or that it was interrupted.
    pub async fn free<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            _ = self.next() => Err(Failure::interrupted("interrupted")),
        }
    }

    /// The next of them. Cancel-safe.
    pub async fn next(&mut self) -> Sign {
        if self.pressed > 0 {
            self.pressed -= 1;
            return Sign::Interrupt;
        }
        tokio::select! {
            _ = self.interrupt.recv() => Sign::Interrupt,
            _ = self.terminate.recv() => Sign::Terminate,
        }
    }
}
