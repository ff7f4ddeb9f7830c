//! P10: a follower is told of every task that it ends, once, after whatever else happened to it, and the job's end last.

use std::collections::BTreeMap;

use clusterctl::core::id::JobId;
use clusterctl::core::range::RangeSet;
use clusterctl::core::view::TaskEventKind;

use super::{Check, Findings, Follow, Happened, Observer, Promise};

#[derive(Debug, Default)]
pub(super) struct Follows(BTreeMap<(Observer, JobId), Following>);

/// What one follower has been told since it began.
#[derive(Debug, Default)]
struct Following {
    all: RangeSet,
    over: RangeSet,
    attempts: BTreeMap<u32, u32>,
    /// The attempt of each task that it was told to have started.
    started: BTreeMap<u32, u32>,
    ended: bool,
}

impl Check for Follows {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        let Happened::Followed { observer, job, what } = event else { return };
        let following = self.0.entry((*observer, *job)).or_default();
        let mut broken = |text: String| {
            found.broken(Promise::P10, format!("{observer:?} follows job {job} and is told {text}"));
        };
        if let Follow::Begins { all, over, active, .. } = what {
            if !following.over.difference(over).is_empty() {
                broken("that less is over than it was told before".to_owned());
            }
            let attempts = active.iter().copied().collect();
            *following = Following { all: all.clone(), over: over.clone(), attempts, ..Following::default() };
            return;
        }
        if following.ended {
            broken(format!("more after the job's end: {what:?}"));
        }
        following.tell(what, &mut broken);
    }
}

impl Following {
    fn tell(&mut self, what: &Follow, broken: &mut dyn FnMut(String)) {
        match what {
            Follow::Begins { .. } => {}
            Follow::Task(event) => {
                if self.over.contains(event.task) {
                    broken(format!("more of task {} after its end: {:?}", event.task, event.kind));
                }
                let last = self.attempts.entry(event.task).or_insert(0);
                if event.attempt < *last && !matches!(event.kind, TaskEventKind::Queued) {
                    broken(format!("of attempt {} of task {} after {last}", event.attempt, event.task));
                }
                *last = event.attempt.max(*last);
                if event.kind == TaskEventKind::Started
                    && self.started.insert(event.task, event.attempt) == Some(event.attempt)
                {
                    broken(format!("twice that attempt {} of task {} starts", event.attempt, event.task));
                }
            }
            Follow::Ended { index, .. } => self.end(*index, broken),
            Follow::Cancelled(ranges) => {
                for index in ranges.iter().flat_map(|&(first, last)| first..=last) {
                    self.end(index, broken);
                }
            }
            Follow::Over(counts) => {
                self.ended = true;
                let missing = self.all.difference(&self.over);
                if !missing.is_empty() {
                    let missing: Vec<u32> = missing.iter().take(5).collect();
                    broken(format!("that all is over, and was not told how {missing:?} ended"));
                }
                if counts.over() != self.all.len() {
                    broken(format!("that all {} are over with {counts:?}", self.all.len()));
                }
            }
        }
    }

    fn end(&mut self, index: u32, broken: &mut dyn FnMut(String)) {
        if self.over.contains(index) {
            broken(format!("twice that task {index} has ended"));
        }
        if !self.all.contains(index) {
            broken(format!("of task {index}, which there is not"));
        }
        self.over.insert(index);
    }
}
