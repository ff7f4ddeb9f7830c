//! Results as JSON: field names are stable, `"v":1`, times are RFC 3339 in UTC, durations seconds, sizes bytes, and bytes
//! that are no UTF-8 stand as `{"b64":…}`.

use serde_json::{Value, json};

use super::render::{outcome_word, rfc3339};
use crate::core::id::JobId;
use crate::core::outcome::Outcome;
use crate::core::output::{Chunk, Stream};
use crate::core::refusal::Refusal;
use crate::core::view::{JobInfo, TaskEnd, TaskEvent, TaskEventKind, TaskInfo, TaskState};

/// A job as JSON, with stable field names.
pub fn job(info: &JobInfo) -> Value {
    let task = info.task.as_ref();
    let end = task.and_then(|task| task.end.as_ref());
    let (exit, signal) = exit_and_signal(end);
    let counts: serde_json::Map<String, Value> = TaskState::ALL
        .iter()
        .map(|&state| (state.as_str().to_owned(), info.counts.of(state).into()))
        .collect();
    json!({
        "v": 1,
        "id": info.id.0,
        "owner": info.owner,
        "name": info.spec.name.as_ref().map(|name| name.as_str()),
        "state": info.counts.state().as_str(),
        "outcome": end.map(|end| outcome_word(&end.outcome)),
        "reason": end.and_then(|end| reason(&end.outcome)),
        "exit": exit,
        "signal": signal,
        "worker": task.and_then(|task| task.worker.clone()),
        "attempt": task.map(|task| task.attempt),
        "queued_s": info.queued.map(|queued| queued.as_secs_f64()),
        "run_s": end.map(|end| end.usage.run.as_secs_f64()),
        "cpu_s": end.map(|end| (end.usage.cpu_user + end.usage.cpu_system).as_secs_f64()),
        "peak_memory_bytes": end.map(|end| end.usage.peak_memory_bytes),
        "submitted": rfc3339(info.submitted),
        "started": info.started.map(rfc3339),
        "ended": info.ended.map(rfc3339),
        "where": Some(info.spec.constraint.to_string()).filter(|text| !text.is_empty()),
        "priority": info.spec.priority,
        "array": info.spec.array.as_ref().map(ToString::to_string),
        "tasks": info.spec.array.as_ref().map(|_| counts),
        "script": bytes(&info.spec.script),
    })
}

/// A task.
pub fn task(job: JobId, info: &TaskInfo) -> Value {
    let (exit, signal) = exit_and_signal(info.end.as_ref());
    json!({
        "v": 1,
        "id": job.0,
        "task": info.index,
        "state": info.state.as_str(),
        "outcome": info.end.as_ref().map(|end| outcome_word(&end.outcome)),
        "reason": info.end.as_ref().and_then(|end| reason(&end.outcome)),
        "exit": exit,
        "signal": signal,
        "worker": info.worker,
        "attempt": info.attempt,
        "started": info.started.map(rfc3339),
        "ended": info.ended.map(rfc3339),
        "run_s": info.end.as_ref().map(|end| end.usage.run.as_secs_f64()),
        "cancelling": info.cancelling,
    })
}

/// Bytes of a task, as one line of a stream.
pub fn chunk(task: u32, attempt: u32, chunk: &Chunk) -> Value {
    let stream = match chunk.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    json!({
        "v": 1, "event": "output", "task": task, "attempt": attempt, "stream": stream, "offset": chunk.offset,
        "data": bytes(&chunk.bytes),
    })
}

/// Something that happened to a task, as one line of a stream.
pub fn event(event: &TaskEvent) -> Value {
    let (word, more) = match &event.kind {
        TaskEventKind::Queued => ("queued", json!({})),
        TaskEventKind::Started => ("started", json!({})),
        TaskEventKind::Unknown(elsewhere) => {
            ("unknown", json!({ "elsewhere_in_s": elsewhere.map(|after| after.as_secs_f64()) }))
        }
        TaskEventKind::Returned => ("returned", json!({})),
        TaskEventKind::AttemptLost(reason) => ("attempt-lost", json!({ "reason": reason })),
        TaskEventKind::Cancelling(how) => ("cancelling", json!({ "how": how.to_string() })),
        TaskEventKind::Ended(end) => {
            let (exit, signal) = exit_and_signal(Some(end));
            let outcome = outcome_word(&end.outcome);
            let reason = reason(&end.outcome);
            ("ended", json!({ "outcome": outcome, "reason": reason, "exit": exit, "signal": signal }))
        }
    };
    let mut line = json!({ "v": 1, "event": word, "task": event.task, "attempt": event.attempt, "worker": event.worker });
    merge(&mut line, more);
    line
}

/// Bytes of a task that are no longer kept, as one line of a stream.
pub fn gone(task: u32, attempt: u32, position: u64, refused: &Refusal) -> Value {
    json!({
        "v": 1, "event": "gone", "task": task, "attempt": attempt, "kept_from": position, "code": refused.code,
    })
}

/// The end of a stream about a job.
pub fn done(info: &JobInfo) -> Value {
    json!({ "v": 1, "event": "done", "job": job(info) })
}

fn exit_and_signal(end: Option<&TaskEnd>) -> (Option<u8>, Option<u8>) {
    match end.map(|end| &end.outcome) {
        Some(Outcome::Exited(code)) => (Some(*code), None),
        Some(Outcome::Signaled(signal)) => (None, Some(*signal)),
        Some(
            Outcome::TimedOut
            | Outcome::Cancelled(_)
            | Outcome::Lost(_)
            | Outcome::SpawnFailed(_)
            | Outcome::Quarantined,
        )
        | None => (None, None),
    }
}

/// Why it was lost, or could not be started.
fn reason(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Lost(reason) | Outcome::SpawnFailed(reason) => Some(reason),
        Outcome::Exited(_)
        | Outcome::Signaled(_)
        | Outcome::TimedOut
        | Outcome::Cancelled(_)
        | Outcome::Quarantined => None,
    }
}

fn merge(line: &mut Value, more: Value) {
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
}

/// Text, or bytes that are none as base64.
pub fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "b64": data_encoding::BASE64.encode(bytes) }),
    }
}
