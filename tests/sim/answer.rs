//! Answers of the pool, kept as values until the turn that they belong to is durable.

use std::time::Duration;

use clusterctl::core::id::{ConnectionId, Fence, WorkerId};
use clusterctl::core::membership::Registered;
use clusterctl::core::pool::RegisterError;

use crate::client::{ClientId, ExchangeId};
use crate::client_doors::Reply;
use crate::machine::{Enrolment, MachineId};
use crate::message::{CallId, Down};
use crate::world::World;

/// What waits for its turn's commit.
pub enum Answer {
    /// Nobody waits.
    Nothing,
    Enrolled(MachineId),
    Registered(WorkerId, ConnectionId, Result<Registered, RegisterError>),
    /// The registration has ended, if there is none.
    Lease(ConnectionId, CallId, Option<Duration>),
    Forget(ConnectionId, CallId, Vec<Fence>),
    Done(ConnectionId, CallId),
    Client(ClientId, ExchangeId, Box<Reply>),
}

impl Answer {
    /// An answer to a client's request.
    pub fn client(client: ClientId, exchange: ExchangeId, reply: Reply) -> Self {
        Self::Client(client, exchange, Box::new(reply))
    }
}

impl World {
    /// Gives answers, in the order in which they were decided.
    pub fn give(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::Nothing => {}
                Answer::Enrolled(machine) => self.machine(machine).enrolment = Enrolment::Done,
                Answer::Registered(worker, connection, told) => {
                    self.give_registered(worker, connection, told);
                }
                Answer::Lease(connection, call, Some(lease)) => {
                    self.give_down(connection, Down::Lease(call, lease));
                }
                Answer::Lease(connection, _, None) => self.give_down(connection, Down::Failed),
                Answer::Forget(connection, call, fences) => {
                    self.give_forget(connection, call, fences);
                }
                Answer::Done(connection, call) => self.give_down(connection, Down::Done(call)),
                Answer::Client(client, exchange, reply) => self.give_client(client, exchange, *reply),
            }
        }
    }
}
