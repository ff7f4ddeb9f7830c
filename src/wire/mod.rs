//! Core values to and from Cap'n Proto structs, one file a noun, `read` beside `write`.
//!
//! Reading is where a message is checked: bounds, names, constraints, enumerations. What comes out is a value that
//! cannot be wrong, so nobody checks again. Nothing here knows who sends or receives.

pub mod audit;
pub mod client;
pub mod executor;
pub mod fence;
pub mod hello;
pub mod job;
pub mod label;
mod message;
pub mod outcome;
pub mod output;
pub mod record;
pub mod refusal;
pub mod status;
pub mod succession;
pub mod task;
pub mod text;
pub mod token;
pub mod why;
pub mod worker;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod tests;

use crate::core::id::BadName;
use crate::core::job::BadSpec;
use crate::core::label::BadConstraint;

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is no message of ours at all.
    #[error("malformed message: {0}")]
    Malformed(#[from] capnp::Error),
    /// It has an enumerator or a union member that this version does not know.
    #[error("the message is of a later version")]
    NotInSchema(#[from] capnp::NotInSchema),
    /// A text is no UTF-8.
    #[error("a text of the message is no UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    /// A list or text is longer than its bound.
    #[error("{what} is beyond the bound of {bound}")]
    TooLong {
        /// Which.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// A fixed number of bytes was expected.
    #[error("{what} does not have {bytes} bytes")]
    Length {
        /// Which.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A constraint that is none.
    #[error(transparent)]
    Constraint(#[from] BadConstraint),
    /// A request that cannot be run.
    #[error(transparent)]
    Spec(#[from] BadSpec),
    /// Anything else that does not hold.
    #[error("{0}")]
    Invalid(&'static str),
}

impl From<WireError> for capnp::Error {
    fn from(error: WireError) -> Self {
        capnp::Error::failed(error.to_string())
    }
}
