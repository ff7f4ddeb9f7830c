//! The time that all of a simulation share, and the nonces of its jobs.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use clusterctl::core::id::JobNonce;
use clusterctl::core::time::{Now, Timestamp, WallTime};

/// Where every clock begins.
const FIRST: u64 = 1_000_000_000_000;
const FIRST_WALL_MS: i64 = 1_700_000_000_000;

thread_local! {
    /// As the simulation saw it last: whatever is dropped between two steps reads a clock, too.
    static LAST: Cell<u64> = const { Cell::new(0) };
    /// The nonce that was made last.
    static NONCE: Cell<u64> = const { Cell::new(0) };
}

/// What everybody in the simulation reads the time by.
pub fn now() -> Now {
    let elapsed =
        turmoil::sim_elapsed().map_or(LAST.get(), |elapsed| u64::try_from(elapsed.as_nanos()).unwrap());
    let wall = WallTime(FIRST_WALL_MS + i64::try_from(elapsed / 1_000_000).unwrap());
    Now { at: Timestamp(FIRST + elapsed), wall }
}

/// A nonce that no other job of this run has.
pub fn nonce() -> io::Result<JobNonce> {
    NONCE.set(NONCE.get() + 1);
    Ok(JobNonce(NONCE.get()))
}

/// Another run begins.
pub fn begin() {
    set(Duration::ZERO);
    NONCE.set(0);
}

/// The simulation has come to this moment.
pub fn set(elapsed: Duration) {
    LAST.set(u64::try_from(elapsed.as_nanos()).unwrap());
}
