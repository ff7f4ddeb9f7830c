//! How a peer may go beyond what it may have.

use crate::core::limits;

/// The bound that a peer has passed. It is cut, and nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// A frame claims to be so large, in bytes.
    #[error("a frame of {bytes} bytes, the bound is {bound}")]
    Frame {
        /// What it claims.
        bytes: u64,
        /// What it may.
        bound: u64,
    },
    /// It has too many calls open.
    #[error("more than {} open calls", limits::OPEN_CALLS_MAX)]
    OpenCalls,
    /// Its open calls, and answers that it has not finished with, are too large.
    #[error("more than {} bytes in open calls", limits::OPEN_CALLS_BYTES_MAX)]
    OpenCallsBytes,
    /// It gave up too many calls that were never answered.
    #[error("more than {} calls that were given up", limits::CALLS_GIVEN_UP_MAX)]
    CallsGivenUp,
    /// One side holds too many capabilities of the other.
    #[error("more than {} capabilities", limits::EXPORTS_MAX)]
    Capabilities,
    /// It calls something that is too deep in an answer.
    #[error("a call more than {} steps into an answer", limits::PIPELINE_STEPS_MAX)]
    PipelineSteps,
    /// Its calls wait for each other in too long a row.
    #[error("more than {} calls in a row", limits::CALLS_IN_A_ROW_MAX)]
    CallsInARow,
    /// It does not read.
    #[error("more than {} bytes that were not read", limits::BACKLOG_BYTES_MAX)]
    Backlog,
    /// All peers together have too much, and it has most.
    #[error("the largest share of what all peers may have together")]
    Budget,
}

impl Excess {
    /// Whether the peer may still be told why it is cut: not, if it does not read.
    pub(super) fn can_be_told(self) -> bool {
        !matches!(self, Excess::Backlog | Excess::Budget)
    }
}

impl From<Excess> for capnp::Error {
    fn from(excess: Excess) -> Self {
        capnp::Error::overloaded(format!("cut for {excess}"))
    }
}
