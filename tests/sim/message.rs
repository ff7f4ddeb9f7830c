//! What travels over a link: the calls and answers of the worker's schema, as values.

use std::time::Duration;

use clusterctl::core::id::Fence;
use clusterctl::core::membership::{Carried, Facts, Registered, Report, StartOrder};
use clusterctl::core::outcome::Cancel;
use clusterctl::core::output::Chunk;
use clusterctl::core::pool::RegisterError;

/// Names a call, so that its answer finds who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// From an agent to the pool.
#[derive(Clone, Debug)]
pub enum Up {
    Register(Facts, Vec<Carried>),
    Write(CallId, Vec<(Fence, Vec<Chunk>)>),
    Report(CallId, Vec<Report>),
    Beat(CallId),
    Drain(CallId),
    Leave(CallId),
    /// The agent has closed its end; nothing follows.
    Closed,
}

/// From the pool to an agent.
#[derive(Clone, Debug)]
pub enum Down {
    Registered(Result<Registered, RegisterError>),
    Durable(CallId),
    Forget(CallId, Vec<Fence>),
    Lease(CallId, Duration),
    Done(CallId),
    /// A call failed: the link is of no more use.
    Failed,
    Start(StartOrder),
    Cancel(Vec<(Fence, Cancel)>),
    TakeBack(Vec<Fence>),
    Leaving(Leaving, Duration),
    /// The pool has closed its end; nothing follows.
    Closed,
}

/// Why a pool goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It will be back.
    Restart,
    /// It knows this worker no more.
    Removed,
}
