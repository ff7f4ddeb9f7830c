//! What a worker and its pool say to each other about belonging together, and about attempts in bulk.
//!
//! Values only: the pool's decisions are in `core::pool`, the agent's in `core::agent`.

use std::sync::Arc;
use std::time::Duration;

use super::attempt::AttemptEnd;
use super::id::{Fence, Incarnation, JobId, SecretsId};
use super::job::JobSpec;
use super::label::Labels;

/// What a worker says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Of its machine's present boot.
    pub boot_id: String,
    /// Of the executor that takes starts.
    pub incarnation: Incarnation,
    /// Grows with each dial of this worker: the newest registration counts.
    pub dial: u64,
    /// What it can run at a time.
    pub slots: u32,
    /// Found by itself or given with `--label`.
    pub labels: Labels,
    /// Of its machine.
    pub memory_bytes: u64,
    /// That jobs run as.
    pub uid: u32,
    /// Whose jobs it takes if it could read the pool's state.
    pub trust: SubmitterTrust,
    /// The name of the user that jobs run as.
    pub user: String,
    /// Of its agent.
    pub pid: u32,
    /// Whether it is remembered when it has gone.
    pub tenure: Tenure,
}

/// Whether a worker is remembered when it has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Until somebody removes it.
    Lasting,
    /// `--ephemeral`: for ten minutes, and as long as it may have something.
    Ephemeral,
}

/// Whose jobs a worker takes that runs on the pool's machine as the pool's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitterTrust {
    /// Only that user's own.
    OwnerOnly,
    /// Everybody's: it was started with `--trust-submitters`.
    Everybody,
}

/// The user id of root, who reads everything on a machine.
const ROOT: u32 = 0;

/// Whether the jobs of a worker can read its pool's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// They run on the pool's machine, as the pool's user.
    User,
    /// They run on the pool's machine, as root, which the pool is not.
    Root,
    /// They cannot.
    Apart,
    /// It has not registered yet, or its pool is too old to tell.
    Unknown,
}

impl Sharing {
    /// Of jobs and a pool, each by the boot of its machine and by its user there.
    pub fn between(jobs: (&str, u32), pool: (&str, u32)) -> Self {
        if jobs == pool {
            Sharing::User
        } else if jobs.0 == pool.0 && jobs.1 == ROOT {
            Sharing::Root
        } else {
            Sharing::Apart
        }
    }
}

/// What one executor has, as its agent tells the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Which executor.
    pub incarnation: Incarnation,
    /// Given to it and not ended, started or not.
    pub living: Vec<Fence>,
    /// Ended, and not yet forgotten; how is reported when the pool has the output.
    pub ended: Vec<Fence>,
    /// Journalled by an executor that is gone as received and not as starting.
    pub never_started: Vec<Fence>,
}

/// Something that happened at a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Bash runs.
    Started(Fence),
    /// It ended; all of its output was sent before.
    Ended(AttemptEnd),
    /// It was taken back before it started, and never will.
    TakenBack(Fence),
}

/// What a worker is told when it has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// The pool's name.
    pub pool: String,
    /// How long an attempt may run after the heartbeat that was answered last was sent.
    pub lease: Duration,
    /// How often to send one.
    pub heartbeat: Duration,
    /// What waits for a slot may start for so long after that was sent which the pool has answered last.
    pub silent_after: Duration,
    /// Of what it carries: need not be kept any longer.
    pub forget: Vec<Fence>,
    /// Of what it carries: not wanted.
    pub kill: Vec<Fence>,
    /// How much output the pool has of what lives or ended there.
    pub positions: Vec<(Fence, u64)>,
    /// Takes only this owner's jobs.
    pub only_owner: Option<String>,
}

/// Attempts of one job given to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The job.
    pub job: JobId,
    /// What is run.
    pub spec: Arc<JobSpec>,
    /// The key of the secrets in it, if there are any.
    pub secrets: Option<SecretsId>,
    /// The attempts.
    pub fences: Vec<Fence>,
    /// How long each may run without a heartbeat answered; none: as long as its executor lives.
    pub lease: Option<Duration>,
}

/// The same as the worker reads it: of the spec only what running needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOrder {
    /// The job.
    pub job: JobId,
    /// Bash source.
    pub script: Vec<u8>,
    /// `$1 $2 …`.
    pub args: Vec<Vec<u8>>,
    /// Variables.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where it starts instead of its workspace.
    pub cwd: Option<Vec<u8>>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// The attempts.
    pub fences: Vec<Fence>,
    /// How long each may run after that was sent which the pool has answered last; none: as long as its executor lives.
    pub lease: Option<Duration>,
}
