//! The one loop that changes the pool: gather → decide → commit → act.
//!
//! A turn takes what is there, without waiting for more. Deciding is the core's; the store commits on a thread of its
//! own, and the next turn gathers meanwhile. Callers are answered and effects carried out only when their own turn is
//! durable; reads wait for theirs like everybody, so nobody sees what a crash could undo.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::peers::{Identities, Peers};
use crate::core::id::Epoch;
use crate::core::limits;
use crate::core::pool::{Batch, Effect, Pool};
use crate::core::time::{Clock, Now};
use crate::store::{self, Store, StoreError};

/// Answers a caller, when its turn is durable.
type Answer = Box<dyn FnOnce() + Send>;
/// Decides, and gives back the answer that waits for the commit.
type Request = Box<dyn FnOnce(&mut Pool, Now) -> Answer + Send>;
/// A batch on its way to the store, with where the result goes.
pub(super) type Commit = (Batch, oneshot::Sender<Result<Vec<Effect>, StoreError>>);

/// Whoever wants something of the pool.
#[derive(Clone)]
pub(super) struct PoolHandle {
    requests: mpsc::Sender<Request>,
}

/// The pool has ended: no answer will come.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the pool has ended")]
pub(super) struct Ended;

impl From<Ended> for capnp::Error {
    fn from(ended: Ended) -> Self {
        capnp::Error::disconnected(ended.to_string())
    }
}

impl PoolHandle {
    /// Decides on the core's thread, and returns the answer when everything that it rests on is durable.
    pub(super) async fn update<R: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Pool, Now) -> R + Send + 'static,
    ) -> Result<R, Ended> {
        let (sender, receiver) = oneshot::channel();
        let request: Request = Box::new(move |pool, now| {
            let result = decide(pool, now);
            // Whoever asked may have gone.
            Box::new(move || drop(sender.send(result)))
        });
        self.requests.send(request).await.map_err(|_| Ended)?;
        receiver.await.map_err(|_| Ended)
    }
}

/// The loop's own state.
pub(super) struct Driver {
    pool: Pool,
    requests: mpsc::Receiver<Request>,
    /// Just received.
    arrived: Vec<Request>,
    /// Nothing was decided about them yet.
    gathered: VecDeque<Request>,
    store: mpsc::UnboundedSender<Commit>,
    peers: Peers,
    identities: Identities,
    clock: Clock,
    /// Answers of the turn that is being gathered.
    answers: Vec<Answer>,
    in_flight: Option<InFlight>,
}

struct InFlight {
    result: oneshot::Receiver<Result<Vec<Effect>, StoreError>>,
    answers: Vec<Answer>,
}

/// What happened, of all that a turn waits for.
enum Event {
    Requests,
    Committed(Result<Vec<Effect>, StoreError>),
    Time,
    /// Nobody has a handle any longer.
    Ended,
}

impl Driver {
    pub(super) fn new(
        pool: Pool,
        store: mpsc::UnboundedSender<Commit>,
        peers: Peers,
        identities: Identities,
        clock: Clock,
    ) -> (Self, PoolHandle) {
        let (sender, requests) = mpsc::channel(limits::CORE_QUEUE_MAX);
        let driver = Self {
            pool,
            requests,
            arrived: Vec::new(),
            gathered: VecDeque::new(),
            store,
            peers,
            identities,
            clock,
            answers: Vec::new(),
            in_flight: None,
        };
        (driver, PoolHandle { requests: sender })
    }

    /// Runs until nobody has a handle any longer and everything is committed.
    ///
    /// # Errors
    /// When a commit fails: what was decided cannot be taken back, so the process must end.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        loop {
            match self.next().await {
                Event::Requests => {}
                Event::Committed(result) => self.act(result?),
                Event::Time => {}
                Event::Ended if self.in_flight.is_none() => return Ok(()),
                Event::Ended => {
                    let result = committed(&mut self.in_flight).await;
                    self.act(result?);
                }
            }
            self.decide();
            self.end_turn();
        }
    }

    /// Decides about what was gathered, as far as one commit goes, and about what time has brought.
    fn decide(&mut self) {
        let now = (self.clock)();
        while !self.pool.is_turn_full()
            && let Some(request) = self.gathered.pop_front()
        {
            self.answers.push(request(&mut self.pool, now));
        }
        // Behind the requests: a worker may just have been heard.
        if self.pool.poll_timeout().is_some_and(|at| at <= now.at) {
            self.pool.handle_timeout(now);
        }
    }

    async fn next(&mut self) -> Event {
        let has_room = !self.pool.is_turn_full();
        if has_room && !self.gathered.is_empty() {
            return Event::Requests;
        }
        let until = self.pool.poll_timeout().map_or(Duration::MAX, |at| at.since((self.clock)().at));
        // Tokio's clock stops in suspend and ours does not: look again now and then.
        let until = until.min(Duration::from_secs(5));
        tokio::select! {
            biased;
            result = committed(&mut self.in_flight) => Event::Committed(result),
            count = self.requests.recv_many(&mut self.arrived, limits::TURN_REQUESTS_MAX), if has_room => {
                self.gathered.extend(self.arrived.drain(..));
                if count == 0 { Event::Ended } else { Event::Requests }
            }
            () = tokio::time::sleep(until) => Event::Time,
        }
    }

    /// Sends the turn to the store, if that is free; otherwise the turn goes on gathering.
    fn end_turn(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        for watcher in self.peers.take_unwatched() {
            self.pool.unwatch(watcher);
        }
        let answers = std::mem::take(&mut self.answers);
        match self.pool.poll_batch((self.clock)()) {
            None => answers.into_iter().for_each(|answer| answer()),
            Some(batch) => {
                let (sender, result) = oneshot::channel();
                // If the store's thread is gone, the result never comes, and that ends us.
                let _ = self.store.send((batch, sender));
                self.in_flight = Some(InFlight { result, answers });
            }
        }
    }

    fn act(&mut self, effects: Vec<Effect>) {
        self.peers.act(effects, &self.identities);
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.answers.into_iter().for_each(|answer| answer());
        }
    }
}

/// The result of the commit in flight; never, if there is none.
async fn committed(in_flight: &mut Option<InFlight>) -> Result<Vec<Effect>, StoreError> {
    match in_flight {
        None => std::future::pending().await,
        Some(in_flight) => (&mut in_flight.result)
            .await
            .unwrap_or_else(|_| Err(StoreError::Io(std::io::Error::other("the store's thread has ended")))),
    }
}

/// Commits what it is given, one turn after the other. At most one is under way.
pub(super) async fn run_store(
    mut store: Box<dyn Store>,
    epoch: Epoch,
    mut commits: mpsc::UnboundedReceiver<Commit>,
) {
    while let Some((batch, sender)) = commits.recv().await {
        let result = store::commit(&mut *store, epoch, batch);
        let failed = result.is_err();
        let _ = sender.send(result);
        if failed {
            return;
        }
    }
}
