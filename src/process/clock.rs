//! The clocks that the program goes by, read in one place.

use nix::time::{ClockId, clock_gettime};

use crate::core::time::{Now, Timestamp, WallTime};

/// Time since boot, suspend included: it never jumps.
pub fn boottime() -> Timestamp {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec()).expect("time since boot is positive");
    let nanos = u64::try_from(time.tv_nsec()).expect("nanoseconds are positive");
    Timestamp(seconds * 1_000_000_000 + nanos)
}

/// The wall clock, for people.
pub fn wall() -> WallTime {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).expect("Linux has CLOCK_REALTIME");
    WallTime(time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000)
}

/// Both.
pub fn now() -> Now {
    Now { at: boottime(), wall: wall() }
}
