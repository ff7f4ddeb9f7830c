//! What a pool remembers.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{
    attempt_end, attempt_number, cancel, counts, facts, fence, fingerprint, incarnation, job_id, job_spec,
    labels, moment, ranges, role, some_moment, some_text, text, token_id, worker_id,
};
use crate::core::id::{Epoch, JobNonce, RequestId};
use crate::core::record::{
    ActiveState, Assignment, ClientState, Counters, Drain, JobEnded, JobState, PutBack, Record, Spent,
    Submission, TaskEnded, TokenState, Validity, WorkerState,
};

prop_compose! {
    fn submission()(
        (job, nonce, owner, request) in (job_id(), any::<u64>(), text(), any::<[u8; 16]>()),
        (spec, at) in (job_spec(), moment()),
    ) -> Submission {
        Submission { job, nonce: JobNonce(nonce), owner, request: RequestId(request), spec: Arc::new(spec), at }
    }
}

prop_compose! {
    fn assignment()(
        (job, worker, incarnation) in (job_id(), worker_id(), incarnation()),
        (tasks, at) in (vec((any::<u32>(), attempt_number()), 0..5), moment()),
    ) -> Assignment {
        Assignment { job, worker, incarnation, tasks, at }
    }
}

prop_compose! {
    pub(in crate::wire) fn task_ended()(
        (end, worker) in (attempt_end(), text()),
        (started, ended) in (moment(), moment()),
    ) -> TaskEnded {
        TaskEnded { end: Arc::new(end), worker, started, ended }
    }
}

fn spent() -> impl Strategy<Value = Spent> {
    (any::<u32>(), any::<u32>()).prop_map(|(attempts, workers)| Spent { attempts, workers })
}

prop_compose! {
    fn active()(
        (index, attempt, spent) in (any::<u32>(), attempt_number(), spent()),
        (worker, incarnation, at) in (worker_id(), incarnation(), moment()),
        (cancel, unknown_ms) in (option::of(cancel()), any::<u64>()),
    ) -> ActiveState {
        let unknown = Duration::from_millis(unknown_ms);
        ActiveState { index, attempt, spent, worker, incarnation, at, cancel, unknown }
    }
}

prop_compose! {
    fn job_state()(
        (submission, waiting, failed) in (submission(), ranges(), ranges()),
        (active, tried) in (vec(active(), 0..4), vec((any::<u32>(), attempt_number(), spent()), 0..4)),
        (over, started) in (counts(), option::of(some_moment())),
    ) -> JobState {
        JobState { submission, waiting, active, tried, over, failed, started }
    }
}

fn validity() -> impl Strategy<Value = Validity> {
    select(vec![Validity::Standing, Validity::Revoked])
}

fn drain() -> impl Strategy<Value = Drain> {
    option::of(1..u64::MAX / 2).prop_map(|ms| Drain { deadline: ms.map(Duration::from_millis) })
}

prop_compose! {
    fn worker_state()(
        (id, name, key, bound) in (worker_id(), text(), option::of(fingerprint()), labels()),
        (joined, validity, facts) in (moment(), validity(), option::of(facts())),
        drain in option::of(drain()),
    ) -> WorkerState {
        WorkerState { id, name, key, bound, joined, validity, facts, drain }
    }
}

prop_compose! {
    fn client_state()(
        (key, name, owner) in (fingerprint(), text(), text()),
        (joined, validity) in (moment(), validity()),
    ) -> ClientState {
        ClientState { key, name, owner, joined, validity }
    }
}

prop_compose! {
    fn token_state()(
        (id, role, secret_hash) in (token_id(), role(), any::<[u8; 32]>()),
        (name, owner, labels) in (option::of(some_text()), option::of(some_text()), labels()),
        (uses_left, expires, validity) in (option::of(any::<u32>()), moment(), validity()),
        admitted in vec(fingerprint(), 0..4),
    ) -> TokenState {
        TokenState { id, role, secret_hash, name, owner, labels, uses_left, expires, validity, admitted }
    }
}

prop_compose! {
    pub(in crate::wire) fn job_ended()(
        (submission, counts, failed) in (submission(), counts(), ranges()),
        (started, ended) in (option::of(some_moment()), moment()),
    ) -> JobEnded {
        JobEnded { submission, counts, failed, started, ended }
    }
}

pub(in crate::wire) fn record() -> impl Strategy<Value = Record> {
    let counters =
        (job_id(), worker_id(), token_id()).prop_map(|(job, worker, token)| Counters { job, worker, token });
    let put_back = prop_oneof![
        text().prop_map(PutBack::Retry),
        text().prop_map(PutBack::WorkerLost),
        Just(PutBack::NeverStarted),
    ];
    prop_oneof![
        any::<u64>().prop_map(|epoch| Record::PoolStarted(Epoch(epoch))),
        counters.prop_map(Record::Counters),
        submission().prop_map(Record::Submitted),
        assignment().prop_map(Record::Assigned),
        task_ended().prop_map(Record::Ended),
        (fence(), put_back).prop_map(|(fence, reason)| Record::PutBack { fence, reason }),
        (job_id(), ranges(), cancel(), moment()).prop_map(|(job, ranges, how, at)| Record::CancelWanted {
            job,
            ranges,
            how,
            at
        }),
        job_state().prop_map(|state| Record::Job(Box::new(state))),
        worker_state().prop_map(Record::Worker),
        client_state().prop_map(Record::Client),
        (fingerprint(), client_state()).prop_map(|(before, client)| Record::ClientRenewed { before, client }),
        token_state().prop_map(Record::Token),
        token_id().prop_map(Record::TokenForgotten),
        worker_id().prop_map(Record::WorkerForgotten),
    ]
}
