//! The pool's state machine: what is queued, who is there, what goes where. Pure; `pool::driver` gives it time and
//! carries out what it decides.
//!
//! Four kinds of method: getters and views; commands, which answer at once (`submit`, `cancel`, `register`); `handle_*`,
//! told what happened; `poll_*`, read by the driver. Durable state changes in `apply` alone, which serves live use and
//! replay alike; commands only call `record`. What a turn decided leaves as one `Batch`, and its effects come out of
//! that only when the store has made its records durable.
//!
//! ```text
//!   a task:   waiting ──assign──> sent ──started──> running ──ended──> over
//!                ^                  └───silence───> unknown ──> (running, over)
//!                └──── put back: never started, or lost and --retries allows ────┘
//! ```
//!
//! It does not know how anything is encoded, stored, sent, or run.

mod access;
mod apply;
mod audit;
mod batch;
mod cancel;
mod check;
mod clients;
mod draining;
mod ephemeral;
mod job;
mod membership;
mod prefetch;
mod relog;
mod renewal;
mod submit;
mod timer;
mod view;
mod worker;

use std::collections::{BTreeMap, BTreeSet};

pub use self::access::{EnrolRefused, EnrolWish, Granted, Identity, NameChoice, TokenError};
pub use self::audit::Decision;
pub use self::batch::{Batch, Effect, JobEvent, Turn, WatcherId};
pub use self::cancel::{AbandonError, CancelError};
pub use self::clients::{ClientPage, UnknownClient};
pub use self::job::{Job, Phase};
pub use self::membership::{RegisterError, RemoveError};
pub use self::renewal::RenewalRefused;
pub use self::submit::{Submit, SubmitError};
pub use self::view::{JobPage, Load, WatchError, WatchStart, WorkerPage, info_of_ended_task};
pub use self::worker::{Hearing, Intake, Worker};

use super::id::{ConnectionId, Epoch, Fence, Fingerprint, JobId, RequestId, TokenId, WorkerId};
use super::limits;
use super::record::{ClientState, Counters, Record, TokenState};
use super::scheduler::{Offer, Scheduler};
use super::space::Space;
use super::time::{Now, Timestamp};
use super::timing::Timing;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Viewer {
    name: String,
    owner: String,
    source: String,
    sees: Sees,
}

/// Whose jobs somebody may know of, and decide about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sees {
    Own,
    All,
}

impl Viewer {
    /// A client by its key's name: sees and decides about the jobs of its owner.
    pub fn client(name: &str, owner: &str, source: &str) -> Self {
        Self { name: name.to_owned(), owner: owner.to_owned(), source: source.to_owned(), sees: Sees::Own }
    }

    /// The pool's own user, by the socket: sees and decides about all.
    pub fn admin(user: &str) -> Self {
        Self { name: user.to_owned(), owner: user.to_owned(), source: "socket".to_owned(), sees: Sees::All }
    }

    /// By which the pool knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose jobs it submits.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Where it is: an address, or `socket`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is the pool's own user.
    pub fn is_admin(&self) -> bool {
        self.sees == Sees::All
    }

    /// Whether it may know of a job.
    pub fn sees(&self, owner: &str) -> bool {
        self.is_admin() || self.owner == owner
    }
}

/// The machine and user that the pool itself runs as: a worker that shares both could read its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Of the machine's present boot.
    pub boot_id: String,
    /// Of the pool's process.
    pub uid: u32,
    /// The name of that user.
    pub owner: String,
}

/// What an owner has in the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct OwnerUse {
    /// Tasks at workers.
    active: u64,
    /// Tasks that have not ended.
    live: u64,
}

/// A submit that is remembered so that the same request again is the same job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    job: JobId,
    digest: [u8; 32],
}

/// The state of a pool.
#[derive(Debug)]
pub struct Pool {
    timing: Timing,
    host: Host,
    tasks_per_owner: u64,
    space: Space,
    counters: Counters,
    epoch: Epoch,
    jobs: BTreeMap<JobId, Job>,
    owners: BTreeMap<String, OwnerUse>,
    requests: BTreeMap<(String, RequestId), Request>,
    /// Requests of ended jobs, oldest first; bounded.
    requests_ended: std::collections::VecDeque<(String, RequestId)>,
    workers: BTreeMap<WorkerId, Worker>,
    worker_names: BTreeMap<String, WorkerId>,
    worker_keys: BTreeMap<Fingerprint, WorkerId>,
    connections: BTreeMap<ConnectionId, WorkerId>,
    clients: BTreeMap<Fingerprint, ClientState>,
    minute: audit::Minute,
    tokens: BTreeMap<TokenId, TokenState>,
    scheduler: Scheduler,
    timers: BTreeSet<(Timestamp, timer::Timer)>,
    watchers: BTreeMap<WatcherId, JobId>,
    last_watcher: WatcherId,
    relog: relog::Relog,
    turn: batch::Gathered,
}

impl Pool {
    /// A pool without any state; replay its records with `replay`, then call `start`.
    pub fn new(timing: Timing, host: Host) -> Self {
        Self {
            timing,
            host,
            tasks_per_owner: limits::QUEUE_TASKS_PER_OWNER_MAX,
            space: Space::Enough,
            counters: Counters::default(),
            epoch: Epoch::default(),
            jobs: BTreeMap::new(),
            owners: BTreeMap::new(),
            requests: BTreeMap::new(),
            requests_ended: std::collections::VecDeque::new(),
            workers: BTreeMap::new(),
            worker_names: BTreeMap::new(),
            worker_keys: BTreeMap::new(),
            connections: BTreeMap::new(),
            clients: BTreeMap::new(),
            minute: audit::Minute::default(),
            tokens: BTreeMap::new(),
            scheduler: Scheduler::default(),
            timers: BTreeSet::new(),
            watchers: BTreeMap::new(),
            last_watcher: WatcherId::default(),
            relog: relog::Relog::default(),
            turn: batch::Gathered::default(),
        }
    }

    /// An owner may have so many tasks that have not ended.
    #[must_use]
    pub fn with_tasks_per_owner(self, bound: u64) -> Self {
        Self { tasks_per_owner: bound, ..self }
    }

    /// Carries out a record of an earlier life, number `seq` of the log.
    pub fn replay(&mut self, now: Timestamp, seq: u64, record: &Record) {
        self.relog.expect_next(seq);
        self.apply(now, record);
        self.turn.over.clear();
    }

    /// Begins this life: everything that was at a worker may still be there, so every silence is counted from now. The
    /// life before may have ended on purpose, so every worker may count on the lease that is granted then.
    pub fn start(&mut self, now: Now, epoch: Epoch) {
        self.record(now, Record::PoolStarted(epoch));
        // From here on the log always tells the highest ids, also when what they were given to has left it.
        self.record(now, Record::Counters(self.counters));
        let at_workers: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| !worker.active.is_empty())
            .map(|worker| worker.state.id)
            .collect();
        let over = now.at + self.timing.over_after(self.timing.lease_at_shutdown);
        for id in at_workers {
            let worker = self.workers.get_mut(&id).expect("the worker was just found");
            worker.heard = Some(now.at);
            worker.grant(over);
            worker.hearing = Hearing::Heard;
            self.arm_silence(id, now.at);
        }
        let drained: Vec<WorkerId> = self
            .workers
            .values()
            .filter(|worker| worker.state.drain.is_some())
            .map(|worker| worker.state.id)
            .collect();
        drained.into_iter().for_each(|id| self.arm_eviction(now, id));
        let all: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in all {
            self.arm_recall(now, id);
            self.arm_forgetting(now.at, id);
        }
    }

    /// The durations that it goes by.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The machine and user that it runs as.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes a change: carries it out and puts it into this turn's batch.
    fn record(&mut self, now: Now, record: Record) {
        self.relog.at(self.turn.len());
        self.apply(now.at, &record);
        self.turn.push(record);
        self.notice_jobs_over();
    }

    /// The attempt that a fence names, if it is the one that counts.
    fn active(&self, fence: Fence) -> Option<&job::Active> {
        let job = self.jobs.get(&fence.task.job)?;
        let active = job.active.get(&fence.task.index)?;
        (job.submission.nonce == fence.nonce && active.attempt == fence.attempt).then_some(active)
    }

    fn active_mut(&mut self, fence: Fence) -> Option<&mut job::Active> {
        self.active(fence)?;
        self.jobs.get_mut(&fence.task.job)?.active.get_mut(&fence.task.index)
    }

    /// Tells the scheduler what a worker has to offer now.
    fn refresh_offer(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        self.scheduler.offer(
            id,
            worker.is_open().then(|| Offer {
                labels: worker.labels(),
                only_owner: worker.only_owner.clone(),
                slots: worker.slots(),
                used: worker.used(),
            }),
        );
    }

    /// Tells the scheduler whether a job has tasks that may be given out.
    fn refresh_waiting(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.may_start() {
            self.scheduler.add(&job.class, id, job.rounds_ahead(self.timing.prefetch));
        } else {
            self.scheduler.remove(&job.class, id);
        }
    }
}

#[cfg(test)]
mod tests;
