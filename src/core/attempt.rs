//! What an agent and an executor say to each other about attempts, as values.
//!
//! The agent decides, the executor carries out. Nothing here knows how the words travel (`wire::executor`), how a
//! process is started (`process`), or what a pool is.

use std::time::Duration;

use super::id::{Fence, Incarnation};
use super::outcome::{Cancel, Outcome, Usage};
use super::output::{Chunk, OutputTotals};
use super::time::Timestamp;

/// All that is needed to run one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which attempt it is.
    pub fence: Fence,
    /// The number of the agent's dial that this start came by: starts by an older one are refused.
    pub dial: u64,
    /// Bash source.
    pub script: Vec<u8>,
    /// `$1 $2 …`.
    pub args: Vec<Vec<u8>>,
    /// Variables that are set last.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where it starts instead of its workspace.
    pub cwd: Option<Vec<u8>>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// When it ends without a renewal, by the machine's clock; `None`: it may run as long as its executor lives.
    pub lease_until: Option<Timestamp>,
    /// The worker's name, for `CLUSTERCTL_WORKER`.
    pub worker: String,
}

/// How an attempt ended, as the executor keeps it until it is told to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// Which attempt it was.
    pub fence: Fence,
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// What it wrote.
    pub totals: OutputTotals,
    /// All of its output, if that is at most `OUTPUT_INLINE_BYTES_MAX` in `OUTPUT_INLINE_CHUNKS_MAX`, and none of it was
    /// sent before.
    pub tail: Vec<Chunk>,
}

impl AttemptEnd {
    /// One whose bash was never run.
    pub fn not_started(fence: Fence, why: &str) -> Self {
        Self {
            fence,
            outcome: Outcome::SpawnFailed(why.to_owned()),
            usage: Usage::default(),
            totals: OutputTotals::default(),
            tail: Vec::new(),
        }
    }
}

/// An attempt that an executor has, as it tells an agent that has just connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Received, not yet started: it waits for a slot.
    Waiting(Fence),
    /// Bash was started.
    Running(Fence),
    /// It has ended, and nobody has said *forget*.
    Ended(AttemptEnd),
}

/// What an executor is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToExecutor {
    /// Run this. Answered by `Started` or by `Ended` with `SpawnFailed`; a fence that it has already is ignored.
    Start(Launch),
    /// End this attempt; a stronger way counts, a weaker one after it does not. Unknown fences are ignored.
    End {
        /// Which attempt.
        fence: Fence,
        /// How.
        how: Cancel,
    },
    /// Every attempt that has a lease may run until then, by the clock of the machine that both are on.
    Lease(Timestamp),
    /// So many attempts run at a time, and none that waits begins after `until`, by the same clock. Before it is told
    /// so for the first time, an executor runs whatever it gets.
    Starts {
        /// How many run at a time.
        slots: u32,
        /// Until when what waits may begin.
        until: Timestamp,
    },
    /// Give this attempt back, unless it was begun: answered by `Refused`, or not at all.
    TakeBack(Fence),
    /// Output before this position is durable at the pool and may be forgotten.
    Acknowledged {
        /// Whose output.
        fence: Fence,
        /// Position of the first byte that is not acknowledged.
        position: u64,
    },
    /// Send this attempt's output from here (again), and go on; before this, an attempt of an executor that has just
    /// got a new agent, or that was told `Pause`, sends none.
    SendFrom {
        /// Whose output.
        fence: Fence,
        /// Position of the first byte wanted.
        position: u64,
    },
    /// Send no output until `SendFrom`: the link to the pool is down. Also applies to attempts started later.
    Pause,
    /// The reverse of `Pause` for attempts that are started from now on.
    Unpause,
    /// The ending of this attempt is durable at the pool.
    Forget(Fence),
    /// A registration with this number was made: refuse starts of lower ones.
    Dial(u64),
    /// End when nothing is left that runs or is remembered.
    ExitWhenEmpty,
    /// End every attempt (TERM, 10 s, KILL) with outcome `Lost`, then as `ExitWhenEmpty`.
    StopAll,
}

/// What an executor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromExecutor {
    /// First thing on each connection.
    Welcome {
        /// Random, made when the executor started.
        incarnation: Incarnation,
        /// Everything that it has.
        held: Vec<Held>,
        /// Highest dial number that it has been told.
        dial: u64,
    },
    /// Bash runs.
    Started(Fence),
    /// Bytes that were read, in order of position. At most `OUTPUT_IN_FLIGHT_BYTES_MAX` of all attempts together
    /// are sent and unacknowledged.
    Output {
        /// Whose output.
        fence: Fence,
        /// The bytes.
        chunk: Chunk,
    },
    /// It has ended, all of its processes are gone, and all of its output was read. Output that was not sent yet may
    /// still follow.
    Ended(AttemptEnd),
    /// It was not begun and will not be: its start came by an older registration, or it was taken back.
    Refused(Fence),
}
