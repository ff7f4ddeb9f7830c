//! Somebody who follows a job from its beginning to its end, through whatever breaks, and what they were told.

use std::path::PathBuf;
use std::process::Stdio;

use clusterctl::core::id::{JobId, TaskId};
use clusterctl::core::range::RangeSet;
use clusterctl::core::view::{TaskEvent, TaskEventKind};
use serde_json::Value;

use super::shown;
use crate::cluster::{Home, Process};
use crate::history::{Follow, Happened, Observer};

pub struct Follower {
    job: JobId,
    process: Process,
    told: PathBuf,
}

impl Follower {
    pub fn start(client: &Home, directory: &std::path::Path, job: JobId) -> Self {
        let told = directory.join(format!("followed-{job}"));
        let mut command = client.command(["logs", "-f", &job.to_string(), "--output", "ndjson"]);
        let file = std::fs::File::create(&told).unwrap();
        let process = Process::start(command.stdout(file).stderr(Stdio::null()));
        Self { job, process, told }
    }

    /// What it was told and given, now that the job is over; it ends by itself. Nothing, if it came to a closed door.
    pub fn finish(mut self, all: &RangeSet) -> Option<Vec<Happened>> {
        let (job, observer) = (self.job, Observer(1000 + self.job.0));
        let code = self.process.wait();
        let told = std::fs::read_to_string(&self.told).unwrap();
        if code == 4 && told.is_empty() {
            return None;
        }
        assert_eq!(code, 0, "whoever followed job {job}");
        let (all, over, active) = (all.clone(), RangeSet::default(), Vec::new());
        let begins = Follow::Begins { all, over, active, gives_output: true };
        let followed = |what| Happened::Followed { observer, job, what };
        let mut happened = vec![followed(begins)];
        for line in told.lines().map(|line| serde_json::from_str(line).unwrap()) {
            happened.extend(follow(job, &line).map(followed));
            happened.extend(shown::output(&line).map(|(index, attempt, chunk)| Happened::Given {
                observer,
                task: TaskId { job, index },
                attempt,
                chunk,
            }));
        }
        Some(happened)
    }
}

/// A line of what a follower is told, if it is of tasks.
fn follow(job: JobId, line: &Value) -> Option<Follow> {
    let number = |key: &str| u32::try_from(line[key].as_u64().expect("a number")).unwrap();
    let task = |kind| {
        Some(Follow::Task(TaskEvent { task: number("task"), attempt: number("attempt"), worker: None, kind }))
    };
    match line["event"].as_str().expect("a kind of event") {
        "queued" => task(TaskEventKind::Queued),
        "started" => task(TaskEventKind::Started),
        "attempt-lost" => task(TaskEventKind::AttemptLost(String::new())),
        "ended" => {
            let index = number("task");
            let outcome =
                shown::outcome(line).unwrap_or_else(|| panic!("{} has ended: {line}", TaskId { job, index }));
            Some(Follow::Ended { index, attempt: number("attempt"), outcome })
        }
        "done" => Some(Follow::Over(shown::counts(&line["job"]))),
        _ => None,
    }
}
