//! The refusals of requests about jobs, in the words that people read.

use std::path::Path;

use crate::core::id::JobId;
use crate::core::job::BadSpec;
use crate::core::pool::{CancelError, SubmitError};
use crate::core::refusal::Refusal;
use crate::core::view::{JobInfo, TaskState};
use crate::process::clock;
use crate::wire::WireError;

/// A submit that the pool does not take.
pub(super) fn submit_refusal(error: SubmitError, state: &Path) -> Refusal {
    match error {
        SubmitError::RequestReused(_) => Refusal::new("request-reused", error),
        SubmitError::DiskLow { .. } => Refusal::new("disk-low", error)
            .fact("place", state.display())
            .hint("make room there, on the pool's machine: it takes jobs again by itself"),
        SubmitError::QueueFull { .. } | SubmitError::PoolFull(_) => Refusal::new("queue-full", error),
    }
}

/// The refusal of an id that does not exist, or that the caller may not see.
pub(super) fn no_such_job(id: JobId, newest: JobId) -> Refusal {
    let newest = if newest.0 == 0 { "there is none yet".to_owned() } else { format!("newest is {newest}") };
    Refusal::new("no-such-job", format!("no job {id} ({newest})")).hint("clusterctl jobs --all")
}

/// What a bad message is answered with, where a person may have written what is bad in it.
pub(super) fn bad_request(error: &WireError) -> Refusal {
    let code = match error {
        WireError::Constraint(_) => "bad-constraint",
        WireError::Spec(BadSpec::TooBig(_)) => "script-too-big",
        _ => "bad-request",
    };
    Refusal::new(code, error)
}

/// What a cancel that could do nothing is answered with.
pub(super) fn cancel_refusal(
    error: CancelError,
    id: JobId,
    info: Option<&JobInfo>,
    newest: JobId,
) -> Refusal {
    match (error, info) {
        (CancelError::AlreadyOver, Some(info)) => over_refusal(info),
        (_, Some(info)) if info.ended.is_some() => over_refusal(info),
        _ => no_such_job(id, newest),
    }
}

fn over_refusal(info: &JobInfo) -> Refusal {
    let id = info.id;
    let when = info.ended.map_or(String::new(), |ended| format!(" {}", ended.ago(clock::wall())));
    let text = match info.counts.state() {
        TaskState::Done => format!("already ended{when}"),
        TaskState::Failed => format!("already failed{when}"),
        TaskState::Cancelled => format!("was already cancelled{when}"),
        other => format!("is already {}", other.as_str()),
    };
    Refusal::new("not-running", format!("job {id} {text}, nothing to cancel"))
        .hint(format!("clusterctl logs {id}"))
}
