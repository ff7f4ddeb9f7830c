//! P3 and P4: how often a script is started, and that two attempts of a task never run at the same time. Also D2: an
//! attempt starts only when its assignment is durable.

use std::collections::{BTreeMap, BTreeSet};

use clusterctl::core::id::{AttemptNumber, Fence, JobId, TaskId};
use clusterctl::core::record::Record;

use super::{Check, Findings, Happened, Promise};

#[derive(Debug, Default)]
pub(super) struct Starts {
    retries: BTreeMap<JobId, u32>,
    assigned: BTreeSet<(TaskId, AttemptNumber)>,
    started: BTreeMap<TaskId, Vec<Fence>>,
    running: BTreeMap<TaskId, BTreeSet<Fence>>,
}

impl Check for Starts {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Recorded(Record::Submitted(submission)) = event {
            self.retries.insert(submission.job, submission.spec.retries);
        } else if let Happened::Recorded(Record::Assigned(assignment)) = event {
            let task = |index| TaskId { job: assignment.job, index };
            self.assigned.extend(assignment.tasks.iter().map(|&(index, attempt)| (task(index), attempt)));
        } else if let Happened::Started(fence) = event {
            self.start(*fence, found);
        } else if let Happened::Ended { fence, .. } = event {
            self.running.entry(fence.task).or_default().remove(fence);
        }
    }
}

impl Starts {
    fn start(&mut self, fence: Fence, found: &mut Findings) {
        let task = fence.task;
        let retries = self.retries.get(&task.job).copied().unwrap_or(0);
        let promise = if retries == 0 { Promise::P3 } else { Promise::P4 };
        if !self.assigned.contains(&(task, fence.attempt)) {
            found.broken(Promise::P1, format!("{fence} starts and its assignment is not durable"));
        }
        let before = self.started.entry(task).or_default();
        if before.contains(&fence) {
            found.broken(Promise::P3, format!("{fence} starts a second time"));
        } else if retries == 0 && !before.is_empty() {
            found.broken(promise, format!("{fence} starts, and so did {} before", before[0]));
        } else if before.len() as u64 > u64::from(retries) {
            found.broken(
                promise,
                format!("{fence} is start {} of a task with {retries} retries", before.len() + 1),
            );
        }
        before.push(fence);
        let running = self.running.entry(task).or_default();
        if let Some(other) = running.iter().find(|other| **other != fence)
            && retries > 0
        {
            found.broken(promise, format!("{fence} starts while {other} runs"));
        }
        running.insert(fence);
    }
}
