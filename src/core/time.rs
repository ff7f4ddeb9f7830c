//! Time as the core is told it. Two clocks that are never mixed: one for order and time-outs, one for people.
//!
//! Nothing here reads a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on a clock that never jumps (`CLOCK_BOOTTIME`, or a simulation's), in nanoseconds since some start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time in milliseconds since 1970, for people to read. No decision depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// So much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long before `now` this was, as people say it: `3m ago`.
    pub fn ago(self, now: WallTime) -> String {
        let seconds = u64::try_from(now.0.saturating_sub(self.0)).unwrap_or(0) / 1000;
        match seconds {
            0..100 => format!("{seconds}s ago"),
            100..3600 => format!("{}m ago", seconds / 60),
            3600..86_400 => format!("{}h ago", seconds / 3600),
            _ => format!("{}d ago", seconds / 86_400),
        }
    }
}

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For order and time-outs.
    pub at: Timestamp,
    /// For people.
    pub wall: WallTime,
}

/// What those outside of the core read the time by: the machine's clocks, or a simulation's.
pub type Clock = fn() -> Now;

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0 as f64 / 1e9)
    }
}
