//! What happened in a pool's life, as it shows to those outside of it, and the checks of the promises on that.
//!
//! A history is made by whoever watches: the simulation beside this, or a test with real processes, whose clients,
//! wrapped scripts and copy of the log tell the same things. So nothing here knows how anything was run. A check reads
//! events in the order in which they happened and says where a promise was broken.

mod acceptance;
mod cancels;
mod drains;
mod follows;
mod given;
mod leases;
mod losses;
mod outcomes;
mod output;
mod placements;
mod quarantine;
mod sightings;
mod silences;
mod starts;
mod tasks;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::id::{Fence, Incarnation, JobId, RequestId, TaskId, WorkerId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::outcome::Outcome;
use clusterctl::core::output::Chunk;
use clusterctl::core::range::RangeSet;
use clusterctl::core::record::Record;
use clusterctl::core::time::Timestamp;
use clusterctl::core::timing::Timing;
use clusterctl::core::view::{Counts, TaskEvent, TaskState};

/// Events with their times, on one clock that everybody shares, in order.
#[derive(Debug, Default)]
pub struct History {
    events: Vec<(Timestamp, Happened)>,
}

/// Somebody who asks one thing after the other, so that what it is shown later must not be older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Observer(pub u64);

/// What a script has written to stdout and to stderr.
pub type Written = [Vec<u8>; 2];

/// One event.
#[derive(Clone, Debug)]
pub enum Happened {
    /// The durations that all go by from the beginning. Without them nothing is judged by how long it took.
    GoesBy(Timing),
    /// A pool process begins to serve; what an earlier one showed was durable.
    PoolStarted,
    /// The workers that were connected, heard and not draining when the records that follow were decided. Only who can
    /// look into the pool can tell; without it the order of placements is not checked.
    Open(Vec<WorkerId>),
    /// A record became durable.
    Recorded(Record),
    /// Everything that was decided was durable, and the log told something else than the pool had.
    LogDiffers(String),
    /// A client sends a submit, for the first time or again.
    Submitting { owner: String, request: RequestId, spec: Arc<JobSpec> },
    /// A submit was acknowledged.
    Accepted { owner: String, request: RequestId, job: JobId },
    /// A cancel of these tasks was acknowledged.
    CancelAccepted { job: JobId, ranges: RangeSet },
    /// Somebody asked for a job that was acknowledged, and the pool did not know it.
    Unknown { job: JobId },
    /// Somebody was shown a task.
    TaskSeen { observer: Observer, sight: TaskSight },
    /// Somebody was shown how many tasks of a job are in which state.
    JobSeen { observer: Observer, job: JobId, counts: Counts },
    /// Somebody who follows a job was told something.
    Followed { observer: Observer, job: JobId, what: Follow },
    /// Somebody who follows a job was given output of a task.
    Given { observer: Observer, task: TaskId, attempt: u32, chunk: Chunk },
    /// The worker of this executor was told to take nothing new.
    Drains(Incarnation),
    /// The worker of this executor works, as far as it knows.
    Works(Incarnation),
    /// An executor asks to be registered, on a machine of this boot. Who tells this tells of executors' ends, too.
    Registers { executor: Incarnation, boot_id: String },
    /// An executor has ended, with all that it had.
    ExecutorGone(Incarnation),
    /// The pool has answered what an executor's agent sent at a time: by that its leases last so long from then on.
    Leased { executor: Incarnation, sent: Timestamp, lease: Duration },
    /// A byte of a worker that is registered reached the pool. Only who sees the links can tell.
    Heard(WorkerId),
    /// The pool took a worker for silent at that time; what it shows from here on was decided after that. Only who can
    /// look into the pool can tell.
    Silent { worker: WorkerId, at: Timestamp },
    /// A person asks to give these tasks up, if they are unknown.
    Abandoning { job: JobId, ranges: RangeSet },
    /// Bash began to run at a worker.
    Started(Fence),
    /// No process of an attempt is left; this is how it ended there, and what it wrote.
    Ended { fence: Fence, outcome: Outcome, written: Written },
    /// An attempt goes on at the end of the history, and has written this so far.
    StillRuns { fence: Fence, written: Written },
    /// What the pool has of an attempt's output, at the end of the history.
    Kept { fence: Fence, kept: Written },
}

/// A task as somebody was shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSight {
    pub task: TaskId,
    /// The newest attempt; 0 if it had none.
    pub attempt: u32,
    pub state: TaskState,
    /// If it has ended after an attempt.
    pub outcome: Option<Outcome>,
}

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Of all these tasks those are over, and those have this attempt; and whether output is given, too.
    Begins {
        all: RangeSet,
        over: RangeSet,
        active: Vec<(u32, u32)>,
        gives_output: bool,
    },
    /// Something else than an end.
    Task(TaskEvent),
    Ended {
        index: u32,
        attempt: u32,
        outcome: Outcome,
    },
    /// Tasks that waited were cancelled.
    Cancelled(Vec<(u32, u32)>),
    /// Nothing follows.
    Over(Counts),
}

/// A promise of the program, or a rule that it states of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What was acknowledged or shown is durable.
    P1,
    /// The same request is one job.
    P2,
    /// Without retries at most one start.
    P3,
    /// With retries no overlap, and no more attempts than allowed.
    P4,
    /// One outcome, and a true one.
    P5,
    /// What takes its workers down is quarantined, and nothing else.
    P6,
    /// Silence is noticed, and by itself ends nothing that may not be retried.
    P7,
    /// Output is exact.
    P9,
    /// A follower is told everything, in order.
    P10,
    /// What was cancelled does not start.
    P11,
    /// Nothing runs for longer than its lease.
    P13,
    /// A draining worker starts nothing new.
    P14,
    /// Slots, `at_once`, constraints, priority, fairness, age.
    Placement,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    pub promise: Promise,
    pub at: Timestamp,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} broken at {}: {}", self.promise, self.at, self.text)
    }
}

/// Reads a history and finds where its promises are broken.
trait Check {
    fn see(&mut self, event: &Happened, found: &mut Findings);

    /// The history is over.
    fn end(&mut self, _found: &mut Findings) {}
}

/// Where a check puts what it finds.
struct Findings {
    now: Timestamp,
    violations: Vec<Violation>,
}

impl Findings {
    fn broken(&mut self, promise: Promise, text: String) {
        self.violations.push(Violation { promise, at: self.now, text });
    }
}

impl History {
    /// Adds an event that happened now.
    pub fn add(&mut self, at: Timestamp, event: Happened) {
        self.events.push((at, event));
    }

    /// Tells this history from another.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        self.events.iter().for_each(|event| {
            hasher.update(format!("{event:?}").as_bytes());
        });
        *hasher.finalize().as_bytes()
    }

    /// The attempts that began to run.
    pub fn begun(&self) -> Vec<Fence> {
        let begun = |(_, event): &(Timestamp, Happened)| match event {
            Happened::Started(fence) => Some(*fence),
            _ => None,
        };
        self.events.iter().filter_map(begun).collect()
    }

    /// Output that came with the ends of attempts, and is kept with them.
    pub fn tails(&self) -> BTreeMap<Fence, Vec<Chunk>> {
        let tail = |(_, event): &(Timestamp, Happened)| match event {
            Happened::Recorded(Record::Ended(ended)) => Some((ended.end.fence, ended.end.tail.clone())),
            _ => None,
        };
        self.events.iter().filter_map(tail).collect()
    }

    /// Everything that breaks a promise, by the time at which it shows.
    pub fn violations(&self) -> Vec<Violation> {
        let mut checks: Vec<Box<dyn Check>> = vec![
            Box::<acceptance::Acceptance>::default(),
            Box::<sightings::Sightings>::default(),
            Box::<follows::Follows>::default(),
            Box::<given::Given>::default(),
            Box::<starts::Starts>::default(),
            Box::<outcomes::Outcomes>::default(),
            Box::<quarantine::Quarantine>::default(),
            Box::<losses::Losses>::default(),
            Box::<silences::Silences>::default(),
            Box::<leases::Leases>::default(),
            Box::<output::Outputs>::default(),
            Box::<cancels::Cancels>::default(),
            Box::<drains::Drains>::default(),
            Box::<placements::Placements>::default(),
        ];
        let mut found = Findings { now: Timestamp(0), violations: Vec::new() };
        for (at, event) in &self.events {
            found.now = *at;
            for check in &mut checks {
                check.see(event, &mut found);
            }
        }
        for check in &mut checks {
            check.end(&mut found);
        }
        found.violations.sort_by_key(|violation| violation.at);
        found.violations
    }
}
