//! How a task ended, and what it used. Values only: what follows from an outcome is decided by `core::pool`.

use std::fmt;
use std::time::Duration;

/// How a task ended. One per task, and it never changes once it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Bash ended by itself with this code, 0 to 255.
    Exited(u8),
    /// A signal that the pool did not send ended bash.
    Signaled(u8),
    /// The job's time-out ran out, and the whole tree was ended.
    TimedOut,
    /// Somebody cancelled it, before or while it ran.
    Cancelled(Cancel),
    /// It cannot be known what became of it, or its executor died with it; the text says which.
    Lost(String),
    /// Bash could not be started; the text says why.
    SpawnFailed(String),
    /// Its attempts took their worker down too often.
    Quarantined,
}

impl Outcome {
    /// Whether bash ran and ended by itself.
    pub fn is_own(&self) -> bool {
        match self {
            Self::Exited(_) | Self::Signaled(_) => true,
            Self::TimedOut
            | Self::Cancelled(_)
            | Self::Lost(_)
            | Self::SpawnFailed(_)
            | Self::Quarantined => false,
        }
    }

    /// Whether this is what its submitter hoped for: exit 0.
    pub fn is_success(&self) -> bool {
        *self == Outcome::Exited(0)
    }
}

/// How a task is to be ended, and, in an outcome, how it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cancel {
    /// As by Ctrl-C: INT, after 5 s TERM, after 5 s KILL.
    Interrupt,
    /// TERM, after 10 s KILL.
    Terminate,
    /// KILL at once.
    Kill,
}

impl fmt::Display for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cancel::Interrupt => "SIGINT",
            Cancel::Terminate => "SIGTERM",
            Cancel::Kill => "SIGKILL",
        })
    }
}

/// What one attempt used, as the kernel counted it for bash and all that it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the start of bash to its end, on the worker's clock.
    pub run: Duration,
    /// Processor time in user mode.
    pub cpu_user: Duration,
    /// Processor time in the kernel.
    pub cpu_system: Duration,
    /// Largest resident set of any one process of the tree, in bytes.
    pub peak_memory_bytes: u64,
}
