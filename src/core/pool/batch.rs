//! What a turn decided: records to be made durable, and effects that may be carried out only then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::id::{ConnectionId, Fence, Fingerprint, JobId, SecretsId};
use crate::core::job::JobSpec;
use crate::core::outcome::Cancel;
use crate::core::record::{Assignment, HistoryItem, JobEnded, Record, Submission, TaskEnded};
use crate::core::view::{JobInfo, TaskEvent};

use super::access::Identity;

/// Somebody who is told what happens to a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// How much a watcher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Everything,
    /// Only that nothing follows.
    End,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// Something happened to a task that has not ended.
    Task(TaskEvent),
    /// A task ended.
    Ended(TaskEnded),
    /// Tasks that waited were cancelled.
    Cancelled(Vec<(u32, u32)>, Cancel),
    /// The last task ended: nothing follows.
    Over(Box<JobInfo>),
}

/// A thing to do, once the turn is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give attempts of one job to a worker.
    Start {
        /// The worker's registration.
        connection: ConnectionId,
        /// What is run.
        spec: Arc<JobSpec>,
        /// The key of the secrets in it, if there are any.
        secrets: Option<SecretsId>,
        /// Whose it is.
        job: JobId,
        /// The attempts.
        fences: Vec<Fence>,
        /// How long each may run without a heartbeat answered.
        lease: Option<Duration>,
    },
    /// End attempts at a worker.
    Cancel {
        /// The worker's registration.
        connection: ConnectionId,
        /// The attempts, each with the way to end it.
        attempts: Vec<(Fence, Cancel)>,
    },
    /// Ask a worker for attempts back that it has not started.
    TakeBack {
        /// The worker's registration.
        connection: ConnectionId,
        /// The attempts.
        attempts: Vec<Fence>,
    },
    /// Tell a watcher.
    Notify {
        /// Whom.
        watcher: WatcherId,
        /// Which job.
        job: JobId,
        /// What.
        event: JobEvent,
    },
    /// Cut a connection: it was replaced, or its holder is no longer let in.
    Cut(ConnectionId),
    /// Tell a worker that it was removed, and end its connection then.
    Dismiss(ConnectionId),
    /// Let a key in from now on, as this.
    Admit(Fingerprint, Identity),
    /// Let a key in no longer.
    Expel(Fingerprint),
    /// Let a key in from now on as what another was, which is let in no longer.
    Renew {
        /// The old key, whose connections are cut.
        before: Fingerprint,
        /// The new one.
        after: Fingerprint,
        /// What it stands for.
        identity: Identity,
    },
    /// Let nobody open these secrets any longer.
    EraseSecrets(SecretsId),
}

/// The records and history of a turn, with the effects that wait for them. Only the store's commit opens it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    turn: Turn,
    effects: Vec<Effect>,
}

/// What a store makes durable of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Number of the first record in the log.
    pub first_seq: u64,
    /// The records, in order.
    pub records: Vec<Record>,
    /// Entries before this number are not needed any longer.
    pub keep_from: u64,
    /// What goes into the history beside the log.
    pub history: Vec<HistoryItem>,
}

impl Batch {
    /// Opens the batch. Only `store::commit` calls this, after it has made the turn durable.
    pub fn into_effects(self) -> Vec<Effect> {
        self.effects
    }

    /// What has to be durable first.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Whether nothing was decided.
    pub fn is_empty(&self) -> bool {
        self.turn.records.is_empty() && self.turn.history.is_empty() && self.effects.is_empty()
    }
}

/// What the present turn has decided so far.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    records: Vec<Record>,
    history: Vec<HistoryItem>,
    effects: Vec<Effect>,
    /// About how much there is to commit, in bytes.
    bytes: usize,
    /// Starts, joined by connection and job.
    starts: BTreeMap<(ConnectionId, JobId), Start>,
    /// Jobs whose last task ended in the record that was just carried out.
    pub(super) over: Vec<(super::job::Job, JobEnded)>,
}

#[derive(Debug)]
struct Start {
    spec: Arc<JobSpec>,
    secrets: Option<SecretsId>,
    fences: Vec<Fence>,
    lease: Option<Duration>,
}

impl Gathered {
    /// Adds a record; neighbouring assignments of the same job to the same worker become one.
    pub(super) fn push(&mut self, record: Record) {
        self.bytes += record.weight();
        if let (Some(Record::Assigned(last)), Record::Assigned(new)) = (self.records.last_mut(), &record)
            && same_place(last, new)
        {
            last.tasks.extend(&new.tasks);
            return;
        }
        self.records.push(record);
    }

    pub(super) fn act(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn remember(&mut self, item: HistoryItem) {
        self.bytes += item.weight();
        self.history.push(item);
    }

    pub(super) fn start(
        &mut self,
        connection: ConnectionId,
        submission: &Submission,
        fence: Fence,
        lease: Option<Duration>,
    ) {
        let start = self.starts.entry((connection, fence.task.job)).or_insert_with(|| Start {
            spec: Arc::clone(&submission.spec),
            secrets: submission.secrets(),
            fences: Vec::new(),
            lease,
        });
        start.fences.push(fence);
    }

    /// Records so far.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// About how much there is to commit, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ends the turn.
    pub(super) fn take(&mut self, first_seq: u64, keep_from: u64) -> Batch {
        let mut effects = std::mem::take(&mut self.effects);
        for ((connection, job), start) in std::mem::take(&mut self.starts) {
            let Start { spec, secrets, fences, lease } = start;
            effects.push(Effect::Start { connection, spec, secrets, job, fences, lease });
        }
        // What is wanted of an attempt that starts in the same turn must come after its start.
        effects.sort_by_key(|effect| matches!(effect, Effect::Cancel { .. } | Effect::TakeBack { .. }));
        let records = std::mem::take(&mut self.records);
        let history = std::mem::take(&mut self.history);
        self.bytes = 0;
        Batch { turn: Turn { first_seq, records, keep_from, history }, effects }
    }
}

fn same_place(a: &Assignment, b: &Assignment) -> bool {
    (a.job, a.worker, a.incarnation, a.at) == (b.job, b.worker, b.incarnation, b.at)
}
