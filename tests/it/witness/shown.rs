//! What the program shows as JSON, read as what it stands for.

use clusterctl::core::id::TaskId;
use clusterctl::core::outcome::Outcome;
use clusterctl::core::output::{Chunk, Stream};
use clusterctl::core::view::{Counts, TaskState};
use serde_json::Value;

use crate::history::TaskSight;

/// How many tasks of a job are in which state.
pub fn counts(job: &Value) -> Counts {
    let mut counts = Counts::default();
    for state in TaskState::ALL {
        *counts.of_mut(state) = match job["tasks"].as_object() {
            Some(tasks) => tasks[state.as_str()].as_u64().expect("a count"),
            None => u64::from(job["state"] == state.as_str()),
        };
    }
    counts
}

/// How something ended, of what a load may end like.
pub fn outcome(ended: &Value) -> Option<Outcome> {
    let number = |key: &str| ended[key].as_u64().map(|number| u8::try_from(number).unwrap());
    match (number("exit"), number("signal"), ended["outcome"].as_str()) {
        (Some(code), ..) => Some(Outcome::Exited(code)),
        (_, Some(signal), _) => Some(Outcome::Signaled(signal)),
        (.., Some("lost")) => Some(Outcome::Lost(ended["reason"].as_str().expect("a reason").to_owned())),
        (.., Some("quarantined")) => Some(Outcome::Quarantined),
        _ => None,
    }
}

/// A line of output: whose task's, which attempt's, and the bytes.
pub fn output(line: &Value) -> Option<(u32, u32, Chunk)> {
    if line["event"] != "output" {
        return None;
    }
    let number = |key: &str| line[key].as_u64().expect("a number");
    let small = |key| u32::try_from(number(key)).unwrap();
    let stream = if line["stream"] == "stderr" { Stream::Stderr } else { Stream::Stdout };
    let bytes = line["data"].as_str().expect("text").as_bytes().to_vec();
    // Where it lies among both streams is not told.
    Some((small("task"), small("attempt"), Chunk { position: 0, stream, offset: number("offset"), bytes }))
}

/// A task.
pub fn sight(task: TaskId, shown: &Value) -> TaskSight {
    let state = TaskState::ALL.into_iter().find(|state| shown["state"] == state.as_str());
    TaskSight {
        task,
        attempt: u32::try_from(shown["attempt"].as_u64().unwrap_or(0)).unwrap(),
        state: state.expect("a state"),
        outcome: outcome(shown),
    }
}
