//! P14: what was given to a worker after it was told to take nothing new does not start there.

use std::collections::{BTreeMap, BTreeSet};

use clusterctl::core::id::{AttemptNumber, Fence, Incarnation, TaskId};
use clusterctl::core::record::Record;

use super::{Check, Findings, Happened, Promise};

#[derive(Debug, Default)]
pub(super) struct Drains {
    draining: BTreeSet<Incarnation>,
    /// Where an attempt was given to that came too late.
    late: BTreeMap<(TaskId, AttemptNumber), Incarnation>,
}

impl Check for Drains {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Drains(executor) = event {
            self.draining.insert(*executor);
        } else if let Happened::Works(executor) = event {
            self.draining.remove(executor);
            self.late.retain(|_, at| at != executor);
        } else if let Happened::Recorded(Record::Assigned(assignment)) = event
            && self.draining.contains(&assignment.incarnation)
        {
            for &(index, attempt) in &assignment.tasks {
                let task = TaskId { job: assignment.job, index };
                self.late.insert((task, attempt), assignment.incarnation);
            }
        } else if let Happened::Started(Fence { task, attempt, .. }) = event
            && let Some(executor) = self.late.get(&(*task, *attempt))
        {
            found.broken(
                Promise::P14,
                format!("{task}#{attempt} starts at executor {executor}, which drains"),
            );
        }
    }
}
