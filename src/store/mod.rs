//! Everything that is durable, as bytes: the log and the history beside it, the output of attempts, and where they lie.
//!
//! Nothing here decides anything; of records it knows how they are encoded and no more.

pub mod backup;
pub mod check;
pub mod lock;
mod medium;
pub mod memory;
pub mod output;
pub mod output_thread;
pub mod place;
pub mod secrets;
mod segment;
pub mod space;
pub mod sqlite;
mod wal;

use std::path::PathBuf;

use crate::core::id::{Epoch, JobId, RequestId, TaskId};
use crate::core::pool::{Batch, Effect};
use crate::core::record::{HistoryItem, Record};
use crate::core::refusal::os_words;
use crate::core::time::{Timestamp, WallTime};
use crate::core::view::TaskState;
use crate::wire;

/// Entries and rows that become durable together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Of the pool process that commits: refused if a later one has acquired the store.
    pub epoch: Epoch,
    /// Number of the first entry, from 1.
    pub first_seq: u64,
    /// The entries.
    pub entries: Vec<Vec<u8>>,
    /// Entries before this number may go.
    pub keep_from: u64,
    /// Rows of jobs that ended.
    pub jobs: Vec<JobRow>,
    /// Rows of tasks that ended.
    pub tasks: Vec<TaskRow>,
    /// Entries of the audit trail, in order.
    pub audit: Vec<Vec<u8>>,
}

/// A job that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// Whose it was.
    pub owner: String,
    /// The name that it was given.
    pub name: Option<String>,
    /// Its client's request id.
    pub request: RequestId,
    /// When it was accepted.
    pub submitted: WallTime,
    /// When its last task ended.
    pub ended: WallTime,
    /// How, all in all.
    pub state: TaskState,
    /// All of it, encoded.
    pub body: Vec<u8>,
}

/// A task that ended after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// Its id.
    pub task: TaskId,
    /// How it ended.
    pub state: TaskState,
    /// All of it, encoded.
    pub body: Vec<u8>,
}

/// An entry of the audit trail, chained to the one before it (`wire::audit::link`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, from 1.
    pub number: u64,
    /// The chain's value before it.
    pub before: [u8; 32],
    /// All of it, encoded.
    pub body: Vec<u8>,
    /// The chain's value with it.
    pub chain: [u8; 32],
}

/// Takes each entry of a log, with its number.
pub type EachEntry<'a> = dyn FnMut(u64, &[u8]) -> Result<(), StoreError> + 'a;

/// An ordered, epoch-fenced, batched log, with a searchable history of what ended. The writer's side, owned by one
/// thread.
pub trait Store: Send {
    /// Takes the store over: appends of earlier epochs fail from now on.
    fn acquire(&mut self) -> Result<Epoch, StoreError>;

    /// All entries that are still needed, in order; answers with the number of the next.
    fn load(&mut self, entry: &mut EachEntry<'_>) -> Result<u64, StoreError>;

    /// Makes a commit durable before it returns. After an error the store is not to be used again.
    fn append(&mut self, commit: &Commit) -> Result<(), StoreError>;
}

/// Which ended jobs are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Of this owner only.
    pub owner: Option<String>,
    /// With lower ids only.
    pub before: Option<JobId>,
    /// In these states only; empty: any.
    pub states: Vec<TaskState>,
    /// Of this name only.
    pub name: Option<String>,
    /// Submitted at or after.
    pub submitted_since: Option<WallTime>,
    /// Ended at or after.
    pub ended_since: Option<WallTime>,
}

/// The history, for readers on any thread. What a reader sees was durable.
pub trait History: Send {
    /// An ended job.
    fn job(&mut self, id: JobId) -> Result<Option<JobRow>, StoreError>;

    /// Ended jobs, newest first, at most `limit`, and how many more there are.
    fn jobs(&mut self, query: &JobQuery, limit: usize) -> Result<(Vec<JobRow>, u64), StoreError>;

    /// Ended tasks of a job in order, in this state if one is given: after an index, at most so many.
    fn tasks(
        &mut self,
        job: JobId,
        page: (Option<u32>, usize),
        state: Option<TaskState>,
    ) -> Result<Vec<TaskRow>, StoreError>;

    /// Entries of the audit trail after a number, oldest first, and the number of the newest.
    fn audit(&mut self, after: u64, limit: usize) -> Result<(Vec<AuditRow>, u64), StoreError>;

    /// The ended job that a request made.
    fn by_request(&mut self, owner: &str, request: RequestId) -> Result<Option<JobRow>, StoreError>;
}

/// Why the store cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("another pool is already using {path} (pid {pid})")]
    Held {
        /// The state directory.
        path: PathBuf,
        /// The process.
        pid: u32,
    },
    /// A later epoch has acquired it.
    #[error("another pool has taken over (epoch {0})")]
    Superseded(Epoch),
    /// What is on the disk contradicts itself, and not only at its end.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// It was written by a later version.
    #[error("the store was written by a later version (schema {0})")]
    TooNew(i64),
    /// SQLite's own, in its words.
    #[error("the store's database: {0}")]
    Database(rusqlite::Error),
    /// The operating system's own.
    #[error("the store cannot be read or written: {}", os_words(.0))]
    Io(std::io::Error),
    /// The same, about a file or directory that somebody has named.
    #[error("cannot use {}: {}", .0.display(), os_words(.1))]
    At(PathBuf, std::io::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let is_damage = matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase));
        match error {
            // We wrote what can be read.
            rusqlite::Error::FromSqlConversionFailure(_, _, words) => Self::Damaged(words.to_string()),
            rusqlite::Error::InvalidColumnType(..) => Self::Damaged(error.to_string()),
            error if is_damage => Self::Damaged(error.to_string()),
            // It is no source, nor is the next one: their words stand in ours, and would be said twice.
            error => Self::Database(error),
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Makes a turn's records durable, and only then gives out its effects.
///
/// # Errors
/// When the store fails: then nothing of the turn may be shown or done, and the process must end.
pub fn commit(store: &mut dyn Store, epoch: Epoch, batch: Batch) -> Result<Vec<Effect>, StoreError> {
    let turn = batch.turn();
    if !turn.records.is_empty() || !turn.history.is_empty() {
        let mut commit = Commit {
            epoch,
            first_seq: turn.first_seq,
            entries: turn.records.iter().map(wire::record::encode).collect(),
            keep_from: turn.keep_from,
            ..Commit::default()
        };
        for item in &turn.history {
            match item {
                HistoryItem::Task(ended) => commit.tasks.push(TaskRow {
                    task: ended.end.fence.task,
                    state: TaskState::of(&ended.end.outcome),
                    body: wire::record::encode_task(ended),
                }),
                HistoryItem::Job(ended) => commit.jobs.push(job_row(ended)),
                HistoryItem::Audit(entry) => commit.audit.push(wire::audit::encode(entry)),
            }
        }
        store.append(&commit)?;
    }
    Ok(batch.into_effects())
}

/// Replays all that is remembered into a pool.
///
/// # Errors
/// When the store cannot be read, or an entry is not understood.
pub fn replay(
    store: &mut dyn Store,
    pool: &mut crate::core::pool::Pool,
    now: Timestamp,
) -> Result<u64, StoreError> {
    store.load(&mut |seq, bytes| {
        let record: Record = wire::record::decode(bytes)
            .map_err(|error| StoreError::Damaged(format!("entry {seq} is not understood: {error}")))?;
        pool.replay(now, seq, &record);
        Ok(())
    })
}

fn job_row(ended: &crate::core::record::JobEnded) -> JobRow {
    let submission = &ended.submission;
    JobRow {
        id: submission.job,
        owner: submission.owner.clone(),
        name: submission.spec.name.as_ref().map(|name| name.as_str().to_owned()),
        request: submission.request,
        submitted: submission.at,
        ended: ended.ended,
        state: ended.counts.state(),
        body: wire::record::encode_job(ended),
    }
}
