//! Clients: people and scripts that submit, cancel, abandon, follow and look; and ask again when no answer comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::id::{JobId, RequestId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::outcome::Cancel;
use clusterctl::core::pool::Viewer;
use clusterctl::core::range::RangeSet;

use crate::history::{Happened, Observer};
use crate::plan::Plant;
use crate::random::Random;
use crate::wish::some_spec;
use crate::world::{Event, Faults, World, tell};

/// Names a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub usize);

/// Names a request of a client until it has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// A client.
#[derive(Debug)]
pub struct Client {
    pub viewer: Viewer,
    /// As whom it is shown things.
    pub observer: Observer,
    /// Requests that have no answer yet.
    pub exchanges: BTreeMap<ExchangeId, Exchange>,
    /// What it submitted and knows to be accepted.
    pub jobs: Vec<Submitted>,
    /// What it follows.
    pub follows: BTreeMap<Observer, JobId>,
}

/// A request that has no answer yet.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub ask: Ask,
    /// How often it was sent.
    sent: u32,
}

/// A job of a client.
#[derive(Clone, Debug)]
pub struct Submitted {
    pub request: RequestId,
    pub job: JobId,
    pub spec: Arc<JobSpec>,
}

/// What a client asks.
#[derive(Clone, Debug)]
pub enum Ask {
    Submit { request: RequestId, spec: Arc<JobSpec> },
    Info(JobId),
    Tasks(JobId),
    List,
    Why(JobId, u32),
    Status,
    Cancel { job: JobId, ranges: Vec<(u32, u32)>, how: Cancel },
    Abandon { job: JobId, ranges: Vec<(u32, u32)> },
    Follow(Observer, JobId),
}

/// Requests of one client that may have no answer before it waits.
const EXCHANGES_AT_ONCE: usize = 5;

impl World {
    pub fn client_comes(&mut self, n: u64) {
        let owner = ["ann", "bob", "ann"][usize::try_from(n % 3).unwrap()].to_owned();
        let id = ClientId(self.clients.len());
        self.clients.push(Client {
            viewer: Viewer::client(&owner, &owner, "10.0.0.1"),
            observer: Observer(n),
            exchanges: BTreeMap::new(),
            jobs: Vec::new(),
            follows: BTreeMap::new(),
        });
        self.after(Duration::from_secs(1), Event::ClientActs(id));
    }

    pub fn client(&mut self, id: ClientId) -> &mut Client {
        &mut self.clients[id.0]
    }

    pub fn client_acts(&mut self, id: ClientId) {
        if self.faults == Faults::HaveCeased {
            return;
        }
        if self.client(id).exchanges.len() < EXCHANGES_AT_ONCE {
            let ask = self.some_ask(id);
            self.ask(id, ask);
        }
        let gap = u64::try_from(self.plan.ask_gap.as_millis()).unwrap();
        let wait = self.random.millis(0, 2 * gap);
        self.after(wait, Event::ClientActs(id));
    }

    fn some_ask(&mut self, id: ClientId) -> Ask {
        let (run_ms, tastes) = (self.plan.run_ms, self.plan.tastes);
        let live = self.pool.as_ref().map_or(0, |process| {
            let Client { jobs, viewer, .. } = &self.clients[id.0];
            jobs.iter().filter(|own| process.pool.info(viewer, own.job).is_some()).count()
        });
        let known = self.clients[id.0].jobs.clone();
        let random = &mut self.random;
        if known.is_empty() || (random.chance(450) && live < tastes.jobs_at_once) {
            let request = some_request(random);
            return Ask::Submit { request, spec: some_spec(random, run_ms, tastes) };
        }
        // Mostly the newest.
        let last = known.len() - 1;
        let at = if random.chance(700) {
            last - random.index(known.len().min(4))
        } else {
            random.index(known.len())
        };
        let Submitted { request, job, spec } = known[at].clone();
        if random.chance(tastes.cancels) {
            let how = random.pick(&[Cancel::Interrupt, Cancel::Terminate, Cancel::Kill]);
            return Ask::Cancel { job, ranges: some_ranges(random), how };
        }
        match random.below(16) {
            0 => Ask::Submit { request, spec },
            1 => Ask::Submit { request, spec: some_spec(random, run_ms, tastes) },
            2..5 => Ask::Info(job),
            5..7 => Ask::Tasks(job),
            7 => Ask::List,
            8 => Ask::Why(job, u32::try_from(random.below(6)).unwrap()),
            9 => Ask::Status,
            10 => Ask::Abandon { job, ranges: some_ranges(random) },
            _ => {
                let observer = Observer(1000 + self.fresh());
                self.client(id).follows.insert(observer, job);
                Ask::Follow(observer, job)
            }
        }
    }

    /// Asks the pool something, again and again until there is an answer.
    pub fn ask(&mut self, id: ClientId, ask: Ask) {
        let exchange = ExchangeId(self.fresh());
        self.client(id).exchanges.insert(exchange, Exchange { ask, sent: 0 });
        self.client_sends(id, exchange);
    }

    fn client_sends(&mut self, id: ClientId, exchange: ExchangeId) {
        let owner = self.clients[id.0].viewer.owner().to_owned();
        let Some(waits) = self.clients[id.0].exchanges.get_mut(&exchange) else { return };
        waits.sent += 1;
        let (ask, sent) = (waits.ask.clone(), waits.sent);
        tell!(self, "{owner} asks {ask:?}");
        match ask {
            Ask::Submit { request, spec } => {
                self.happened(Happened::Submitting { owner, request, spec });
            }
            Ask::Abandon { job, ranges } => {
                self.happened(Happened::Abandoning { job, ranges: all_if_none(&ranges) });
            }
            Ask::Info(_)
            | Ask::Tasks(_)
            | Ask::List
            | Ask::Why(..)
            | Ask::Status
            | Ask::Cancel { .. }
            | Ask::Follow(..) => {}
        }
        if !self.random.chance(50) {
            let wait = self.delay();
            self.after(wait, Event::Asked(id, exchange));
        }
        let longest = 4000 << sent.min(4);
        let patience = self.random.millis(1000, longest);
        self.after(patience, Event::AsksAgain(id, exchange));
    }

    pub fn client_asks_again(&mut self, id: ClientId, exchange: ExchangeId) {
        self.client_sends(id, exchange);
    }

    pub fn client_follows_again(&mut self, id: ClientId, observer: Observer) {
        if let Some(&job) = self.client(id).follows.get(&observer) {
            self.ask(id, Ask::Follow(observer, job));
        }
    }

    /// The request id that a submit has on its way to the pool.
    pub fn request_on_the_way(&mut self, request: RequestId) -> RequestId {
        if self.plan.plant == Plant::ClientChangesRequestIds {
            some_request(&mut self.random)
        } else {
            request
        }
    }
}

/// The tasks that a request is about.
pub fn all_if_none(ranges: &[(u32, u32)]) -> RangeSet {
    if ranges.is_empty() { RangeSet::of(&[(0, u32::MAX)]) } else { RangeSet::of(ranges) }
}

fn some_request(random: &mut Random) -> RequestId {
    let mut request = [0; 16];
    request[..8].copy_from_slice(&random.number().to_le_bytes());
    RequestId(request)
}

/// Some tasks of a job; mostly all.
fn some_ranges(random: &mut Random) -> Vec<(u32, u32)> {
    if random.chance(600) {
        return Vec::new();
    }
    let first = u32::try_from(random.below(6)).unwrap();
    vec![(first, first + u32::try_from(random.below(4)).unwrap())]
}
