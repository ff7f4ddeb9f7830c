//! What the pool shows of itself: snapshots for people and scripts, made by `core::Pool` (or from the history), carried
//! by `wire`, drawn by `client`.
//!
//! Nothing decides by them.

use super::id::{Fingerprint, JobId, TaskId};
use super::job::JobSpec;
use super::label::Labels;
use super::membership::{Sharing, Tenure};
use super::outcome::{Cancel, Outcome, Usage};
use super::output::OutputTotals;
use super::space::Space;
use super::time::WallTime;

/// A task's state as people see it.
///
/// ```text
///   Queued ──> Starting ──> Running ──> Done Failed Cancelled Lost
///     ^            └──────────┴──> Unknown ──> (Running, or an end)
///     └──────────────────────────────┘ with --retries
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// It waits for a worker.
    Queued,
    /// Given to a worker, not yet reported as started.
    Starting,
    /// Bash runs.
    Running,
    /// Its worker is silent.
    Unknown,
    /// It ended with exit 0.
    Done,
    /// It ended with another exit, a signal, a time-out, or could not be started.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// Nobody knows what became of it, and nobody will.
    Lost,
}

impl TaskState {
    /// All of them, in the order of a task's life.
    pub const ALL: [TaskState; 8] = [
        TaskState::Queued,
        TaskState::Starting,
        TaskState::Running,
        TaskState::Unknown,
        TaskState::Done,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::Lost,
    ];

    /// The state in which an outcome leaves a task.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Exited(0) => TaskState::Done,
            Outcome::Exited(_) | Outcome::Signaled(_) | Outcome::TimedOut | Outcome::SpawnFailed(_) => {
                TaskState::Failed
            }
            Outcome::Cancelled(_) => TaskState::Cancelled,
            Outcome::Lost(_) | Outcome::Quarantined => TaskState::Lost,
        }
    }

    /// The word that people read and type.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Queued => "queued",
            TaskState::Starting => "starting",
            TaskState::Running => "running",
            TaskState::Unknown => "unknown",
            TaskState::Done => "done",
            TaskState::Failed => "failed",
            TaskState::Cancelled => "cancelled",
            TaskState::Lost => "lost",
        }
    }

    /// Whether it will never change again.
    pub fn is_over(self) -> bool {
        matches!(self, TaskState::Done | TaskState::Failed | TaskState::Cancelled | TaskState::Lost)
    }
}

/// How a task ended, with all that is kept about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// How.
    pub outcome: Outcome,
    /// What its last attempt used.
    pub usage: Usage,
    /// What its last attempt wrote.
    pub totals: OutputTotals,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its index; 0 for a plain job.
    pub index: u32,
    /// Its state.
    pub state: TaskState,
    /// The newest attempt; 0 if there was none yet.
    pub attempt: u32,
    /// Where that attempt is or was.
    pub worker: Option<String>,
    /// When that attempt was reported as started.
    pub started: Option<WallTime>,
    /// When it ended.
    pub ended: Option<WallTime>,
    /// How it ended.
    pub end: Option<TaskEnd>,
    /// A cancel was asked for and has not taken effect yet.
    pub cancelling: bool,
}

/// How many tasks of a job are in each state, by `TaskState as usize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub [u64; 8]);

impl Counts {
    /// Tasks in a state.
    pub fn of(&self, state: TaskState) -> u64 {
        self.0[state as usize]
    }

    /// Mutable, for whoever counts.
    pub fn of_mut(&mut self, state: TaskState) -> &mut u64 {
        &mut self.0[state as usize]
    }

    /// Tasks that have ended.
    pub fn over(&self) -> u64 {
        TaskState::ALL.iter().filter(|state| state.is_over()).map(|&state| self.of(state)).sum()
    }

    /// All tasks.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The job's state: what its liveliest task does, and of ended ones the worst end.
    pub fn state(&self) -> TaskState {
        use TaskState::{Cancelled, Done, Failed, Lost, Queued, Running, Starting, Unknown};
        [Running, Starting, Unknown, Queued, Lost, Failed, Cancelled]
            .into_iter()
            .find(|&state| self.of(state) > 0)
            .unwrap_or(Done)
    }
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub owner: String,
    /// The request; of lists, the script may be cut to its first 256 bytes.
    pub spec: std::sync::Arc<JobSpec>,
    /// When it was accepted.
    pub submitted: WallTime,
    /// When its first task was started.
    pub started: Option<WallTime>,
    /// When its last task ended.
    pub ended: Option<WallTime>,
    /// From acceptance to the first start.
    pub queued: Option<std::time::Duration>,
    /// Its tasks by state.
    pub counts: Counts,
    /// Of a plain job its task; of an array the first that failed.
    pub task: Option<TaskInfo>,
    /// Of an array, ranges of tasks that ended otherwise than with exit 0 (at most 1,000 ranges).
    pub failed: Vec<(u32, u32)>,
}

/// Which jobs are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Every job, not only live ones and those of the last hour.
    pub all: bool,
    /// Only these states; empty: any.
    pub states: Vec<TaskState>,
    /// Only this name.
    pub name: Option<String>,
    /// Only those submitted at or after.
    pub since: Option<WallTime>,
}

/// Why a task is not running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// Its state.
    pub state: TaskState,
    /// One sentence.
    pub text: String,
    /// Tasks that go before it.
    pub ahead: u64,
    /// Each term of its constraint.
    pub terms: Vec<TermCount>,
    /// Workers that meet the whole constraint.
    pub fitting: u32,
    /// Workers that there are (connected ones).
    pub workers: u32,
}

/// How many workers meet one term of a constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermCount {
    /// The term, as `gpu=h100`.
    pub text: String,
    /// Workers that meet it.
    pub met: u32,
    /// What workers do offer for its label, with how many do, most frequent first.
    pub seen: Vec<(String, u32)>,
}

/// A worker's state as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkerState {
    /// Connected, and takes tasks.
    Ready,
    /// Connected, takes no more, and has some.
    Draining,
    /// Connected, takes no more, and has none.
    Drained,
    /// Connected, and has no room for more on its disk.
    Full,
    /// Not heard for 15 s.
    Silent,
    /// Known, but not connected.
    Away,
}

impl WorkerState {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Ready => "ready",
            WorkerState::Draining => "draining",
            WorkerState::Drained => "drained",
            WorkerState::Full => "full",
            WorkerState::Silent => "silent",
            WorkerState::Away => "away",
        }
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: WorkerState,
    /// What it can run at a time.
    pub slots: u32,
    /// Of these, in use.
    pub used: u32,
    /// What it offers.
    pub labels: Labels,
    /// Of its machine.
    pub memory_bytes: u64,
    /// Time since it was last heard.
    pub seen: Option<std::time::Duration>,
    /// What it holds (at most 1,000).
    pub tasks: Vec<TaskId>,
    /// Takes only this owner's jobs.
    pub only_owner: Option<String>,
    /// Whether its jobs can read the pool's state.
    pub sharing: Sharing,
    /// Since when it belongs to the pool.
    pub joined: WallTime,
    /// Its key; none for a local worker.
    pub fingerprint: Option<Fingerprint>,
    /// Whether it is remembered when it has gone.
    pub tenure: Tenure,
}

/// A person or a script that a token let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Its name.
    pub name: String,
    /// Whose jobs it submits and sees.
    pub owner: String,
    /// Its key.
    pub key: Fingerprint,
    /// When it was let in.
    pub joined: WallTime,
    /// How many connections it has.
    pub connections: u32,
    /// Whether it is let in no longer.
    pub revoked: bool,
}

/// The pool as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Its state directory.
    pub state: String,
    /// Where it listens; none for a private pool.
    pub listening: Option<String>,
    /// When its process started.
    pub since: WallTime,
    /// Connected workers.
    pub workers: u32,
    /// Silent workers.
    pub silent: u32,
    /// Slots of the connected ones.
    pub slots: u32,
    /// Of these, in use.
    pub used: u32,
    /// Tasks that wait.
    pub queued: u64,
    /// Tasks that run or start.
    pub running: u64,
    /// Tasks of silent workers.
    pub unknown: u64,
    /// Its program's version.
    pub build: String,
    /// Output that is kept, in bytes.
    pub output_bytes: u64,
    /// And at most.
    pub output_limit_bytes: u64,
    /// Whether its disk has room for new jobs.
    pub space: Option<Space>,
    /// Its key.
    pub fingerprint: Fingerprint,
    /// The highest job id; 0 if there is none.
    pub newest: JobId,
}

/// Something that happened to a task, as a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEvent {
    /// Its index.
    pub task: u32,
    /// The attempt that it is about; 0 if there was none.
    pub attempt: u32,
    /// The worker that it is about.
    pub worker: Option<String>,
    /// What happened.
    pub kind: TaskEventKind,
}

/// What happened to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEventKind {
    /// It waits.
    Queued,
    /// Bash runs.
    Started,
    /// Its worker is silent; holds the time until it may start elsewhere, if it ever may by itself.
    Unknown(Option<std::time::Duration>),
    /// Its worker is heard again.
    Returned,
    /// This attempt is lost, for this reason, and another is allowed.
    AttemptLost(String),
    /// It is being ended.
    Cancelling(Cancel),
    /// It has ended.
    Ended(TaskEnd),
}

/// What a cancel did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// Tasks that were waiting and will never start.
    pub cancelled: u64,
    /// Tasks that are being ended at their worker, or at one that is silent.
    pub cancelling: u64,
}
