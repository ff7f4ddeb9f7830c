//! Workers and their executors, as records and those tell who see machines and links: where each attempt was given to,
//! which executors are gone, and how long a worker was not heard.
//!
//! The checks compare with this what the pool says of an attempt's worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clusterctl::core::id::{AttemptNumber, Fence, Incarnation, TaskId, WorkerId};
use clusterctl::core::record::{Record, Validity, WorkerState};
use clusterctl::core::time::Timestamp;
use clusterctl::core::timing::Timing;

use super::Happened;

/// A worker that was not heard for less than this was not silent for any of it.
const PAUSE: Duration = Duration::from_secs(10);

/// What is recorded, or shown, was decided about at most so long before.
pub(super) const DECIDED_BEFORE: Duration = Duration::from_secs(10);

/// The reason of what was lost with an executor that is proven to have ended.
pub(super) const EXECUTOR_ENDED: &str = "the worker's executor ended";
/// How the reason ends of what was lost at a worker that is away.
const WENT_SILENT: &str = " went silent and did not come back";

#[derive(Debug, Default)]
pub(super) struct Workers {
    pub(super) timing: Option<Timing>,
    places: BTreeMap<(TaskId, AttemptNumber), Place>,
    states: BTreeMap<WorkerId, WorkerState>,
    /// The executors that a worker has registered with, in order.
    executors: BTreeMap<WorkerId, Vec<Incarnation>>,
    /// When an executor first asked to be registered, and the boot that it ran in.
    came: BTreeMap<Incarnation, (Timestamp, String)>,
    gone: BTreeSet<Incarnation>,
    heard: BTreeMap<WorkerId, Heard>,
}

/// Where an attempt was given to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) worker: WorkerId,
    pub(super) executor: Incarnation,
    pub(super) at: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Timestamp,
    /// The last pause before that was long enough to count, and when it ended.
    pause: (Duration, Timestamp),
}

impl Workers {
    pub(super) fn see(&mut self, now: Timestamp, event: &Happened) {
        if let Happened::GoesBy(timing) = event {
            self.timing = Some(*timing);
        } else if let Happened::Registers { executor, boot_id } = event {
            self.came.entry(*executor).or_insert_with(|| (now, boot_id.clone()));
        } else if let Happened::ExecutorGone(executor) = event {
            self.gone.insert(*executor);
        } else if let Happened::Heard(worker) = event {
            let first = Heard { last: now, pause: (Duration::ZERO, now) };
            let heard = self.heard.entry(*worker).or_insert(first);
            let pause = now.since(std::mem::replace(&mut heard.last, now));
            if pause >= PAUSE {
                heard.pause = (pause, now);
            }
        } else if let Happened::Recorded(Record::Worker(state)) = event {
            let executors = self.executors.entry(state.id).or_default();
            executors.extend(state.facts.as_ref().map(|facts| facts.incarnation));
            self.states.insert(state.id, state.clone());
        } else if let Happened::Recorded(Record::Assigned(to)) = event {
            let place = Place { worker: to.worker, executor: to.incarnation, at: now };
            for &(index, attempt) in &to.tasks {
                self.places.insert((TaskId { job: to.job, index }, attempt), place);
            }
        }
    }

    /// Where an attempt was given to.
    pub(super) fn place(&self, fence: Fence) -> Option<Place> {
        self.places.get(&(fence.task, fence.attempt)).copied()
    }

    pub(super) fn was_removed(&self, worker: WorkerId) -> bool {
        self.states.get(&worker).is_some_and(|state| state.validity == Validity::Revoked)
    }

    /// Whether anybody tells of executors.
    pub(super) fn tells(&self) -> bool {
        !self.came.is_empty()
    }

    pub(super) fn is_gone(&self, executor: Incarnation) -> bool {
        self.gone.contains(&executor)
    }

    /// The boot that an executor ran in.
    pub(super) fn boot(&self, executor: Incarnation) -> Option<&str> {
        self.came.get(&executor).map(|(_, boot_id)| boot_id.as_str())
    }

    /// The executor that a worker last registered with.
    pub(super) fn present(&self, worker: WorkerId) -> Option<Incarnation> {
        self.executors.get(&worker)?.last().copied()
    }

    /// When the first executor asked to be registered that took the place of an attempt's, if one has.
    pub(super) fn replaced(&self, place: Place) -> Option<Timestamp> {
        let executors = self.executors.get(&place.worker)?.iter().rev();
        let later = executors.take_while(|executor| **executor != place.executor);
        later.filter_map(|executor| self.came.get(executor).map(|(at, _)| *at)).min()
    }

    /// For how long a worker has not been heard, or had not when that was decided which shows now; if anybody tells.
    pub(super) fn quiet(&self, now: Timestamp, worker: WorkerId) -> Option<Duration> {
        let heard = self.heard.get(&worker)?;
        let (pause, ended) = heard.pause;
        let before = if now.since(ended) < DECIDED_BEFORE { pause } else { Duration::ZERO };
        Some(before.max(now.since(heard.last)))
    }

    /// For how long, at most, an attempt's worker was not heard when it was lost; if nobody tells, how long ago it was
    /// given there.
    pub(super) fn quiet_at_most(&self, now: Timestamp, place: Place) -> Duration {
        self.quiet(now, place.worker).unwrap_or_else(|| now.since(place.at)) + DECIDED_BEFORE
    }
}

/// Whether a reason says that a worker was lost because it was not heard any more.
pub(super) fn went_silent(reason: &str) -> bool {
    reason.starts_with("worker ") && reason.ends_with(WENT_SILENT)
}
