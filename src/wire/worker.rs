//! What workers and pools say to each other, and what is seen of a worker.

use std::time::Duration;

use crate::core::attempt::AttemptEnd;
use crate::core::id::{Fence, Fingerprint, Incarnation, JobId};
use crate::core::job::JobSpec;
use crate::core::limits;
use crate::core::membership::{
    Carried, Facts, Registered, Report, Sharing, Start, StartOrder, SubmitterTrust, Tenure,
};
use crate::core::outcome::Cancel;
use crate::core::time::WallTime;
use crate::core::view::{WorkerInfo, WorkerState};
use crate::schema::pool_capnp::{self, worker_info};
use crate::schema::worker_capnp::{cancel_attempt, carried, ended, facts, registered, report, start};

use super::{WireError, fence, job, label, outcome, output, text};

/// A text that a worker says of itself, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// What a fence takes in a list, in bytes, with the landing pad of its task.
const FENCE_BYTES: usize = 48;
/// What the fields of a start take that have one size, and the gaps between the others, in bytes.
const START_BYTES: usize = 256;

/// What the fields of a listed worker take that have one size, and the gaps between the others, in bytes.
const INFO_BYTES: usize = 384;
/// What a label takes beside its texts, in bytes: two pointers, a landing pad each, and what is left of their ends.
const LABEL_BYTES: usize = 48;
/// What the name of a task takes in a list, in bytes.
const TASK_BYTES: usize = 16;

fn len(labels: &crate::core::label::Labels) -> u32 {
    u32::try_from(labels.len()).expect("labels are bounded")
}

/// Writes what a worker says of itself.
pub fn write_facts(said: &Facts, mut to: facts::Builder<'_>) {
    to.set_boot_id(&said.boot_id);
    to.set_incarnation(said.incarnation.0);
    to.set_dial(said.dial);
    to.set_slots(said.slots);
    label::write(&said.labels, to.reborrow().init_labels(len(&said.labels)));
    to.set_memory_bytes(said.memory_bytes);
    to.set_uid(said.uid);
    to.set_trust_submitters(said.trust == SubmitterTrust::Everybody);
    to.set_user(&said.user);
    to.set_pid(said.pid);
    to.set_ephemeral(said.tenure == Tenure::Ephemeral);
}

/// Reads what a worker says of itself.
pub fn read_facts(from: facts::Reader<'_>) -> Result<Facts, WireError> {
    Ok(Facts {
        boot_id: text::read(from.get_boot_id(), "the boot id", TEXT_BYTES_MAX)?,
        incarnation: Incarnation(from.get_incarnation()),
        dial: from.get_dial(),
        slots: from.get_slots(),
        labels: label::read(from.get_labels()?)?,
        memory_bytes: from.get_memory_bytes(),
        uid: from.get_uid(),
        trust: match from.get_trust_submitters() {
            true => SubmitterTrust::Everybody,
            false => SubmitterTrust::OwnerOnly,
        },
        user: text::read(from.get_user(), "the user", TEXT_BYTES_MAX)?,
        pid: from.get_pid(),
        tenure: tenure(from.get_ephemeral()),
    })
}

fn tenure(is_ephemeral: bool) -> Tenure {
    if is_ephemeral { Tenure::Ephemeral } else { Tenure::Lasting }
}

/// Writes what executors have, into a list of as many.
pub fn write_carried(all: &[Carried], mut to: capnp::struct_list::Builder<'_, carried::Owned>) {
    for (n, carried) in (0..).zip(all) {
        let mut one = to.reborrow().get(n);
        one.set_incarnation(carried.incarnation.0);
        fence::write_list(&carried.living, one.reborrow().init_living(text::count(&carried.living)));
        fence::write_list(&carried.ended, one.reborrow().init_ended(text::count(&carried.ended)));
        fence::write_list(
            &carried.never_started,
            one.init_never_started(text::count(&carried.never_started)),
        );
    }
}

/// Reads what executors have.
pub fn read_carried(from: capnp::struct_list::Reader<'_, carried::Owned>) -> Result<Vec<Carried>, WireError> {
    text::check_len(from.len(), "the list of executors", limits::EXECUTORS_CARRIED_MAX)?;
    let read_one = |one: carried::Reader<'_>| {
        Ok(Carried {
            incarnation: Incarnation(one.get_incarnation()),
            living: fence::read_list(one.get_living()?)?,
            ended: fence::read_list(one.get_ended()?)?,
            never_started: fence::read_list(one.get_never_started()?)?,
        })
    };
    from.iter().map(read_one).collect()
}

/// Writes how an attempt ended.
pub fn write_ended(end: &AttemptEnd, mut to: ended::Builder<'_>) {
    fence::write(end.fence, to.reborrow().init_fence());
    outcome::write(&end.outcome, to.reborrow().init_outcome());
    outcome::write_usage(&end.usage, to.reborrow().init_usage());
    output::write_totals(&end.totals, to.reborrow().init_totals());
    output::write_list(&end.tail, to.init_tail(text::count(&end.tail)));
}

/// Reads how an attempt ended.
pub fn read_ended(from: ended::Reader<'_>) -> Result<AttemptEnd, WireError> {
    let end = AttemptEnd {
        fence: fence::read(from.get_fence()?)?,
        outcome: outcome::read(from.get_outcome()?)?,
        usage: outcome::read_usage(from.get_usage()?),
        totals: output::read_totals(from.get_totals()?)?,
        tail: output::read_list(from.get_tail()?, limits::OUTPUT_INLINE_CHUNKS_MAX)?,
    };
    let tail_bytes: usize = end.tail.iter().map(|chunk| chunk.bytes.len()).sum();
    if tail_bytes > limits::OUTPUT_INLINE_BYTES_MAX {
        return Err(WireError::TooLong {
            what: "output in an ending",
            bound: limits::OUTPUT_INLINE_BYTES_MAX,
        });
    }
    Ok(end)
}

/// Writes reports into a list of as many.
pub fn write_reports(reports: &[Report], mut to: capnp::struct_list::Builder<'_, report::Owned>) {
    for (n, said) in (0..).zip(reports) {
        let one = to.reborrow().get(n);
        match said {
            Report::Started(started) => fence::write(*started, one.init_started()),
            Report::Ended(end) => write_ended(end, one.init_ended()),
            Report::TakenBack(back) => fence::write(*back, one.init_taken_back()),
        }
    }
}

/// Reads reports.
pub fn read_reports(from: capnp::struct_list::Reader<'_, report::Owned>) -> Result<Vec<Report>, WireError> {
    text::check_len(from.len(), "the list of reports", fence::FENCES_MAX)?;
    let read_one = |one: report::Reader<'_>| {
        Ok(match one.which()? {
            report::Started(started) => Report::Started(fence::read(started?)?),
            report::Ended(end) => Report::Ended(read_ended(end?)?),
            report::TakenBack(back) => Report::TakenBack(fence::read(back?)?),
        })
    };
    from.iter().map(read_one).collect()
}

/// Writes what a worker is told when it has registered (not the objects).
pub fn write_registered(told: &Registered, mut to: registered::Builder<'_>) {
    to.set_name(&told.name);
    to.set_pool(&told.pool);
    to.set_lease_ms(text::millis(Some(told.lease)));
    to.set_heartbeat_ms(text::millis(Some(told.heartbeat)));
    to.set_silent_ms(text::millis(Some(told.silent_after)));
    fence::write_list(&told.forget, to.reborrow().init_forget(text::count(&told.forget)));
    fence::write_list(&told.kill, to.reborrow().init_kill(text::count(&told.kill)));
    to.set_only_owner(told.only_owner.as_deref().unwrap_or(""));
    let mut positions = to.init_positions(text::count(&told.positions));
    for (n, (whose, position)) in (0..).zip(&told.positions) {
        let mut one = positions.reborrow().get(n);
        one.set_position(*position);
        fence::write(*whose, one.init_fence());
    }
}

/// Reads what a worker is told when it has registered.
pub fn read_registered(from: registered::Reader<'_>) -> Result<Registered, WireError> {
    let positions = from.get_positions()?;
    text::check_len(positions.len(), "the list of positions", fence::FENCES_MAX)?;
    let positions = positions.iter().map(|one| Ok((fence::read(one.get_fence()?)?, one.get_position())));
    Ok(Registered {
        name: text::read(from.get_name(), "a name", TEXT_BYTES_MAX)?,
        pool: text::read(from.get_pool(), "a name", TEXT_BYTES_MAX)?,
        lease: Duration::from_millis(from.get_lease_ms()),
        heartbeat: Duration::from_millis(from.get_heartbeat_ms()),
        silent_after: Duration::from_millis(from.get_silent_ms()),
        forget: fence::read_list(from.get_forget()?)?,
        kill: fence::read_list(from.get_kill()?)?,
        positions: positions.collect::<Result<_, WireError>>()?,
        only_owner: text::read_optional(from.get_only_owner(), "the owner", limits::OWNER_BYTES_MAX)?,
    })
}

/// What attempts of one job take in a message, in bytes, or less.
pub fn start_bytes(given: &Start) -> usize {
    let cwd = given.spec.cwd.as_ref().map_or(0, Vec::len);
    given.spec.bytes() + cwd + given.fences.len() * FENCE_BYTES + START_BYTES
}

/// Writes attempts of several jobs into a list of as many.
pub fn write_starts(starts: &[Start], mut to: capnp::struct_list::Builder<'_, start::Owned>) {
    for (n, start) in (0..).zip(starts) {
        write_start(start, to.reborrow().get(n));
    }
}

/// Reads attempts of several jobs.
pub fn read_starts(from: capnp::struct_list::Reader<'_, start::Owned>) -> Result<Vec<StartOrder>, WireError> {
    text::check_len(from.len(), "the list of starts", fence::FENCES_MAX)?;
    from.iter().map(read_start).collect()
}

/// Writes attempts of one job: of its spec what running needs.
fn write_start(given: &Start, mut to: start::Builder<'_>) {
    let spec: &JobSpec = &given.spec;
    to.set_job(given.job.0);
    to.set_script(&spec.script);
    job::write_words(&spec.args, to.reborrow().init_args(text::count(&spec.args)));
    job::write_env(&spec.env, to.reborrow().init_env(text::count(&spec.env)));
    to.set_cwd(spec.cwd.as_deref().unwrap_or_default());
    to.set_timeout_ms(text::millis(spec.timeout));
    to.set_lease_ms(text::millis(given.lease));
    fence::write_list(&given.fences, to.init_fences(text::count(&given.fences)));
}

/// Reads attempts of one job.
fn read_start(from: start::Reader<'_>) -> Result<StartOrder, WireError> {
    Ok(StartOrder {
        job: JobId(from.get_job()),
        script: job::read_script(from.get_script()?)?,
        args: job::read_words(from.get_args()?)?,
        env: job::read_env(from.get_env()?)?,
        cwd: job::read_cwd(from.get_cwd())?,
        timeout: text::duration(from.get_timeout_ms()),
        fences: fence::read_list(from.get_fences()?)?,
        lease: text::duration(from.get_lease_ms()),
    })
}

/// Writes cancels into a list of as many.
pub fn write_cancels(
    attempts: &[(Fence, Cancel)],
    mut to: capnp::struct_list::Builder<'_, cancel_attempt::Owned>,
) {
    for (n, (whom, how)) in (0..).zip(attempts) {
        let mut one = to.reborrow().get(n);
        one.set_how(outcome::write_cancel(*how));
        fence::write(*whom, one.init_fence());
    }
}

/// Reads cancels.
pub fn read_cancels(
    from: capnp::struct_list::Reader<'_, cancel_attempt::Owned>,
) -> Result<Vec<(Fence, Cancel)>, WireError> {
    text::check_len(from.len(), "the list of cancels", fence::FENCES_MAX)?;
    from.iter()
        .map(|one| Ok((fence::read(one.get_fence()?)?, outcome::read_cancel(one.get_how()?))))
        .collect()
}

/// Reads where a worker has no room, if anywhere.
pub fn read_full(from: capnp::Result<capnp::text::Reader<'_>>) -> Result<Option<String>, WireError> {
    let place = text::read(from, "the full place", limits::PATH_SHOWN_BYTES_MAX)?;
    Ok(Some(place).filter(|place| !place.is_empty()))
}

/// Writes what is seen of a worker.
pub fn write_info(info: &WorkerInfo, mut to: worker_info::Builder<'_>) {
    to.set_name(&info.name);
    to.set_state(match info.state {
        WorkerState::Ready => pool_capnp::WorkerState::Ready,
        WorkerState::Draining => pool_capnp::WorkerState::Draining,
        WorkerState::Drained => pool_capnp::WorkerState::Drained,
        WorkerState::Full => pool_capnp::WorkerState::Full,
        WorkerState::Silent => pool_capnp::WorkerState::Silent,
        WorkerState::Away => pool_capnp::WorkerState::Away,
    });
    to.set_slots(info.slots);
    to.set_used(info.used);
    label::write(&info.labels, to.reborrow().init_labels(len(&info.labels)));
    to.set_memory_bytes(info.memory_bytes);
    to.set_seen_ms(info.seen.map_or(0, |seen| text::millis(Some(seen))));
    let mut tasks = to.reborrow().init_tasks(text::count(&info.tasks));
    for (n, task) in (0..).zip(&info.tasks) {
        fence::write_task(*task, tasks.reborrow().get(n));
    }
    to.set_only_owner(info.only_owner.as_deref().unwrap_or(""));
    to.set_joined_ms(info.joined.0);
    to.set_fingerprint(info.fingerprint.as_ref().map_or(&[][..], |key| &key.0[..]));
    to.set_ephemeral(info.tenure == Tenure::Ephemeral);
    to.set_sharing(match info.sharing {
        Sharing::Unknown => pool_capnp::Sharing::Unknown,
        Sharing::Apart => pool_capnp::Sharing::Apart,
        Sharing::User => pool_capnp::Sharing::User,
        Sharing::Root => pool_capnp::Sharing::Root,
    });
}

/// Writes what is seen of workers into a list of as many.
pub fn write_infos(infos: &[WorkerInfo], mut to: capnp::struct_list::Builder<'_, worker_info::Owned>) {
    for (n, info) in (0..).zip(infos) {
        write_info(info, to.reborrow().get(n));
    }
}

/// How many of these workers one page has room for.
pub fn fitting(infos: &[WorkerInfo]) -> usize {
    text::fitting(infos.iter().map(info_bytes))
}

/// What is seen of a worker takes so many bytes in a message, or less.
fn info_bytes(info: &WorkerInfo) -> usize {
    let labels = info.labels.iter().map(|(key, value)| key.len() + value.len() + LABEL_BYTES);
    let texts = info.name.len() + info.only_owner.as_ref().map_or(0, String::len);
    INFO_BYTES + labels.sum::<usize>() + texts + info.tasks.len() * TASK_BYTES
}

/// Reads what is seen of a worker.
pub fn read_info(from: worker_info::Reader<'_>) -> Result<WorkerInfo, WireError> {
    let tasks = from.get_tasks()?;
    text::check_len(tasks.len(), "the list of tasks", limits::PAGE_MAX)?;
    Ok(WorkerInfo {
        name: text::read(from.get_name(), "a name", TEXT_BYTES_MAX)?,
        state: match from.get_state()? {
            pool_capnp::WorkerState::Ready => WorkerState::Ready,
            pool_capnp::WorkerState::Draining => WorkerState::Draining,
            pool_capnp::WorkerState::Drained => WorkerState::Drained,
            pool_capnp::WorkerState::Full => WorkerState::Full,
            pool_capnp::WorkerState::Silent => WorkerState::Silent,
            pool_capnp::WorkerState::Away => WorkerState::Away,
        },
        slots: from.get_slots(),
        used: from.get_used(),
        labels: label::read_all(from.get_labels()?)?,
        memory_bytes: from.get_memory_bytes(),
        seen: text::duration(from.get_seen_ms()),
        tasks: tasks.iter().map(fence::read_task).collect(),
        only_owner: text::read_optional(from.get_only_owner(), "the owner", limits::OWNER_BYTES_MAX)?,
        sharing: match from.get_sharing()? {
            pool_capnp::Sharing::Unknown => Sharing::Unknown,
            pool_capnp::Sharing::Apart => Sharing::Apart,
            pool_capnp::Sharing::User => Sharing::User,
            pool_capnp::Sharing::Root => Sharing::Root,
        },
        joined: WallTime(from.get_joined_ms()),
        tenure: tenure(from.get_ephemeral()),
        fingerprint: match from.get_fingerprint()? {
            [] => None,
            key => Some(Fingerprint(text::read_array(Ok(key), "a fingerprint")?)),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::job::Variable;
    use crate::core::outcome::{Outcome, Usage};
    use crate::core::output::{Chunk, OutputTotals, Stream};
    use crate::schema::pool_capnp::pool::workers_results;
    use crate::schema::worker_capnp::registrar::register_params;
    use crate::schema::worker_capnp::reports::report_params;
    use crate::wire::message;

    fn start(spec: JobSpec, fences: usize) -> Start {
        let fences = vec![Fence::default(); fences];
        Start { job: JobId(1), spec: Arc::new(spec), secrets: None, fences, lease: None }
    }

    fn encoded_bytes(start: &Start) -> usize {
        message::encode::<start::Owned>(|to| write_start(start, to)).len()
    }

    #[test]
    fn a_start_takes_no_more_than_is_counted_for_it() {
        let script = vec![b':'; 1001];
        let args: Vec<Vec<u8>> = (0..100).map(|n| vec![b'x'; n]).collect();
        let env: Vec<Variable> = (0..100).map(|n| (vec![b'x'; n + 1], vec![b'y'; 100 - n])).collect();
        let spec = JobSpec { args, env, cwd: Some(b"/tmp".to_vec()), ..JobSpec::new(script) };
        let start = start(spec, 1000);

        assert!(encoded_bytes(&start) <= start_bytes(&start));
    }

    proptest::proptest! {
        #[test]
        fn a_listed_worker_takes_no_more_than_is_counted_for_it(info in crate::wire::arbitrary::worker_info()) {
            let bytes = message::encode::<worker_info::Owned>(|to| write_info(&info, to)).len();

            proptest::prop_assert!(bytes <= info_bytes(&info), "{bytes}");
        }
    }

    /// With as many labels as it and its token may have, each with such a value.
    fn labelled(value: &str) -> WorkerInfo {
        let labels = (0..2 * limits::LABELS_MAX).map(|n| (format!("label-{n}"), value.to_owned()));
        WorkerInfo {
            name: "w1".into(),
            state: WorkerState::Ready,
            slots: 1,
            used: 0,
            labels: labels.chain([("name".into(), "w1".into())]).collect(),
            memory_bytes: 0,
            seen: None,
            tasks: Vec::new(),
            only_owner: None,
            sharing: Sharing::Apart,
            joined: WallTime(0),
            fingerprint: None,
            tenure: Tenure::Lasting,
        }
    }

    #[test]
    fn a_worker_of_a_pool_that_does_not_tell_is_not_taken_for_one_that_is_apart() {
        let bytes = message::encode::<worker_info::Owned>(|mut to| to.set_name("w1"));

        let info = message::decode::<worker_info::Owned, _>(&bytes, read_info).unwrap();
        assert_eq!(info.sharing, Sharing::Unknown);
    }

    #[test]
    fn a_page_of_the_largest_workers_is_less_than_a_frame() {
        let workers = vec![labelled(&"x".repeat(limits::LABEL_VALUE_BYTES_MAX)); 100];
        let page = &workers[..fitting(&workers)];

        let bytes = message::encode::<workers_results::Owned>(|to| {
            write_infos(page, to.init_workers(text::count(page)));
        });

        assert!((limits::PAGE_BYTES_MAX / 2..limits::FRAME_BYTES_MAX / 2 + 1024).contains(&bytes.len()));
    }

    #[test]
    fn a_worker_with_as_many_labels_as_it_and_its_token_may_have_is_shown() {
        let info = labelled("");

        let bytes = message::encode::<worker_info::Owned>(|to| write_info(&info, to));

        assert_eq!(message::decode::<worker_info::Owned, _>(&bytes, read_info).unwrap(), info);
    }

    #[test]
    fn what_a_worker_with_every_slot_carries_fits_a_frame() {
        let all = vec![Fence::default(); limits::SLOTS_MAX as usize];
        let incarnation = Incarnation(1);
        let carried = [Carried { incarnation, living: all.clone(), ended: all.clone(), never_started: all }];

        let bytes = message::encode::<register_params::Owned>(|to| {
            write_carried(&carried, to.init_carried(text::count(&carried)));
        });

        assert!(bytes.len() < limits::FRAME_BYTES_MAX / 2, "{}", bytes.len());
    }

    #[test]
    fn as_many_of_the_largest_endings_as_go_in_one_call_fit_a_frame() {
        let chunk = Chunk {
            position: 0,
            stream: Stream::Stdout,
            offset: 0,
            bytes: vec![0; limits::OUTPUT_INLINE_BYTES_MAX / limits::OUTPUT_INLINE_CHUNKS_MAX],
        };
        let end = AttemptEnd {
            fence: Fence::default(),
            outcome: Outcome::Lost("x".repeat(1 << 20)),
            usage: Usage::default(),
            totals: OutputTotals::default(),
            tail: vec![chunk; limits::OUTPUT_INLINE_CHUNKS_MAX],
        };
        let reports = vec![Report::Ended(end); limits::REPORTS_PER_CALL_MAX];

        let bytes = message::encode::<report_params::Owned>(|to| {
            write_reports(&reports, to.init_reports(text::count(&reports)));
        });

        assert!(bytes.len() < limits::FRAME_BYTES_MAX - 1024, "{}", bytes.len());
    }

    #[test]
    fn the_start_of_whatever_may_be_submitted_fits_a_frame_with_every_slot_of_a_worker() {
        let words = |count: usize| JobSpec { args: vec![b"x".to_vec(); count], ..JobSpec::new(":") };
        let variables = |count: usize| JobSpec {
            env: vec![(b"a".to_vec(), b"b".to_vec()); count],
            cwd: Some(vec![b'/'; limits::PATH_BYTES_MAX]),
            ..JobSpec::new(":")
        };
        let most = |spec: &dyn Fn(usize) -> JobSpec| {
            let count =
                (0..1 << 20).collect::<Vec<_>>().partition_point(|&n| spec(n).check_entering().is_ok());
            spec(count - 1)
        };

        for spec in [most(&words), most(&variables), most(&|n| JobSpec::new(vec![b':'; n + 1]))] {
            let bytes = encoded_bytes(&start(spec, limits::SLOTS_MAX as usize));
            assert!(bytes > limits::SPEC_BYTES_MAX / 2 && bytes < limits::FRAME_BYTES_MAX - 1024, "{bytes}");
        }
    }
}
