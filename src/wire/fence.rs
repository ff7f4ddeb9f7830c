//! Fences, tasks, ranges.

use crate::core::id::{AttemptNumber, Fence, JobId, JobNonce, TaskId};
use crate::schema::types_capnp::{fence, range, task_id};

use super::{WireError, text};

/// Most fences in one message: what a worker may hold, with as many again that ended.
pub const FENCES_MAX: usize = 16 << 10;

/// Writes a task's name.
pub fn write_task(task: TaskId, mut to: task_id::Builder<'_>) {
    to.set_job(task.job.0);
    to.set_index(task.index);
}

/// Reads a task's name.
pub fn read_task(from: task_id::Reader<'_>) -> TaskId {
    TaskId { job: JobId(from.get_job()), index: from.get_index() }
}

/// Writes a fence.
pub fn write(fence: Fence, mut to: fence::Builder<'_>) {
    to.set_nonce(fence.nonce.0);
    to.set_attempt(fence.attempt.0);
    write_task(fence.task, to.init_task());
}

/// Reads a fence.
pub fn read(from: fence::Reader<'_>) -> Result<Fence, WireError> {
    Ok(Fence {
        nonce: JobNonce(from.get_nonce()),
        task: read_task(from.get_task()?),
        attempt: AttemptNumber(from.get_attempt()),
    })
}

/// Writes fences into a list of as many.
pub fn write_list(fences: &[Fence], mut to: capnp::struct_list::Builder<'_, fence::Owned>) {
    for (n, fence) in (0..).zip(fences) {
        write(*fence, to.reborrow().get(n));
    }
}

/// Reads a list of fences.
pub fn read_list(from: capnp::struct_list::Reader<'_, fence::Owned>) -> Result<Vec<Fence>, WireError> {
    text::check_len(from.len(), "the list of attempts", FENCES_MAX)?;
    from.iter().map(read).collect()
}

/// Writes ranges into a list of as many.
pub fn write_ranges(ranges: &[(u32, u32)], mut to: capnp::struct_list::Builder<'_, range::Owned>) {
    for (n, (first, last)) in (0..).zip(ranges) {
        let mut range = to.reborrow().get(n);
        range.set_first(*first);
        range.set_last(*last);
    }
}

/// Reads a list of ranges; in any order, at most `max`.
pub fn read_ranges(
    from: capnp::struct_list::Reader<'_, range::Owned>,
    max: usize,
) -> Result<Vec<(u32, u32)>, WireError> {
    text::check_len(from.len(), "the list of ranges", max)?;
    Ok(from.iter().map(|range| (range.get_first(), range.get_last())).collect())
}
