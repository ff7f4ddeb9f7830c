//! What a pool remembers: each change of durable state as a value that `Pool::apply` carries out, live and in replay.
//!
//! Records hold durations, never deadlines: on load every lease restarts in full. Nothing here knows how records are
//! encoded (`wire::record`) or kept (`store`).

use std::sync::Arc;
use std::time::Duration;

use super::access::Role;
use super::attempt::AttemptEnd;
use super::audit::AuditEntry;
use super::id::{
    AttemptNumber, Epoch, Fence, Fingerprint, Incarnation, JobId, JobNonce, RequestId, SecretsId, TokenId,
    WorkerId,
};
use super::job::JobSpec;
use super::label::Labels;
use super::membership::Facts;
use super::outcome::Cancel;
use super::time::WallTime;
use super::view::Counts;

/// A record takes about so much beside what can be long in it.
const RECORD_BYTES: usize = 256;
/// An index, a range or an attempt in a list.
const PART_BYTES: usize = 64;

/// One change of durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A pool process took over the state.
    PoolStarted(Epoch),
    /// The ids given out so far: repeated so that the log before it may go.
    Counters(Counters),
    /// A job was accepted; all of its tasks wait.
    Submitted(Submission),
    /// Tasks of a job were given to a worker.
    Assigned(Assignment),
    /// A task ended.
    Ended(TaskEnded),
    /// An attempt is over without an outcome, and its task waits again.
    PutBack {
        /// The attempt.
        fence: Fence,
        /// Why, which also says whether it counts as one of the attempts that were allowed.
        reason: PutBack,
    },
    /// Somebody wants tasks ended: those that wait are cancelled by this record, those at workers are marked.
    CancelWanted {
        /// Whose tasks.
        job: JobId,
        /// Which indices; those that have ended are left alone.
        ranges: Vec<(u32, u32)>,
        /// How.
        how: Cancel,
        /// When.
        at: WallTime,
    },
    /// A job as it stands: repeated so that the log before it may go.
    Job(Box<JobState>),
    /// A worker as it stands: its joining, its removal, a change of its key or of what it said of itself, or a
    /// repetition.
    Worker(WorkerState),
    /// A client's key was let in (or is repeated).
    Client(ClientState),
    /// A client has another key from now on.
    ClientRenewed {
        /// The key that it had, which is let in no longer.
        before: Fingerprint,
        /// As it stands, with the new one.
        client: ClientState,
    },
    /// A token as it stands: made, spent once more, revoked, or repeated.
    Token(TokenState),
    /// A token is gone: it expired or was revoked long ago.
    TokenForgotten(TokenId),
    /// An ephemeral worker is gone: it left long ago, and holds nothing.
    WorkerForgotten(WorkerId),
}

impl Record {
    /// About how many bytes it takes: by this a turn is kept within what one commit may hold.
    pub fn weight(&self) -> usize {
        let more = match self {
            Self::Submitted(submission) => submission.weight(),
            Self::Job(state) => {
                let parts = state.waiting.len() + state.active.len() + state.tried.len() + state.failed.len();
                state.submission.weight() + parts * PART_BYTES
            }
            Self::Assigned(assignment) => assignment.tasks.len() * PART_BYTES,
            Self::Ended(ended) => ended.weight(),
            Self::CancelWanted { ranges, .. } => ranges.len() * PART_BYTES,
            Self::PoolStarted(_)
            | Self::Counters(_)
            | Self::PutBack { .. }
            | Self::Worker(_)
            | Self::Client(_)
            | Self::ClientRenewed { .. }
            | Self::Token(_)
            | Self::TokenForgotten(_)
            | Self::WorkerForgotten(_) => 0,
        };
        RECORD_BYTES + more
    }
}

/// The highest ids given out so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Jobs.
    pub job: JobId,
    /// Workers.
    pub worker: WorkerId,
    /// Tokens.
    pub token: TokenId,
}

/// A job as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its id.
    pub job: JobId,
    /// Random; part of every fence.
    pub nonce: JobNonce,
    /// Whose it is.
    pub owner: String,
    /// Chosen by the client.
    pub request: RequestId,
    /// The request itself.
    pub spec: Arc<JobSpec>,
    /// When.
    pub at: WallTime,
}

impl Submission {
    /// The same with nothing in its secrets: what the history keeps.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let spec = match self.spec.secrets.is_empty() {
            true => Arc::clone(&self.spec),
            false => Arc::new(self.spec.without_secrets()),
        };
        Self { spec, ..self.clone() }
    }

    /// The key of its secrets, if it has any.
    pub fn secrets(&self) -> Option<SecretsId> {
        (!self.spec.secrets.is_empty()).then(|| SecretsId::of(&self.owner, self.request))
    }

    fn weight(&self) -> usize {
        self.spec.bytes()
    }
}

/// Tasks of one job given to one worker in one turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Whose tasks.
    pub job: JobId,
    /// To whom.
    pub worker: WorkerId,
    /// The executor that takes them.
    pub incarnation: Incarnation,
    /// The tasks' indices, each with the number of the attempt.
    pub tasks: Vec<(u32, AttemptNumber)>,
    /// When.
    pub at: WallTime,
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnded {
    /// The attempt that ended, with its outcome, usage, totals and the output that rides along.
    pub end: Arc<AttemptEnd>,
    /// The name of the worker where it was.
    pub worker: String,
    /// When that attempt began, on the pool's clock.
    pub started: WallTime,
    /// When its end was reported.
    pub ended: WallTime,
}

impl TaskEnded {
    fn weight(&self) -> usize {
        self.end.tail.iter().map(|chunk| chunk.bytes.len() + PART_BYTES).sum()
    }
}

/// Why a task waits again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// The attempt is lost (the text says why), and `--retries` allows another.
    Retry(String),
    /// The same, and its worker went down with it.
    WorkerLost(String),
    /// It is proven that bash was never started: no attempt was used up.
    NeverStarted,
}

/// What a task has used up of what it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Attempts that count.
    pub attempts: u32,
    /// Of these, whose worker went down with them.
    pub workers: u32,
}

/// A job with all that is remembered of its tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobState {
    /// As it was accepted.
    pub submission: Submission,
    /// Indices that wait.
    pub waiting: Vec<(u32, u32)>,
    /// Tasks at workers.
    pub active: Vec<ActiveState>,
    /// Tasks that wait although they had attempts: index, highest attempt number, what they have used up.
    pub tried: Vec<(u32, AttemptNumber, Spent)>,
    /// Ended tasks by state.
    pub over: Counts,
    /// Ended otherwise than with exit 0.
    pub failed: Vec<(u32, u32)>,
    /// When its first task was given out.
    pub started: Option<WallTime>,
}

/// A task at a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveState {
    /// Its index.
    pub index: u32,
    /// The attempt.
    pub attempt: AttemptNumber,
    /// What was used up before this one.
    pub spent: Spent,
    /// Where.
    pub worker: WorkerId,
    /// The executor that it was given to.
    pub incarnation: Incarnation,
    /// When it was given out.
    pub at: WallTime,
    /// The cancel that was asked for.
    pub cancel: Option<Cancel>,
    /// How long it had been unknown, and still was, before the pool's start.
    pub unknown: Duration,
}

/// A worker with all that is remembered of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerState {
    /// Its id.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Its key; none for a worker on the pool's own machine that came by the local socket.
    pub key: Option<Fingerprint>,
    /// Labels that its token bound to it; they go over its own.
    pub bound: Labels,
    /// When it joined.
    pub joined: WallTime,
    /// Whether somebody removed it; then its key and its name are kept, so that neither comes back.
    pub validity: Validity,
    /// What it said of itself when it last registered.
    pub facts: Option<Facts>,
    /// Whether a person has taken it out of service.
    pub drain: Option<Drain>,
}

/// That a worker gets nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// After so long what still runs there is ended; none: it goes on.
    pub deadline: Option<Duration>,
}

/// A client's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientState {
    /// The key.
    pub key: Fingerprint,
    /// Its name.
    pub name: String,
    /// Whose jobs it submits and sees.
    pub owner: String,
    /// When it was let in.
    pub joined: WallTime,
    /// Whether somebody revoked it; then its key and its name are kept, so that neither comes back.
    pub validity: Validity,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenState {
    /// Its id.
    pub id: TokenId,
    /// What it makes of a key.
    pub role: Role,
    /// Hash of its secret.
    pub secret_hash: [u8; 32],
    /// The name that it gives.
    pub name: Option<String>,
    /// The owner that it binds.
    pub owner: Option<String>,
    /// The labels that it binds.
    pub labels: Labels,
    /// How often it may still be used; none: any number.
    pub uses_left: Option<u32>,
    /// When it stops to count, on the wall clock: a person's promise to a person.
    pub expires: WallTime,
    /// Whether somebody revoked it.
    pub validity: Validity,
    /// Keys that it let in: the same key again is the same use.
    pub admitted: Vec<Fingerprint>,
}

/// Whether a token, a worker or a client still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It does.
    Standing,
    /// Somebody revoked it.
    Revoked,
}

/// A job that has ended, as the history keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnded {
    /// As it was accepted.
    pub submission: Submission,
    /// Its tasks by state; all of them over.
    pub counts: Counts,
    /// Tasks that ended otherwise than with exit 0.
    pub failed: Vec<(u32, u32)>,
    /// When its first task was given out.
    pub started: Option<WallTime>,
    /// When its last task ended.
    pub ended: WallTime,
}

/// What the history is given beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryItem {
    /// A task that had an attempt ended.
    Task(TaskEnded),
    /// A job's last task ended.
    Job(Box<JobEnded>),
    /// An entry of the audit trail.
    Audit(AuditEntry),
}

impl HistoryItem {
    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let more = match self {
            Self::Task(ended) => ended.weight(),
            Self::Job(ended) => ended.submission.weight() + ended.failed.len() * PART_BYTES,
            Self::Audit(_) => 0,
        };
        RECORD_BYTES + more
    }
}
