//! Tasks: their states, what is seen of one, and what a follower is told.

use crate::core::limits;
use crate::core::outcome::Outcome;
use crate::core::time::WallTime;
use crate::core::view::{Counts, TaskEnd, TaskEvent, TaskEventKind, TaskInfo, TaskState};
use crate::schema::pool_capnp::{self, counts, task_end, task_event, task_info};

use super::{WireError, outcome, output, text};

/// What the fields of a listed task take that have one size, and the gaps between the others, in bytes.
const INFO_BYTES: usize = 384;

/// The enumerator of a state.
pub fn write_state(state: TaskState) -> pool_capnp::TaskState {
    match state {
        TaskState::Queued => pool_capnp::TaskState::Queued,
        TaskState::Starting => pool_capnp::TaskState::Starting,
        TaskState::Running => pool_capnp::TaskState::Running,
        TaskState::Unknown => pool_capnp::TaskState::Unknown,
        TaskState::Done => pool_capnp::TaskState::Done,
        TaskState::Failed => pool_capnp::TaskState::Failed,
        TaskState::Cancelled => pool_capnp::TaskState::Cancelled,
        TaskState::Lost => pool_capnp::TaskState::Lost,
    }
}

/// The state that an enumerator stands for.
pub fn read_state(state: pool_capnp::TaskState) -> TaskState {
    match state {
        pool_capnp::TaskState::Queued => TaskState::Queued,
        pool_capnp::TaskState::Starting => TaskState::Starting,
        pool_capnp::TaskState::Running => TaskState::Running,
        pool_capnp::TaskState::Unknown => TaskState::Unknown,
        pool_capnp::TaskState::Done => TaskState::Done,
        pool_capnp::TaskState::Failed => TaskState::Failed,
        pool_capnp::TaskState::Cancelled => TaskState::Cancelled,
        pool_capnp::TaskState::Lost => TaskState::Lost,
    }
}

/// A moment in milliseconds since 1970, where 0 stands for none.
pub fn moment(ms: i64) -> Option<WallTime> {
    (ms != 0).then_some(WallTime(ms))
}

/// Writes how a task ended.
pub fn write_end(end: &TaskEnd, mut to: task_end::Builder<'_>) {
    outcome::write(&end.outcome, to.reborrow().init_outcome());
    outcome::write_usage(&end.usage, to.reborrow().init_usage());
    output::write_totals(&end.totals, to.init_totals());
}

/// Reads how a task ended.
pub fn read_end(from: task_end::Reader<'_>) -> Result<TaskEnd, WireError> {
    Ok(TaskEnd {
        outcome: outcome::read(from.get_outcome()?)?,
        usage: outcome::read_usage(from.get_usage()?),
        totals: output::read_totals(from.get_totals()?)?,
    })
}

/// Writes what is seen of a task.
pub fn write_info(info: &TaskInfo, mut to: task_info::Builder<'_>) {
    to.set_index(info.index);
    to.set_state(write_state(info.state));
    to.set_attempt(info.attempt);
    to.set_worker(info.worker.as_deref().unwrap_or(""));
    to.set_started_ms(info.started.map_or(0, |at| at.0));
    to.set_ended_ms(info.ended.map_or(0, |at| at.0));
    to.set_cancelling(info.cancelling);
    if let Some(end) = &info.end {
        write_end(end, to.init_end());
    }
}

/// Writes what is seen of tasks into a list of as many.
pub fn write_infos(infos: &[TaskInfo], mut to: capnp::struct_list::Builder<'_, task_info::Owned>) {
    for (n, info) in (0..).zip(infos) {
        write_info(info, to.reborrow().get(n));
    }
}

/// How many of these tasks one page has room for.
pub fn fitting(infos: &[TaskInfo]) -> usize {
    text::fitting(infos.iter().map(info_bytes))
}

/// What is seen of a task takes so many bytes in a message, or less.
pub fn info_bytes(info: &TaskInfo) -> usize {
    let reason = info.end.as_ref().map_or(0, |end| match &end.outcome {
        Outcome::Lost(reason) | Outcome::SpawnFailed(reason) => text::reason(reason).len(),
        Outcome::Exited(_)
        | Outcome::Signaled(_)
        | Outcome::TimedOut
        | Outcome::Cancelled(_)
        | Outcome::Quarantined => 0,
    });
    INFO_BYTES + reason + info.worker.as_ref().map_or(0, String::len)
}

/// Reads what is seen of a task.
pub fn read_info(from: task_info::Reader<'_>) -> Result<TaskInfo, WireError> {
    Ok(TaskInfo {
        index: from.get_index(),
        state: read_state(from.get_state()?),
        attempt: from.get_attempt(),
        worker: text::read_optional(from.get_worker(), "a worker's name", limits::NAME_BYTES_MAX)?,
        started: moment(from.get_started_ms()),
        ended: moment(from.get_ended_ms()),
        end: from.has_end().then(|| read_end(from.get_end()?)).transpose()?,
        cancelling: from.get_cancelling(),
    })
}

/// Writes how many tasks are in each state.
pub fn write_counts(counts: &Counts, mut to: counts::Builder<'_>) {
    to.set_queued(counts.of(TaskState::Queued));
    to.set_starting(counts.of(TaskState::Starting));
    to.set_running(counts.of(TaskState::Running));
    to.set_unknown(counts.of(TaskState::Unknown));
    to.set_done(counts.of(TaskState::Done));
    to.set_failed(counts.of(TaskState::Failed));
    to.set_cancelled(counts.of(TaskState::Cancelled));
    to.set_lost(counts.of(TaskState::Lost));
}

/// Reads how many tasks are in each state.
pub fn read_counts(from: counts::Reader<'_>) -> Counts {
    let mut counts = Counts::default();
    *counts.of_mut(TaskState::Queued) = from.get_queued();
    *counts.of_mut(TaskState::Starting) = from.get_starting();
    *counts.of_mut(TaskState::Running) = from.get_running();
    *counts.of_mut(TaskState::Unknown) = from.get_unknown();
    *counts.of_mut(TaskState::Done) = from.get_done();
    *counts.of_mut(TaskState::Failed) = from.get_failed();
    *counts.of_mut(TaskState::Cancelled) = from.get_cancelled();
    *counts.of_mut(TaskState::Lost) = from.get_lost();
    counts
}

/// Writes what a follower is told.
pub fn write_event(event: &TaskEvent, mut to: task_event::Builder<'_>) {
    to.set_task(event.task);
    to.set_attempt(event.attempt);
    to.set_worker(event.worker.as_deref().unwrap_or(""));
    match &event.kind {
        TaskEventKind::Queued => to.set_queued(()),
        TaskEventKind::Started => to.set_started(()),
        TaskEventKind::Unknown(elsewhere) => to.set_unknown(text::millis(*elsewhere)),
        TaskEventKind::Returned => to.set_returned(()),
        TaskEventKind::AttemptLost(reason) => to.set_attempt_lost(text::reason(reason)),
        TaskEventKind::Cancelling(how) => to.set_cancelling(outcome::write_cancel(*how)),
        TaskEventKind::Ended(end) => write_end(end, to.init_ended()),
    }
}

/// Reads what a follower is told.
pub fn read_event(from: task_event::Reader<'_>) -> Result<TaskEvent, WireError> {
    let kind = match from.which()? {
        task_event::Queued(()) => TaskEventKind::Queued,
        task_event::Started(()) => TaskEventKind::Started,
        task_event::Unknown(ms) => TaskEventKind::Unknown(text::duration(ms)),
        task_event::Returned(()) => TaskEventKind::Returned,
        task_event::AttemptLost(reason) => TaskEventKind::AttemptLost(text::read_reason(reason)?),
        task_event::Cancelling(how) => TaskEventKind::Cancelling(outcome::read_cancel(how?)),
        task_event::Ended(end) => TaskEventKind::Ended(read_end(end?)?),
    };
    Ok(TaskEvent {
        task: from.get_task(),
        attempt: from.get_attempt(),
        worker: text::read_optional(from.get_worker(), "a worker's name", limits::NAME_BYTES_MAX)?,
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message;

    proptest::proptest! {
        #[test]
        fn a_listed_task_takes_no_more_than_is_counted_for_it(info in crate::wire::arbitrary::task_info()) {
            let bytes = message::encode::<task_info::Owned>(|to| write_info(&info, to)).len();

            proptest::prop_assert!(bytes <= info_bytes(&info), "{bytes}");
        }
    }

    #[test]
    fn of_a_reason_that_is_too_long_the_beginning_arrives() {
        let kind = TaskEventKind::AttemptLost("x".repeat(2 * limits::REASON_BYTES_MAX));
        let event = TaskEvent { task: 0, attempt: 1, worker: None, kind };

        let bytes = message::encode::<task_event::Owned>(|to| write_event(&event, to));

        let kind = TaskEventKind::AttemptLost("x".repeat(limits::REASON_BYTES_MAX));
        let arrived = message::decode::<task_event::Owned, _>(&bytes, read_event).unwrap();
        assert_eq!(arrived, TaskEvent { kind, ..event });
    }
}
