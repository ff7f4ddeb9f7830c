//! A job that has not ended: which of its tasks wait, which are at workers, how the others ended.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::id::{AttemptNumber, Fence, Incarnation, TaskId, WorkerId};
use crate::core::limits;
use crate::core::outcome::{Cancel, Outcome};
use crate::core::range::RangeSet;
use crate::core::record::{ActiveState, JobEnded, JobState, Spent, Submission};
use crate::core::scheduler::ClassKey;
use crate::core::time::{Timestamp, WallTime};
use crate::core::view::{Counts, TaskState};

use super::batch::{Interest, WatcherId};

/// A live job. Its tasks are either waiting, active, or over; those that are over are only counted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// As it was accepted.
    pub submission: Submission,
    /// What it asks for.
    pub(super) class: ClassKey,
    pub(super) waiting: RangeSet,
    pub(super) active: BTreeMap<u32, Active>,
    /// Waiting tasks that had attempts.
    pub(super) tried: BTreeMap<u32, Tried>,
    pub(super) over: Counts,
    pub(super) failed: RangeSet,
    pub(super) started: Option<WallTime>,
    /// How long its tasks take, the last ones above all; not remembered.
    pub(super) pace: Option<Duration>,
    pub(super) watchers: BTreeMap<WatcherId, Interest>,
}

/// Attempts of a task that waits again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried {
    /// Highest number given.
    pub(super) last: AttemptNumber,
    /// What they used up.
    pub(super) spent: Spent,
}

/// A task at a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) attempt: AttemptNumber,
    /// What was used up before it.
    pub(super) spent: Spent,
    pub(super) worker: WorkerId,
    pub(super) incarnation: Incarnation,
    pub(super) at: WallTime,
    pub(super) cancel: Option<Cancel>,
    pub(super) phase: Phase,
    /// When it was given out, or asked back.
    pub(super) given: Timestamp,
    /// Its worker is silent since then, or was booted or removed.
    pub(super) unknown_since: Option<Timestamp>,
    /// How long it had been unknown when the pool was started last, and still was.
    pub(super) unknown: Duration,
    /// Set once another boot of its worker, or a person, has shown that it can only lapse.
    pub(super) doomed: Option<Timestamp>,
}

/// What a worker has told of a task that was given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing.
    Sent,
    /// That it is there.
    Arrived,
    /// That bash was started.
    Running,
}

impl Job {
    pub(super) fn new(submission: Submission) -> Self {
        let spec = &submission.spec;
        let class = ClassKey {
            priority: Reverse(spec.priority),
            owner: submission.owner.clone(),
            constraint: spec.constraint.clone(),
        };
        let waiting =
            spec.array.as_ref().map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()));
        Self {
            submission,
            class,
            waiting,
            active: BTreeMap::new(),
            tried: BTreeMap::new(),
            over: Counts::default(),
            failed: RangeSet::default(),
            started: None,
            pace: None,
            watchers: BTreeMap::new(),
        }
    }

    /// Whether no task of it is left to run.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// Tasks that have not ended.
    pub fn live(&self) -> u64 {
        self.waiting.len() + self.active.len() as u64
    }

    /// Whether a task of it may be given out now.
    pub(super) fn may_start(&self) -> bool {
        let at_once = self.submission.spec.array.as_ref().and_then(|array| array.at_once);
        !self.waiting.is_empty()
            && at_once.is_none_or(|at_once| (self.active.len() as u64) < u64::from(at_once))
    }

    /// A task of it took so long.
    pub(super) fn learn_pace(&mut self, took: Duration) {
        self.pace = Some(self.pace.map_or(took, |pace| (pace * 3 + took) / 4));
    }

    /// How many of its tasks a slot does within `time`, as far as is known: none, if one takes longer.
    pub(super) fn rounds_ahead(&self, time: Duration) -> u32 {
        // Each that waits has its own copy of what it runs.
        let small = self.submission.spec.bytes() <= limits::PREFETCH_SPEC_BYTES_MAX;
        let Some(pace) = self.pace.filter(|_| small) else { return 0 };
        let rounds = time.as_micros() / pace.as_micros().max(1);
        u32::try_from(rounds).unwrap_or(u32::MAX).min(limits::PREFETCH_ROUNDS_MAX)
    }

    /// Names an attempt of it.
    pub(super) fn fence(&self, index: u32, attempt: AttemptNumber) -> Fence {
        Fence { nonce: self.submission.nonce, task: TaskId { job: self.submission.job, index }, attempt }
    }

    /// The number of a waiting task's next attempt.
    pub(super) fn next_attempt(&self, index: u32) -> AttemptNumber {
        let tried = self.tried.get(&index).copied().unwrap_or_default();
        AttemptNumber(tried.last.0 + 1)
    }

    /// Whether another attempt is allowed when this one is lost.
    pub(super) fn may_retry(&self, active: &Active) -> bool {
        active.cancel.is_none() && active.spent.attempts < self.submission.spec.retries
    }

    /// Whether an attempt of it runs under a lease.
    pub(super) fn is_leased(&self) -> bool {
        self.submission.spec.retries > 0
    }

    pub(super) fn count_over(&mut self, index: u32, outcome: &Outcome) {
        *self.over.of_mut(TaskState::of(outcome)) += 1;
        if !outcome.is_success() {
            self.failed.insert(index);
        }
    }

    /// Its tasks by state.
    pub fn counts(&self) -> Counts {
        let mut counts = self.over;
        *counts.of_mut(TaskState::Queued) = self.waiting.len();
        for active in self.active.values() {
            *counts.of_mut(active.state()) += 1;
        }
        counts
    }

    /// All of it that is remembered.
    pub(super) fn state(&self, now: Timestamp) -> JobState {
        JobState {
            submission: self.submission.clone(),
            waiting: self.waiting.ranges().collect(),
            active: self.active.iter().map(|(&index, active)| active.remembered(index, now)).collect(),
            tried: self.tried.iter().map(|(&index, tried)| (index, tried.last, tried.spent)).collect(),
            over: self.over,
            failed: self.failed.ranges().collect(),
            started: self.started,
        }
    }

    /// Takes over how long attempts were unknown, as a repetition of this job says it.
    pub(super) fn take_over_silence(&mut self, now: Timestamp, state: &JobState) {
        for said in &state.active {
            if let Some(active) = self.active.get_mut(&said.index)
                && active.unknown_for(now) != said.unknown
            {
                active.unknown = said.unknown;
            }
        }
    }

    /// A job as it was remembered.
    pub(super) fn restored(state: &JobState) -> Self {
        let mut job = Self::new(state.submission.clone());
        job.waiting = RangeSet::of(&state.waiting);
        job.active = state.active.iter().map(|active| (active.index, Active::restored(active))).collect();
        job.tried = state.tried.iter().map(|&(index, last, spent)| (index, Tried { last, spent })).collect();
        job.over = state.over;
        job.failed = RangeSet::of(&state.failed);
        job.started = state.started;
        job
    }

    /// What the history keeps of it.
    pub(super) fn ended(&self, at: WallTime) -> JobEnded {
        JobEnded {
            submission: self.submission.without_secrets(),
            counts: self.over,
            failed: self.failed.ranges().collect(),
            started: self.started,
            ended: at,
        }
    }
}

impl Active {
    pub(super) fn state(&self) -> TaskState {
        match (self.unknown_since, self.phase) {
            (Some(_), _) => TaskState::Unknown,
            (None, Phase::Sent | Phase::Arrived) => TaskState::Starting,
            (None, Phase::Running) => TaskState::Running,
        }
    }

    /// It is heard of: what lives is not counted down any longer, and the next silence begins from nothing. Returns
    /// whether it was unknown.
    pub(super) fn heard_of(&mut self) -> bool {
        self.unknown = Duration::ZERO;
        self.unknown_since.take().is_some()
    }

    /// How long it has been unknown, through however many lives of the pool.
    pub(super) fn unknown_for(&self, now: Timestamp) -> Duration {
        self.unknown + self.unknown_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    fn remembered(&self, index: u32, now: Timestamp) -> ActiveState {
        ActiveState {
            index,
            attempt: self.attempt,
            spent: self.spent,
            worker: self.worker,
            incarnation: self.incarnation,
            at: self.at,
            cancel: self.cancel,
            unknown: self.unknown_for(now),
        }
    }

    fn restored(state: &ActiveState) -> Self {
        Self {
            attempt: state.attempt,
            spent: state.spent,
            worker: state.worker,
            incarnation: state.incarnation,
            at: state.at,
            cancel: state.cancel,
            phase: Phase::Sent,
            given: Timestamp::default(),
            unknown_since: None,
            unknown: state.unknown,
            doomed: None,
        }
    }
}
