//! What workers, pools and executors say to each other.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{
    attempt_end, bytes, cancel, chunk, directory, fence, fences, fingerprint, incarnation, job_id, job_spec,
    labels, milliseconds, moment, some_text, task_id, text,
};
use crate::core::attempt::{FromExecutor, Held, Launch, ToExecutor};
use crate::core::id::Fence;
use crate::core::membership::{Carried, Facts, Registered, Report, Sharing, Start, SubmitterTrust, Tenure};
use crate::core::outcome::Cancel;
use crate::core::time::Timestamp;
use crate::core::view::{WorkerInfo, WorkerState};

prop_compose! {
    pub(in crate::wire) fn facts()(
        (boot_id, incarnation, dial) in (text(), incarnation(), any::<u64>()),
        (slots, labels, memory_bytes) in (any::<u32>(), labels(), any::<u64>()),
        (uid, user, pid) in (any::<u32>(), text(), any::<u32>()),
        trust in select(vec![SubmitterTrust::OwnerOnly, SubmitterTrust::Everybody]),
        tenure in select(vec![Tenure::Lasting, Tenure::Ephemeral]),
    ) -> Facts {
        Facts { boot_id, incarnation, dial, slots, labels, memory_bytes, uid, trust, user, pid, tenure }
    }
}

pub(in crate::wire) fn carried() -> impl Strategy<Value = Vec<Carried>> {
    let one = (incarnation(), fences(), fences(), fences()).prop_map(
        |(incarnation, living, ended, never_started)| Carried { incarnation, living, ended, never_started },
    );
    vec(one, 0..3)
}

pub(in crate::wire) fn registered() -> impl Strategy<Value = Registered> {
    (
        (text(), text(), option::of(some_text())),
        (milliseconds(), milliseconds(), milliseconds()),
        (fences(), fences(), vec((fence(), any::<u64>()), 0..4)),
    )
        .prop_map(
            |((name, pool, only_owner), (lease, heartbeat, silent_after), (forget, kill, positions))| {
                Registered { name, pool, lease, heartbeat, silent_after, forget, kill, positions, only_owner }
            },
        )
}

fn start() -> impl Strategy<Value = Start> {
    (job_id(), job_spec(), fences(), option::of(milliseconds())).prop_map(|(job, spec, fences, lease)| {
        Start { job, spec: Arc::new(spec), secrets: None, fences, lease }
    })
}

pub(in crate::wire) fn starts() -> impl Strategy<Value = Vec<Start>> {
    vec(start(), 0..3)
}

pub(in crate::wire) fn reports() -> impl Strategy<Value = Vec<Report>> {
    let one = prop_oneof![
        fence().prop_map(Report::Started),
        attempt_end().prop_map(Report::Ended),
        fence().prop_map(Report::TakenBack),
    ];
    vec(one, 0..4)
}

pub(in crate::wire) fn cancels() -> impl Strategy<Value = Vec<(Fence, Cancel)>> {
    vec((fence(), cancel()), 0..4)
}

prop_compose! {
    pub(in crate::wire) fn worker_info()(
        (name, slots, used, labels) in (text(), any::<u32>(), any::<u32>(), labels()),
        state in select(vec![
            WorkerState::Ready,
            WorkerState::Draining,
            WorkerState::Drained,
            WorkerState::Full,
            WorkerState::Silent,
            WorkerState::Away,
        ]),
        (memory_bytes, seen, tasks) in (any::<u64>(), option::of(milliseconds()), vec(task_id(), 0..4)),
        (only_owner, joined, fingerprint) in (option::of(some_text()), moment(), option::of(fingerprint())),
        tenure in select(vec![Tenure::Lasting, Tenure::Ephemeral]),
        sharing in select(vec![Sharing::User, Sharing::Root, Sharing::Apart, Sharing::Unknown]),
    ) -> WorkerInfo {
        WorkerInfo {
            name, state, slots, used, labels, memory_bytes, seen, tasks, only_owner, joined, fingerprint,
            tenure, sharing,
        }
    }
}

prop_compose! {
    fn launch()(
        (fence, dial, worker) in (fence(), any::<u64>(), text()),
        (script, args, env) in (bytes(), vec(bytes(), 0..4), vec((bytes(), bytes()), 0..4)),
        cwd in option::of(directory()),
        (timeout, lease) in (option::of(milliseconds()), option::of(1_u64..)),
    ) -> Launch {
        Launch { fence, dial, script, args, env, cwd, timeout, lease_until: lease.map(Timestamp), worker }
    }
}

pub(in crate::wire) fn to_executor() -> impl Strategy<Value = ToExecutor> {
    let position = || (fence(), any::<u64>());
    prop_oneof![
        launch().prop_map(ToExecutor::Start),
        (fence(), cancel()).prop_map(|(fence, how)| ToExecutor::End { fence, how }),
        any::<u64>().prop_map(|until| ToExecutor::Lease(Timestamp(until))),
        (any::<u32>(), any::<u64>())
            .prop_map(|(slots, until)| ToExecutor::Starts { slots, until: Timestamp(until) }),
        fence().prop_map(ToExecutor::TakeBack),
        position().prop_map(|(fence, position)| ToExecutor::Acknowledged { fence, position }),
        position().prop_map(|(fence, position)| ToExecutor::SendFrom { fence, position }),
        Just(ToExecutor::Pause),
        Just(ToExecutor::Unpause),
        fence().prop_map(ToExecutor::Forget),
        any::<u64>().prop_map(ToExecutor::Dial),
        Just(ToExecutor::ExitWhenEmpty),
        Just(ToExecutor::StopAll),
    ]
}

pub(in crate::wire) fn from_executor() -> impl Strategy<Value = FromExecutor> {
    let held = prop_oneof![
        fence().prop_map(Held::Waiting),
        fence().prop_map(Held::Running),
        attempt_end().prop_map(Held::Ended),
    ];
    prop_oneof![
        (incarnation(), vec(held, 0..4), any::<u64>())
            .prop_map(|(incarnation, held, dial)| FromExecutor::Welcome { incarnation, held, dial }),
        fence().prop_map(FromExecutor::Started),
        (fence(), chunk()).prop_map(|(fence, chunk)| FromExecutor::Output { fence, chunk }),
        attempt_end().prop_map(FromExecutor::Ended),
        fence().prop_map(FromExecutor::Refused),
    ]
}
