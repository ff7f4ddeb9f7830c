//! A history for each promise that breaks that promise and no other, as short as can be: a check that cannot fail is
//! noticed here.

use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::attempt::AttemptEnd;
use clusterctl::core::id::{AttemptNumber, Fence, Incarnation, JobId, JobNonce, RequestId, TaskId, WorkerId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::label::Labels;
use clusterctl::core::membership::{Facts, SubmitterTrust, Tenure};
use clusterctl::core::outcome::{Outcome, Usage};
use clusterctl::core::output::{Chunk, OutputTotals, Stream};
use clusterctl::core::range::RangeSet;
use clusterctl::core::record::{Assignment, PutBack, Record, Submission, TaskEnded, Validity, WorkerState};
use clusterctl::core::time::{Timestamp, WallTime};
use clusterctl::core::timing::Timing;
use clusterctl::core::view::Counts;

use super::{Follow, Happened, History, Observer, Promise};

const JOB: JobId = JobId(1);
const TASK: TaskId = TaskId { job: JOB, index: 0 };
const WORKER: WorkerId = WorkerId(1);
const EXECUTOR: Incarnation = Incarnation(7);

/// One job of one task that may be retried so often, one worker of one slot, and then one event each second.
fn after(retries: u32, then: Vec<Happened>) -> History {
    let mut events = vec![
        Happened::GoesBy(Timing::default()),
        Happened::PoolStarted,
        Happened::Registers { executor: EXECUTOR, boot_id: "b".to_owned() },
        Happened::Leased { executor: EXECUTOR, sent: at(3), lease: Duration::from_secs(60) },
        Happened::Recorded(Record::Worker(worker())),
        submitted(JOB, retries),
    ];
    events.extend(then);
    let mut history = History::default();
    for (second, event) in events.into_iter().enumerate() {
        history.add(at(second as u64), event);
    }
    history
}

fn at(second: u64) -> Timestamp {
    Timestamp(second * 1_000_000_000)
}

/// The promises that a history breaks.
fn broken(history: &History) -> Vec<Promise> {
    let mut broken: Vec<Promise> = history.violations().iter().map(|violation| violation.promise).collect();
    broken.dedup();
    broken
}

fn worker() -> WorkerState {
    let facts = Facts {
        boot_id: "b".to_owned(),
        incarnation: EXECUTOR,
        dial: 1,
        slots: 1,
        labels: Labels::new(),
        memory_bytes: 1,
        uid: 1,
        trust: SubmitterTrust::Everybody,
        user: "u".to_owned(),
        pid: 1,
        tenure: Tenure::Lasting,
    };
    WorkerState {
        id: WORKER,
        name: "w1".to_owned(),
        key: None,
        bound: Labels::new(),
        joined: WallTime(0),
        validity: Validity::Standing,
        facts: Some(facts),
        drain: None,
    }
}

fn submitted(job: JobId, retries: u32) -> Happened {
    let spec = Arc::new(JobSpec { retries, ..JobSpec::new("true") });
    let (nonce, owner) = (JobNonce(job.0), "ann".to_owned());
    let submission = Submission { job, nonce, owner, request: RequestId::default(), spec, at: WallTime(0) };
    Happened::Recorded(Record::Submitted(submission))
}

fn fence(attempt: u32) -> Fence {
    Fence { nonce: JobNonce(1), task: TASK, attempt: AttemptNumber(attempt) }
}

fn assigned(index: u32, attempt: u32) -> Happened {
    let tasks = vec![(index, AttemptNumber(attempt))];
    let to = Assignment { job: JOB, worker: WORKER, incarnation: EXECUTOR, tasks, at: WallTime(0) };
    Happened::Recorded(Record::Assigned(to))
}

fn put_back(attempt: u32, reason: PutBack) -> Happened {
    Happened::Recorded(Record::PutBack { fence: fence(attempt), reason })
}

fn ended(attempt: u32, outcome: Outcome) -> Happened {
    let (totals, tail) = (OutputTotals::default(), Vec::new());
    let end = AttemptEnd { fence: fence(attempt), outcome, usage: Usage::default(), totals, tail };
    let (started, ended) = (WallTime(0), WallTime(0));
    Happened::Recorded(Record::Ended(TaskEnded {
        end: Arc::new(end),
        worker: "w1".to_owned(),
        started,
        ended,
    }))
}

fn ended_there(attempt: u32, outcome: Outcome) -> Happened {
    Happened::Ended { fence: fence(attempt), outcome, written: Default::default() }
}

/// A follower is given some of stdout.
fn given(offset: u64, bytes: &[u8]) -> Happened {
    let chunk = Chunk { position: offset, stream: Stream::Stdout, offset, bytes: bytes.to_vec() };
    Happened::Given { observer: Observer(1), task: TASK, attempt: 1, chunk }
}

/// An attempt still runs, and has written this to stdout.
fn written(bytes: &[u8]) -> Happened {
    Happened::StillRuns { fence: fence(1), written: [bytes.to_vec(), Vec::new()] }
}

fn lost(attempt: u32) -> [Happened; 2] {
    let reason = "worker w1 went silent and did not come back".to_owned();
    [assigned(0, attempt), put_back(attempt, PutBack::WorkerLost(reason))]
}

/// So many seconds in which nothing happens to the job.
fn pause(seconds: usize) -> impl Iterator<Item = Happened> {
    std::iter::repeat_n(Happened::Works(EXECUTOR), seconds)
}

/// For each promise a history that breaks it.
fn breaches() -> Vec<(Promise, History)> {
    let (observer, request) = (Observer(1), RequestId::default());
    let silence = Outcome::Lost("worker w1 went silent and did not come back".to_owned());
    let over = Happened::Followed { observer, job: JOB, what: Follow::Over(Counts::default()) };
    let accepted = Happened::Accepted { owner: "bob".to_owned(), request, job: JOB };
    let retried = put_back(1, PutBack::Retry("its keeper was killed".to_owned()));
    let started = |attempt| Happened::Started(fence(attempt));
    let (all, over_before, active) = (RangeSet::of(&[(0, 0)]), RangeSet::default(), vec![]);
    let begins = Follow::Begins { all, over: over_before, active, gives_output: true };
    let begins = Happened::Followed { observer, job: JOB, what: begins };
    let cancelled = Happened::CancelAccepted { job: JOB, ranges: RangeSet::of(&[(0, 0)]) };
    let kept = Happened::Kept { fence: fence(1), kept: [b"x".to_vec(), Vec::new()] };
    let end_told = Follow::Ended { index: 0, attempt: 1, outcome: Outcome::Exited(0) };
    let told = Happened::Followed { observer, job: JOB, what: end_told };
    let long = [assigned(0, 1), started(1)].into_iter().chain(pause(70));
    let long = long.chain([ended_there(1, Outcome::Exited(0))]).collect();
    let thrice = [lost(1), lost(2), lost(3)].into_iter().flatten().collect();
    vec![
        (Promise::P1, after(0, vec![accepted])),
        (Promise::P2, after(0, vec![submitted(JobId(2), 0)])),
        (Promise::P3, after(0, vec![assigned(0, 1), started(1), started(1)])),
        (Promise::P4, after(1, vec![assigned(0, 1), started(1), retried, assigned(0, 2), started(2)])),
        (Promise::P5, after(0, vec![assigned(0, 1), started(1), ended(1, Outcome::Exited(1))])),
        (Promise::P6, after(5, vec![assigned(0, 1), ended(1, Outcome::Quarantined)])),
        (Promise::P6, after(5, thrice)),
        (Promise::P7, after(0, vec![assigned(0, 1), started(1), ended(1, silence)])),
        (Promise::P9, after(0, vec![assigned(0, 1), started(1), kept])),
        (Promise::P9, after(0, vec![given(0, b"ab"), written(b"a")])),
        (Promise::P9, after(0, vec![begins.clone(), given(0, b"a"), written(b"ab"), told])),
        (Promise::P10, after(0, vec![begins, over])),
        (Promise::P10, after(0, vec![given(0, b"a"), given(0, b"a"), written(b"aa")])),
        (Promise::P11, after(0, vec![cancelled, assigned(0, 1)])),
        (Promise::P13, after(1, long)),
        (Promise::P14, after(0, vec![Happened::Drains(EXECUTOR), assigned(0, 1), started(1)])),
        (Promise::Placement, after(0, vec![assigned(1, 1)])),
    ]
}

#[test]
fn a_history_that_breaks_a_promise_is_found_to_break_that_and_no_other() {
    for (promise, history) in breaches() {
        assert_eq!(broken(&history), [promise], "{:?}", history.violations());
    }
}

#[test]
fn a_history_that_keeps_what_was_promised_is_found_to_do_so() {
    let third = ended(3, Outcome::Quarantined);
    let losses = [lost(1), lost(2)].into_iter().flatten().chain([assigned(0, 3), third]);
    let own = vec![
        assigned(0, 1),
        Happened::Started(fence(1)),
        ended_there(1, Outcome::Exited(1)),
        ended(1, Outcome::Exited(1)),
    ];

    assert_eq!(broken(&after(5, losses.collect())), []);
    assert_eq!(broken(&after(0, own)), []);
}

/// A worker that is not heard from the moment at which it was given an attempt, for so many seconds until that is lost.
fn silent_for(seconds: usize) -> History {
    let silence = Outcome::Lost("worker w1 went silent and did not come back".to_owned());
    let given = [Happened::Heard(WORKER), assigned(0, 1), Happened::Started(fence(1))];
    after(0, given.into_iter().chain(pause(seconds)).chain([ended(1, silence)]).collect())
}

#[test]
fn silence_ends_what_may_not_be_retried_after_a_day_and_not_before() {
    let day = 24 * 3600;

    assert_eq!(broken(&silent_for(day - 60)), [Promise::P7]);
    assert_eq!(broken(&silent_for(day)), []);
}
