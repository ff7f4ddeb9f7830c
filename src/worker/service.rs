//! What a worker offers its pool: each call becomes an order, in the order in which it came.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::core::id::Fence;
use crate::core::membership::StartOrder;
use crate::core::outcome::Cancel;
use crate::core::succession::Succession;
use crate::schema::worker_capnp::{LeaveReason, worker};
use crate::wire;

/// What the pool wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Start(Vec<StartOrder>),
    Cancel(Vec<(Fence, Cancel)>),
    TakeBack(Vec<Fence>),
    /// The pool goes; the lease is extended once.
    Leaving(Leaving, Duration),
    /// It has another key, as its former ones say.
    Renewed(Vec<Succession>),
}

/// Why a pool goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    Restart,
    Idle,
    Removed,
}

/// The capability that a worker passes. The channel holds what a turn of the pool can send, and is emptied at once.
pub(super) struct WorkerService(pub(super) mpsc::UnboundedSender<Order>);

impl WorkerService {
    fn order(&self, order: Order) -> Result<(), capnp::Error> {
        self.0.send(order).map_err(|_| capnp::Error::disconnected("the worker has ended".to_owned()))
    }
}

impl worker::Server for WorkerService {
    async fn start(
        self: Rc<Self>,
        params: worker::StartParams,
        _results: worker::StartResults,
    ) -> Result<(), capnp::Error> {
        self.order(Order::Start(wire::worker::read_starts(params.get()?.get_jobs()?)?))
    }

    async fn cancel(
        self: Rc<Self>,
        params: worker::CancelParams,
        _results: worker::CancelResults,
    ) -> Result<(), capnp::Error> {
        self.order(Order::Cancel(wire::worker::read_cancels(params.get()?.get_cancels()?)?))
    }

    async fn take_back(
        self: Rc<Self>,
        params: worker::TakeBackParams,
        _results: worker::TakeBackResults,
    ) -> Result<(), capnp::Error> {
        self.order(Order::TakeBack(wire::fence::read_list(params.get()?.get_attempts()?)?))
    }

    async fn leaving(
        self: Rc<Self>,
        params: worker::LeavingParams,
        _results: worker::LeavingResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let why = match params.get_reason()? {
            LeaveReason::Restart => Leaving::Restart,
            LeaveReason::Idle => Leaving::Idle,
            LeaveReason::Removed => Leaving::Removed,
        };
        self.order(Order::Leaving(why, Duration::from_millis(params.get_lease_ms())))
    }

    async fn renewed(
        self: Rc<Self>,
        params: worker::RenewedParams,
        _results: worker::RenewedResults,
    ) -> Result<(), capnp::Error> {
        self.order(Order::Renewed(wire::succession::read_all(params.get()?.get_successions()?)?))
    }
}
