//! A worker as the pool knows it: what it said of itself, whether it is heard, and what it holds.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::id::{ConnectionId, TaskId};
use crate::core::label::{self, Labels};
use crate::core::membership::{Sharing, Tenure};
use crate::core::record::{Validity, WorkerState};
use crate::core::time::Timestamp;
use crate::core::view;

/// A worker. What is not in `state` is learnt anew after each start of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// What is remembered of it.
    pub state: WorkerState,
    /// Its live registration.
    pub(super) connection: Option<ConnectionId>,
    /// When a byte last came from it.
    pub(super) heard: Option<Timestamp>,
    /// When every lease that it was ever granted is over, with the grace: it counts them from before it was answered.
    pub(super) leases_over: Option<Timestamp>,
    pub(super) hearing: Hearing,
    pub(super) intake: Intake,
    /// Where it has no room for more, as it says itself.
    pub(super) full: Option<String>,
    /// When what it has is ended, if it is drained until then.
    pub(super) evicts_at: Option<Timestamp>,
    pub(super) only_owner: Option<String>,
    /// Whether its jobs can read the state of the pool.
    pub(super) sharing: Sharing,
    /// When to look again for what waits there for too long.
    pub(super) recalls_at: Option<Timestamp>,
    /// When to look whether it is still gone, if it is to be forgotten then.
    pub(super) forgets_at: Option<Timestamp>,
    /// Tasks that it holds.
    pub(super) active: BTreeSet<TaskId>,
}

/// Whether a worker is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Within the last 15 s, or it has that long since the pool's start.
    Heard,
    /// Not for longer than that.
    Silent,
    /// It left on purpose, or has not come since the pool's start and holds nothing.
    Away,
}

/// Whether a worker takes tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// It does.
    Open,
    /// It finishes what it has.
    Draining,
}

impl Worker {
    pub(super) fn new(state: WorkerState) -> Self {
        Self {
            state,
            connection: None,
            heard: None,
            leases_over: None,
            hearing: Hearing::Away,
            intake: Intake::Open,
            full: None,
            evicts_at: None,
            only_owner: None,
            sharing: Sharing::Unknown,
            recalls_at: None,
            forgets_at: None,
            active: BTreeSet::new(),
        }
    }

    /// It may count on leases until then. One that it was granted before may last longer.
    pub(super) fn grant(&mut self, over: Timestamp) {
        self.leases_over = self.leases_over.max(Some(over));
    }

    /// Whether it may be given tasks.
    pub(super) fn is_open(&self) -> bool {
        self.connection.is_some()
            && self.hearing == Hearing::Heard
            && self.intake == Intake::Open
            && self.full.is_none()
            && self.state.drain.is_none()
            && self.state.validity == Validity::Standing
    }

    /// What it can run at a time.
    pub fn slots(&self) -> u32 {
        self.state.facts.as_ref().map_or(0, |facts| facts.slots)
    }

    /// Tasks that it has: beyond its slots, those that wait there.
    pub fn used(&self) -> u32 {
        u32::try_from(self.active.len()).unwrap_or(u32::MAX)
    }

    /// Whether it is remembered when it has gone.
    pub(super) fn tenure(&self) -> Tenure {
        self.state.facts.as_ref().map_or(Tenure::Lasting, |facts| facts.tenure)
    }

    /// Its own labels, what its token bound to it over them, and its name.
    pub fn labels(&self) -> Labels {
        let mut labels = self.state.facts.as_ref().map(|facts| facts.labels.clone()).unwrap_or_default();
        labels.extend(self.state.bound.iter().map(|(key, value)| (key.clone(), value.clone())));
        labels.insert(label::NAME.to_owned(), self.state.name.clone());
        labels
    }

    /// Its state as people see it.
    pub fn shown_state(&self) -> view::WorkerState {
        let takes = self.intake == Intake::Open && self.state.drain.is_none();
        match (self.hearing, self.connection) {
            (Hearing::Silent, _) => view::WorkerState::Silent,
            (Hearing::Away, _) | (Hearing::Heard, None) => view::WorkerState::Away,
            (Hearing::Heard, Some(_)) if takes && self.full.is_some() => view::WorkerState::Full,
            (Hearing::Heard, Some(_)) if takes => view::WorkerState::Ready,
            (Hearing::Heard, Some(_)) if self.active.is_empty() => view::WorkerState::Drained,
            (Hearing::Heard, Some(_)) => view::WorkerState::Draining,
        }
    }

    /// All that can be shown of it.
    pub(super) fn info(&self, now: Timestamp) -> view::WorkerInfo {
        view::WorkerInfo {
            name: self.state.name.clone(),
            state: self.shown_state(),
            slots: self.slots(),
            used: self.used().min(self.slots()),
            labels: self.labels(),
            memory_bytes: self.state.facts.as_ref().map_or(0, |facts| facts.memory_bytes),
            seen: self.heard.map(|heard| now.since(heard)),
            tasks: self.active.iter().copied().take(crate::core::limits::PAGE_MAX).collect(),
            only_owner: self.only_owner.clone(),
            sharing: self.sharing,
            joined: self.state.joined,
            fingerprint: self.state.key,
            tenure: self.tenure(),
        }
    }

    /// Whether a second machine may not take its place yet.
    pub(super) fn was_heard_within(&self, now: Timestamp, duration: Duration) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) < duration)
    }
}
