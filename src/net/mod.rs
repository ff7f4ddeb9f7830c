//! Links: who is at the other end, proved by a key or by the kernel, and Cap'n Proto over it.
//!
//! Nothing here knows jobs, or what an identity may do.

pub mod address;
pub mod anteroom;
pub mod budget;
pub mod connection;
pub mod dial;
pub mod enrol;
pub mod excess;
pub mod gate;
pub mod key;
pub mod keyring;
mod ledger;
pub mod listen;
mod metered;
pub mod proxy;
mod scan;
pub mod succession;
pub mod tls;
pub mod token;
mod watched;
pub mod writer;
