//! Random core values for tests, one strategy a noun, composed; within the bounds of `core::limits`.
//!
//! Each value is one that a message carries whole: durations are whole milliseconds (or microseconds, where the schema
//! says so) and not zero where zero stands for none, and what may be absent is never the value that stands for absence.
//! What a message carries only in part is the business of the tests beside its `write`.

mod record;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub(super) use self::record::{job_ended, record, task_ended};
pub(super) use self::worker::{
    cancels, carried, facts, from_executor, registered, reports, starts, to_executor, worker_info,
};
use super::hello::{Hello, Welcome};
use crate::core::access::{Role, TokenInfo, TokenState, TokenWish};
use crate::core::attempt::AttemptEnd;
use crate::core::audit::{AuditEntry, AuditKind};
use crate::core::id::{
    AttemptNumber, Fence, Fingerprint, Incarnation, JobId, JobNonce, Name, TaskId, TokenId, WorkerId,
};
use crate::core::job::{Array, JobSpec, Variable};
use crate::core::label::{Constraint, Labels};
use crate::core::limits;
use crate::core::outcome::{Cancel, Outcome, Usage};
use crate::core::output::{Chunk, OutputTotals, Stream};
use crate::core::refusal::Refusal;
use crate::core::space::Space;
use crate::core::succession::Succession;
use crate::core::time::WallTime;
use crate::core::view::{
    ClientInfo, Counts, JobFilter, JobInfo, PoolStatus, TaskEnd, TaskEvent, TaskEventKind, TaskInfo,
    TaskState, TermCount, Why,
};

/// A text that may be empty.
fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

/// A text that stands for something.
fn some_text() -> impl Strategy<Value = String> {
    "\\PC{1,12}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

/// What bash can take: anything but NUL.
fn word() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=u8::MAX, 0..40)
}

fn milliseconds() -> impl Strategy<Value = Duration> {
    (1..=u64::MAX).prop_map(Duration::from_millis)
}

fn microseconds() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_micros)
}

fn moment() -> impl Strategy<Value = WallTime> {
    any::<i64>().prop_map(WallTime)
}

fn some_moment() -> impl Strategy<Value = WallTime> {
    moment().prop_filter("0 stands for none", |at| at.0 != 0)
}

fn fingerprint() -> impl Strategy<Value = Fingerprint> {
    any::<[u8; 32]>().prop_map(Fingerprint)
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9_-][a-z0-9._-]{0,63}".prop_map(|text| Name::parse(&text).expect("it is made as a name is"))
}

fn job_id() -> impl Strategy<Value = JobId> {
    any::<u64>().prop_map(JobId)
}

fn worker_id() -> impl Strategy<Value = WorkerId> {
    any::<u64>().prop_map(WorkerId)
}

fn token_id() -> impl Strategy<Value = TokenId> {
    any::<u64>().prop_map(TokenId)
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u64>().prop_map(Incarnation)
}

fn attempt_number() -> impl Strategy<Value = AttemptNumber> {
    any::<u32>().prop_map(AttemptNumber)
}

pub(super) fn task_id() -> impl Strategy<Value = TaskId> {
    (job_id(), any::<u32>()).prop_map(|(job, index)| TaskId { job, index })
}

pub(super) fn fence() -> impl Strategy<Value = Fence> {
    (any::<u64>(), task_id(), attempt_number()).prop_map(|(nonce, task, attempt)| Fence {
        nonce: JobNonce(nonce),
        task,
        attempt,
    })
}

pub(super) fn fences() -> impl Strategy<Value = Vec<Fence>> {
    vec(fence(), 0..5)
}

pub(super) fn ranges() -> impl Strategy<Value = Vec<(u32, u32)>> {
    vec(any::<(u32, u32)>(), 0..6)
}

pub(super) fn labels() -> impl Strategy<Value = Labels> {
    btree_map("[A-Za-z0-9._/-]{1,64}", "\\PC{0,60}", 0..5)
}

/// Made of text, since a constraint is what its text says.
fn constraint() -> impl Strategy<Value = Constraint> {
    let leaf = prop_oneof![
        "[a-z/._-]{1,8}",
        "[a-z]{1,4} ?(=|!=) ?[a-z0-9]{1,6}",
        "[a-z]{1,4}=\"[a-z ü=&|()]{0,8}\""
    ];
    let term = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|term| format!("!({term})")),
            vec(inner.clone(), 1..4).prop_map(|terms| format!("({})", terms.join("&&"))),
            vec(inner, 1..4).prop_map(|terms| format!("({})", terms.join(" || "))),
        ]
    });
    prop_oneof![Just(String::new()), term.boxed()]
        .prop_map(|text| Constraint::parse(&text).expect("it is made as a constraint is"))
}

/// Disjoint ranges: every two of a sorted even number of indices.
fn array() -> impl Strategy<Value = Array> {
    let ends = btree_set(any::<u32>(), 2..12).prop_map(|ends: BTreeSet<u32>| {
        let ends: Vec<u32> = ends.into_iter().collect();
        ends.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()
    });
    (ends, option::of(1..=u32::MAX))
        .prop_map(|(ranges, at_once)| Array::new(ranges, at_once).expect("they are disjoint"))
}

fn variable() -> impl Strategy<Value = Variable> {
    let letter = prop_oneof![1..b'=', b'>'..=u8::MAX];
    (vec(letter, 1..12), word())
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    word().prop_map(|mut script| {
        script.push(b':');
        script
    })
}

fn directory() -> impl Strategy<Value = Vec<u8>> {
    word().prop_map(|below| [b"/", &below[..]].concat())
}

prop_compose! {
    pub(super) fn job_spec()(
        (script, args, cwd) in (script(), vec(word(), 0..4), option::of(directory())),
        (env, secrets) in (vec(variable(), 0..4), vec(variable(), 0..3)),
        (name, constraint, array) in (option::of(name()), constraint(), option::of(array())),
        (timeout, lost_after) in (option::of(milliseconds()), option::of(milliseconds())),
        (retries, priority) in (0..=limits::RETRIES_MAX, -100..=100_i8),
    ) -> JobSpec {
        JobSpec { script, args, name, constraint, env, secrets, cwd, timeout, retries, priority, lost_after, array }
    }
}

pub(super) fn cancel() -> impl Strategy<Value = Cancel> {
    select(vec![Cancel::Interrupt, Cancel::Terminate, Cancel::Kill])
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<u8>().prop_map(Outcome::Exited),
        any::<u8>().prop_map(Outcome::Signaled),
        Just(Outcome::TimedOut),
        cancel().prop_map(Outcome::Cancelled),
        text().prop_map(Outcome::Lost),
        text().prop_map(Outcome::SpawnFailed),
        Just(Outcome::Quarantined),
    ]
}

prop_compose! {
    pub(super) fn usage()(
        (run, cpu_user, cpu_system) in (microseconds(), microseconds(), microseconds()),
        peak_memory_bytes in any::<u64>(),
    ) -> Usage {
        Usage { run, cpu_user, cpu_system, peak_memory_bytes }
    }
}

fn stream() -> impl Strategy<Value = Stream> {
    select(vec![Stream::Stdout, Stream::Stderr])
}

prop_compose! {
    pub(super) fn chunk()(
        (offset, of_the_other) in (0..=u64::MAX / 4, 0..=u64::MAX / 4),
        (stream, bytes) in (stream(), vec(any::<u8>(), 1..200)),
    ) -> Chunk {
        Chunk { position: offset + of_the_other, stream, offset, bytes }
    }
}

pub(super) fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
    vec(chunk(), 0..4)
}

pub(super) fn parts() -> impl Strategy<Value = Vec<(Fence, Vec<Chunk>)>> {
    vec((fence(), chunks()), 0..4)
}

prop_compose! {
    pub(super) fn totals()(
        (stdout_bytes, stderr_bytes) in (0..=u64::MAX / 2, 0..=u64::MAX / 2),
        (stdout_hash, stderr_hash) in any::<([u8; 32], [u8; 32])>(),
        dropped_bytes in any::<u64>(),
    ) -> OutputTotals {
        OutputTotals { stdout_bytes, stderr_bytes, stdout_hash, stderr_hash, dropped_bytes }
    }
}

prop_compose! {
    pub(super) fn attempt_end()(
        (fence, outcome) in (fence(), outcome()),
        (usage, totals, tail) in (usage(), totals(), chunks()),
    ) -> AttemptEnd {
        AttemptEnd { fence, outcome, usage, totals, tail }
    }
}

fn state() -> impl Strategy<Value = TaskState> {
    select(TaskState::ALL.to_vec())
}

prop_compose! {
    pub(super) fn task_end()((outcome, usage, totals) in (outcome(), usage(), totals())) -> TaskEnd {
        TaskEnd { outcome, usage, totals }
    }
}

prop_compose! {
    pub(super) fn task_info()(
        (index, state, attempt) in (any::<u32>(), state(), any::<u32>()),
        (worker, cancelling) in (option::of(some_text()), any::<bool>()),
        (started, ended, end) in (option::of(some_moment()), option::of(some_moment()), option::of(task_end())),
    ) -> TaskInfo {
        TaskInfo { index, state, attempt, worker, started, ended, end, cancelling }
    }
}

pub(super) fn counts() -> impl Strategy<Value = Counts> {
    any::<[u64; 8]>().prop_map(Counts)
}

pub(super) fn task_event() -> impl Strategy<Value = TaskEvent> {
    let kind = prop_oneof![
        Just(TaskEventKind::Queued),
        Just(TaskEventKind::Started),
        option::of(milliseconds()).prop_map(TaskEventKind::Unknown),
        Just(TaskEventKind::Returned),
        text().prop_map(TaskEventKind::AttemptLost),
        cancel().prop_map(TaskEventKind::Cancelling),
        task_end().prop_map(TaskEventKind::Ended),
    ];
    (any::<u32>(), any::<u32>(), option::of(some_text()), kind)
        .prop_map(|(task, attempt, worker, kind)| TaskEvent { task, attempt, worker, kind })
}

prop_compose! {
    /// What a list shows of a spec.
    fn listed_spec()(
        script in vec(any::<u8>(), 0..=256),
        (name, constraint, array) in (option::of(name()), constraint(), option::of(array())),
        (retries, priority) in any::<(u32, i8)>(),
    ) -> JobSpec {
        let array = array.map(|mut array| {
            array.at_once = None;
            array
        });
        JobSpec { name, constraint, array, retries, priority, ..JobSpec::new(script) }
    }
}

prop_compose! {
    pub(super) fn job_info()(
        (id, owner, spec) in (job_id(), text(), listed_spec()),
        (submitted, started, ended) in (moment(), option::of(some_moment()), option::of(some_moment())),
        queued in option::of((1..=u64::MAX).prop_map(Duration::from_micros)),
        (counts, task, failed) in (counts(), option::of(task_info()), ranges()),
    ) -> JobInfo {
        JobInfo { id, owner, spec: Arc::new(spec), submitted, started, ended, queued, counts, task, failed }
    }
}

prop_compose! {
    pub(super) fn job_filter()(
        (all, states) in (any::<bool>(), vec(state(), 0..9)),
        (name, since) in (option::of(some_text()), option::of(some_moment())),
    ) -> JobFilter {
        JobFilter { all, states, name, since }
    }
}

pub(super) fn why() -> impl Strategy<Value = Why> {
    let term = (text(), any::<u32>(), vec((text(), any::<u32>()), 0..4))
        .prop_map(|(text, met, seen)| TermCount { text, met, seen });
    (state(), text(), any::<u64>(), vec(term, 0..4), any::<u32>(), any::<u32>()).prop_map(
        |(state, text, ahead, terms, fitting, workers)| Why { state, text, ahead, terms, fitting, workers },
    )
}

prop_compose! {
    pub(super) fn status()(
        (name, pid, state, listening) in (text(), any::<u32>(), text(), option::of(some_text())),
        (since, build) in (moment(), text()),
        (workers, silent, slots, used) in any::<(u32, u32, u32, u32)>(),
        (queued, running, unknown, output_bytes, output_limit_bytes) in any::<(u64, u64, u64, u64, u64)>(),
        (fingerprint, newest, space) in (fingerprint(), job_id(), space()),
    ) -> PoolStatus {
        PoolStatus {
            name, pid, state, listening, since, workers, silent, slots, used, queued, running, unknown, build,
            output_bytes, output_limit_bytes, space, fingerprint, newest,
        }
    }
}

fn space() -> impl Strategy<Value = Option<Space>> {
    let low = (any::<u64>(), 1..=u64::MAX)
        .prop_map(|(free_bytes, needed_bytes)| Space::Low { free_bytes, needed_bytes });
    option::of(prop_oneof![Just(Space::Enough), low])
}

pub(super) fn refusal() -> impl Strategy<Value = Refusal> {
    (text(), text(), vec((text(), text()), 0..4), option::of(some_text()))
        .prop_map(|(code, message, facts, hint)| Refusal { code, message, facts, hint })
}

pub(super) fn hello() -> impl Strategy<Value = Hello> {
    (any::<u16>(), any::<u16>(), text()).prop_map(|(major, minor, build)| Hello { major, minor, build })
}

pub(super) fn welcome() -> impl Strategy<Value = Welcome> {
    let successions = vec(succession(), 0..=limits::FORMER_KEYS_MAX);
    (hello(), text(), fingerprint(), text(), any::<u32>(), text(), text(), any::<u32>(), successions)
        .prop_map(|(hello, pool, fingerprint, boot_id, uid, you, owner, open_calls, successions)| Welcome {
            hello,
            pool,
            fingerprint,
            boot_id,
            uid,
            you,
            owner,
            open_calls,
            successions,
        })
}

fn succession() -> impl Strategy<Value = Succession> {
    let bytes = || vec(any::<u8>(), 0..100);
    (bytes(), fingerprint(), bytes()).prop_map(|(signer, next, signature)| Succession {
        signer,
        next,
        signature,
    })
}

fn role() -> impl Strategy<Value = Role> {
    select(vec![Role::Worker, Role::Client])
}

prop_compose! {
    pub(super) fn token_wish()(
        (role, name, owner) in (role(), option::of(name()), option::of(name())),
        (labels, uses, ttl) in (labels(), option::of(1..=limits::TOKEN_USES_MAX), milliseconds()),
    ) -> TokenWish {
        TokenWish { role, name, owner, labels, uses, ttl }
    }
}

prop_compose! {
    pub(super) fn token_info()(
        (id, role, name) in (token_id(), role(), option::of(some_text())),
        (uses_left, expires) in (option::of(any::<u32>()), moment()),
        state in select(vec![
            TokenState::Valid,
            TokenState::Spent,
            TokenState::Expired,
            TokenState::Revoked,
        ]),
    ) -> TokenInfo {
        TokenInfo { id, role, name, uses_left, expires, state }
    }
}

prop_compose! {
    pub(super) fn client_info()(
        (name, owner, key) in (some_text(), some_text(), fingerprint()),
        (joined, connections, revoked) in (moment(), any::<u32>(), any::<bool>()),
    ) -> ClientInfo {
        ClientInfo { name, owner, key, joined, connections, revoked }
    }
}

prop_compose! {
    pub(super) fn audit_entry()(
        (at, what, count) in (moment(), select(AuditKind::ALL.to_vec()), any::<u32>()),
        (who, source, about, detail) in (some_text(), some_text(), some_text(), some_text()),
    ) -> AuditEntry {
        AuditEntry { at, what, who, source, about, detail, count }
    }
}
