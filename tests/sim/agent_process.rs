//! An agent's process: the real `core::agent::Agent`, between a link and an executor, as `worker::driver` runs it.

use std::collections::{BTreeMap, VecDeque};

use clusterctl::core::agent::Agent;
use clusterctl::core::attempt::{FromExecutor, Held};
use clusterctl::core::id::{Fence, Incarnation};
use clusterctl::core::time::Timestamp;

use crate::link::LinkId;
use crate::message::CallId;

/// A running agent.
#[derive(Debug)]
pub struct AgentProcess {
    pub agent: Agent,
    pub wanted: Wanted,
    pub phase: Phase,
    /// Grows with each change of phase, so that what was planned for an earlier one is passed over.
    pub generation: u64,
    /// Dials that failed since the last registration.
    pub failures: u32,
    /// What the executor said and nobody has heeded.
    pub inbox: VecDeque<FromExecutor>,
    pub line: Line,
    /// Messages that came down the link, and how many had come at the last heartbeat.
    heard: u64,
    heard_before: u64,
    calls: BTreeMap<CallId, Call>,
}

/// What somebody wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Work,
    /// Nothing new.
    Drain,
}

/// Heartbeats without an answer, and without any other byte, by which a link is given up.
const UNANSWERED_MAX: usize = 2;

/// How far an agent is with its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Until the next dial.
    Waiting,
    Registering {
        link: LinkId,
        dial: Dial,
    },
    /// Since a time of the machine's clock.
    Serving {
        link: LinkId,
        since: Timestamp,
    },
    /// Nothing is left; it has said goodbye, and listens to nobody else.
    Leaving {
        link: LinkId,
    },
    /// The pool does not know it any more: it ends what runs, and itself.
    Forsaken,
}

/// What a dial was begun with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// By the machine's clock; also its number.
    pub began: Timestamp,
    /// The executor that it spoke of.
    pub incarnation: Incarnation,
    /// Those before it whose journals it carried.
    pub journals: Vec<Incarnation>,
}

/// Whether the line to the executor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Held,
    Broken,
}

/// A call that was not answered yet.
#[derive(Clone, Debug)]
pub enum Call {
    Write(Vec<(Fence, u64)>),
    Report,
    /// Sent at this time of the machine's clock.
    Beat(Timestamp),
    Drain,
    Leave,
}

impl AgentProcess {
    /// An agent that has just met its executor.
    pub fn new(incarnation: Incarnation, held: Vec<Held>, slots: u32, generation: u64) -> Self {
        Self {
            agent: Agent::new(incarnation, held, slots),
            wanted: Wanted::Work,
            phase: Phase::Waiting,
            generation,
            failures: 0,
            inbox: VecDeque::new(),
            line: Line::Held,
            heard: 0,
            heard_before: 0,
            calls: BTreeMap::new(),
        }
    }

    /// The executor was met anew, or another one.
    pub fn meet(&mut self, incarnation: Incarnation, held: Vec<Held>) {
        self.inbox.clear();
        self.line = Line::Held;
        self.agent.handle_welcome(incarnation, held);
    }

    /// Changes the phase, with what was planned for the one before.
    pub fn enter(&mut self, phase: Phase) {
        self.generation += 1;
        self.calls.clear();
        self.phase = phase;
    }

    /// The link that it has.
    pub fn link(&self) -> Option<LinkId> {
        match self.phase {
            Phase::Waiting | Phase::Forsaken => None,
            Phase::Registering { link, .. } | Phase::Serving { link, .. } | Phase::Leaving { link } => {
                Some(link)
            }
        }
    }

    /// Remembers a call until it is answered.
    pub fn called(&mut self, id: CallId, call: Call) {
        self.calls.insert(id, call);
    }

    /// The call that is answered.
    pub fn answered(&mut self, id: CallId) -> Option<Call> {
        self.calls.remove(&id)
    }

    /// Something came down the link.
    pub fn hear(&mut self) {
        self.heard += 1;
    }

    /// Whether the pool is not heard any more, as it is looked at with each heartbeat.
    pub fn hears_nothing(&mut self) -> bool {
        let silent = std::mem::replace(&mut self.heard_before, self.heard) == self.heard;
        let unanswered = self.calls.values().filter(|call| matches!(call, Call::Beat(_))).count();
        silent && unanswered >= UNANSWERED_MAX
    }
}
