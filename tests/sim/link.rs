//! A link between an agent and the pool: in order within each direction, late by chance, and able to break at any time
//! with the loss of all that is on its way.

use std::collections::VecDeque;

use clusterctl::core::id::ConnectionId;
use clusterctl::core::time::Timestamp;

use crate::machine::MachineId;
use crate::message::{Down, Up};

/// Names a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Agent,
    Pool,
}

/// A link that was dialled.
#[derive(Debug)]
pub struct Link {
    pub machine: MachineId,
    /// Of the pool process that it leads to.
    pub life: u64,
    pub connection: ConnectionId,
    pub up: Direction<Up>,
    pub down: Direction<Down>,
    /// Nothing arrives before; what was sent meanwhile does then.
    pub held_until: Timestamp,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Direction<M> {
    on_the_way: VecDeque<M>,
    last_arrival: Timestamp,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Whatever is sent is lost.
    Cut,
}

impl Link {
    pub fn new(machine: MachineId, life: u64, connection: ConnectionId) -> Self {
        Self {
            machine,
            life,
            connection,
            up: Direction::new(),
            down: Direction::new(),
            held_until: Timestamp(0),
        }
    }

    /// Nothing arrives at either end any more.
    pub fn cut(&mut self) {
        self.up.cut();
        self.down.cut();
    }
}

impl<M> Direction<M> {
    fn new() -> Self {
        Self { on_the_way: VecDeque::new(), last_arrival: Timestamp(0), state: State::Open }
    }

    /// Sends a message that would arrive then; answers when it will, which is not before those sent earlier. `None` if
    /// it is lost.
    pub fn send(&mut self, message: M, arrival: Timestamp) -> Option<Timestamp> {
        if self.state == State::Cut {
            return None;
        }
        self.on_the_way.push_back(message);
        self.last_arrival = self.last_arrival.max(arrival);
        Some(self.last_arrival)
    }

    /// The message that arrives.
    pub fn arrive(&mut self) -> Option<M> {
        self.on_the_way.pop_front()
    }

    /// Whatever is on its way is lost, and whatever will be sent.
    pub fn cut(&mut self) {
        self.on_the_way.clear();
        self.state = State::Cut;
    }

    pub fn is_cut(&self) -> bool {
        self.state == State::Cut
    }
}
