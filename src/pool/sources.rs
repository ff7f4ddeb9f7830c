//! Where a pool takes from what nobody decides: the time, and the nonces of its jobs. A simulation has its own.

use std::io;

use crate::core::id::JobNonce;
use crate::core::time::Clock;
use crate::process::clock;

/// Where a pool takes from what nobody decides.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// What it reads the time by.
    pub clock: Clock,
    /// Makes a nonce that no other job has.
    pub nonce: fn() -> io::Result<JobNonce>,
}

impl Sources {
    /// The machine's clocks and its randomness.
    pub(super) fn of_machine() -> Self {
        Self { clock: clock::now, nonce }
    }
}

fn nonce() -> io::Result<JobNonce> {
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(JobNonce(u64::from_le_bytes(nonce)))
}
