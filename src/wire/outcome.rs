//! Outcomes, ways to cancel, and what an attempt used.

use std::time::Duration;

use crate::core::outcome::{Cancel, Outcome, Usage};
use crate::schema::types_capnp::{self, outcome, usage};

use super::{WireError, text};

/// Writes an outcome.
pub fn write(outcome: &Outcome, mut to: outcome::Builder<'_>) {
    match outcome {
        Outcome::Exited(code) => to.set_exited(*code),
        Outcome::Signaled(signal) => to.set_signaled(*signal),
        Outcome::TimedOut => to.set_timed_out(()),
        Outcome::Cancelled(how) => to.set_cancelled(write_cancel(*how)),
        Outcome::Lost(reason) => to.set_lost(text::reason(reason)),
        Outcome::SpawnFailed(reason) => to.set_spawn_failed(text::reason(reason)),
        Outcome::Quarantined => to.set_quarantined(()),
    }
}

/// Reads an outcome.
pub fn read(from: outcome::Reader<'_>) -> Result<Outcome, WireError> {
    Ok(match from.which()? {
        outcome::Exited(code) => Outcome::Exited(code),
        outcome::Signaled(signal) => Outcome::Signaled(signal),
        outcome::TimedOut(()) => Outcome::TimedOut,
        outcome::Cancelled(how) => Outcome::Cancelled(read_cancel(how?)),
        outcome::Lost(reason) => Outcome::Lost(text::read_reason(reason)?),
        outcome::SpawnFailed(reason) => Outcome::SpawnFailed(text::read_reason(reason)?),
        outcome::Quarantined(()) => Outcome::Quarantined,
    })
}

/// The enumerator of a way to cancel.
pub fn write_cancel(how: Cancel) -> types_capnp::Cancel {
    match how {
        Cancel::Interrupt => types_capnp::Cancel::Interrupt,
        Cancel::Terminate => types_capnp::Cancel::Terminate,
        Cancel::Kill => types_capnp::Cancel::Kill,
    }
}

/// The way to cancel that an enumerator stands for.
pub fn read_cancel(how: types_capnp::Cancel) -> Cancel {
    match how {
        types_capnp::Cancel::Interrupt => Cancel::Interrupt,
        types_capnp::Cancel::Terminate => Cancel::Terminate,
        types_capnp::Cancel::Kill => Cancel::Kill,
    }
}

/// Writes what an attempt used.
pub fn write_usage(usage: &Usage, mut to: usage::Builder<'_>) {
    to.set_run_us(text::micros(usage.run));
    to.set_cpu_user_us(text::micros(usage.cpu_user));
    to.set_cpu_system_us(text::micros(usage.cpu_system));
    to.set_peak_memory_bytes(usage.peak_memory_bytes);
}

/// Reads what an attempt used, in whole microseconds.
pub fn read_usage(from: usage::Reader<'_>) -> Usage {
    Usage {
        run: Duration::from_micros(from.get_run_us()),
        cpu_user: Duration::from_micros(from.get_cpu_user_us()),
        cpu_system: Duration::from_micros(from.get_cpu_system_us()),
        peak_memory_bytes: from.get_peak_memory_bytes(),
    }
}
