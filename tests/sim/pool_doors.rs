//! What the pool offers to workers: registration, reports, output and heartbeats over a link, as `pool::worker_service`
//! and `pool::shard` serve them; and the orders that go down.

use std::collections::BTreeSet;
use std::time::Duration;

use clusterctl::core::id::{ConnectionId, Fence, WorkerId};
use clusterctl::core::membership::{Carried, Facts, Registered, Report, StartOrder};
use clusterctl::core::pool::{Effect, Identity, RegisterError, Viewer};
use clusterctl::core::time::Timestamp;

use crate::answer::Answer;
use crate::history::Happened;
use crate::link::{End, LinkId};
use crate::message::{CallId, Down, Leaving, Up};
use crate::plan::Plant;
use crate::pool_process::Intake;
use crate::world::{Event, World, tell};

/// The pool's end of a link.
#[derive(Debug)]
pub struct DoorEnd {
    pub link: LinkId,
    worker: WorkerId,
    registration: Registration,
    /// Attempts that this worker may speak of.
    known: BTreeSet<Fence>,
    /// Orders that wait for the registration's answer to go first.
    orders: Vec<Down>,
    /// When a message came last, and when one had come when the pool was told last.
    heard: Timestamp,
    told: Timestamp,
}

/// How far a worker's membership is, and so what becomes of orders for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registration {
    /// Nobody listens to orders.
    None,
    /// They wait for the answer to go first.
    Wanted,
    /// They go down.
    Made,
    /// It was told the last that it is told.
    Over,
}

/// Output that is on its way to the disk.
#[derive(Debug)]
pub struct WriteWaiting {
    connection: ConnectionId,
    call: CallId,
    /// Where each attempt's output ends then; none if bytes before it were missing.
    ends: Option<Vec<(Fence, u64)>>,
}

/// Reports whose output is not durable yet.
#[derive(Debug)]
pub struct ReportWaiting {
    connection: ConnectionId,
    call: CallId,
    reports: Vec<Report>,
}

impl DoorEnd {
    pub fn new(link: LinkId, worker: WorkerId) -> Self {
        Self {
            link,
            worker,
            registration: Registration::None,
            known: BTreeSet::new(),
            orders: Vec::new(),
            heard: Timestamp::default(),
            told: Timestamp::default(),
        }
    }
}

impl World {
    /// The connection that a link has at the present pool process, if it still has one there.
    fn connection_of(&self, id: LinkId) -> Option<ConnectionId> {
        let process = self.pool.as_ref()?;
        let link = self.links.get(&id).filter(|link| link.life == process.life)?;
        process.ends.contains_key(&link.connection).then_some(link.connection)
    }

    fn door_end(&mut self, connection: ConnectionId) -> Option<&mut DoorEnd> {
        self.pool.as_mut()?.ends.get_mut(&connection)
    }

    /// A message has come up a link.
    pub fn pool_receives(&mut self, id: LinkId, message: Up) {
        let Some(connection) = self.connection_of(id) else { return };
        let now = self.now;
        let end = self.door_end(connection).expect("the end was just found");
        end.heard = now;
        let worker = end.worker;
        // Who is not let in was not heard.
        if matches!(end.registration, Registration::Made | Registration::Over) {
            self.happened(Happened::Heard(worker));
        }
        match message {
            Up::Register(facts, carried) => self.pool_registers(connection, facts, carried),
            Up::Write(call, parts) => self.pool_writes(connection, call, parts),
            Up::Report(call, reports) => self.pool_is_told(connection, call, reports),
            Up::Beat(call) => self.decide(move |pool, now| {
                Answer::Lease(connection, call, pool.heartbeat(now, connection, None))
            }),
            Up::Drain(call) => self.decide(move |pool, _| {
                pool.drain(connection);
                Answer::Done(connection, call)
            }),
            Up::Leave(call) => self.decide(move |pool, now| {
                pool.leave(now, connection);
                Answer::Done(connection, call)
            }),
            Up::Closed => self.pool_notices(id),
        }
    }

    fn pool_registers(&mut self, connection: ConnectionId, facts: Facts, carried: Vec<Carried>) {
        let end = self.door_end(connection).expect("who registers has an end here");
        let worker = end.worker;
        end.known = carried.iter().flat_map(|carried| carried.living.iter().copied()).collect();
        end.known.extend(carried.iter().flat_map(|carried| carried.ended.iter().copied()));
        end.registration = Registration::Wanted;
        tell!(self, "pool is asked by {connection} to register worker {worker} {}", facts.boot_id);
        self.decide(move |pool, now| {
            let told = pool.register(now, worker, connection, facts, carried);
            Answer::Registered(worker, connection, told)
        });
    }

    pub fn give_registered(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        told: Result<Registered, RegisterError>,
    ) {
        if told.is_ok() {
            self.happened(Happened::Heard(worker));
        }
        let output = &self.disk.output;
        let Some(end) = self.pool.as_mut().and_then(|process| process.ends.get_mut(&connection)) else {
            return;
        };
        let link = end.link;
        let told = told.map(|mut told| {
            end.registration = Registration::Made;
            // What came before was no sign of life of its own.
            end.told = end.heard;
            end.known.retain(|fence| !told.kill.contains(fence) && !told.forget.contains(fence));
            told.positions = end.known.iter().map(|&fence| (fence, output.durable_end(fence))).collect();
            told
        });
        let is_registered = told.is_ok();
        let orders = std::mem::take(&mut end.orders);
        tell!(
            self,
            "pool registers {connection}: {:?}",
            told.as_ref().map(|told| (&told.kill, &told.forget))
        );
        self.send_down(link, Down::Registered(told));
        if is_registered {
            orders.into_iter().for_each(|order| self.order(connection, order));
            if self.pool.as_ref().is_some_and(|process| process.intake == Intake::Stopping) {
                self.say_leaving(connection, Leaving::Restart, self.timing.lease_at_shutdown);
            }
            self.after(self.timing.heartbeat, Event::PoolListens(link));
        }
    }

    /// Gives an order to a registered worker; to one that waits for the answer to its registration, after that.
    fn order(&mut self, connection: ConnectionId, order: Down) {
        let Some(end) = self.door_end(connection) else { return };
        match end.registration {
            Registration::None => {}
            Registration::Wanted => end.orders.push(order),
            Registration::Made => match order {
                Down::Leaving(why, lease) => self.say_leaving(connection, why, lease),
                order => {
                    if let Down::Start(order) = &order {
                        end.known.extend(&order.fences);
                    }
                    self.give_down(connection, order);
                }
            },
            Registration::Over => self.pool_cuts(connection),
        }
    }

    /// The last that a worker is told. One that was removed is cut when it has heard so, or has not.
    fn say_leaving(&mut self, connection: ConnectionId, why: Leaving, lease: Duration) {
        let Some(end) = self.door_end(connection) else { return };
        end.registration = Registration::Over;
        let link = end.link;
        self.give_down(connection, Down::Leaving(why, lease));
        if why == Leaving::Removed {
            let wait = self.random.millis(0, 2000);
            self.after(wait, Event::PoolCuts(link));
        }
    }

    /// Sends something down a link.
    pub fn give_down(&mut self, connection: ConnectionId, message: Down) {
        if let Some(link) = self.door_end(connection).map(|end| end.link) {
            self.send_down(link, message);
        }
    }

    pub fn give_forget(&mut self, connection: ConnectionId, call: CallId, fences: Vec<Fence>) {
        if let Some(end) = self.door_end(connection) {
            end.known.retain(|fence| !fences.contains(fence));
        }
        self.give_down(connection, Down::Forget(call, fences));
    }

    fn pool_writes(
        &mut self,
        connection: ConnectionId,
        call: CallId,
        parts: Vec<(Fence, Vec<clusterctl::core::output::Chunk>)>,
    ) {
        let Some(process) = &mut self.pool else { return };
        let known = &process.ends[&connection].known;
        let mut ends = Some(Vec::new());
        for (fence, chunks) in parts.into_iter().filter(|(fence, _)| known.contains(fence)) {
            match (self.disk.output.append(fence, chunks), &mut ends) {
                (Ok(end), Some(ends)) => ends.push((fence, end)),
                _ => ends = None,
            }
        }
        process.writes.push_back(WriteWaiting { connection, call, ends });
        let (at, life) = (process.synced_at.max(self.now), process.life);
        let at = at + self.random.millis(0, self.plan.commit_ms);
        self.pool.as_mut().expect("the pool was just there").synced_at = at;
        self.at(at, Event::PoolSynced(life));
        if self.plan.plant == Plant::OutputIsAcknowledgedEarly {
            self.give_down(connection, Down::Durable(call));
        }
    }

    /// The oldest of the writes that were under way is durable.
    pub fn pool_synced(&mut self, life: u64) {
        let Some(process) = self.process(life) else { return };
        let Some(WriteWaiting { connection, call, ends }) = process.writes.pop_front() else { return };
        match ends {
            Some(ends) => {
                ends.into_iter().for_each(|(fence, end)| self.disk.output.sync(fence, end));
                self.give_down(connection, Down::Durable(call));
            }
            None => self.give_down(connection, Down::Failed),
        }
        let Some(process) = self.process(life) else { return };
        for ReportWaiting { connection, call, reports } in std::mem::take(&mut process.reports) {
            self.pool_is_told(connection, call, reports);
        }
    }

    /// Takes reports, once all output that they speak of is durable.
    fn pool_is_told(&mut self, connection: ConnectionId, call: CallId, mut reports: Vec<Report>) {
        let Some(process) = &mut self.pool else { return };
        let Some(end) = process.ends.get(&connection) else { return };
        let waits = reports.iter().any(|report| match report {
            Report::Ended(ended) => {
                ended.tail.is_empty()
                    && end.known.contains(&ended.fence)
                    && self.disk.output.durable_end(ended.fence) < ended.totals.end()
                    && self.plan.plant != Plant::OutputIsAcknowledgedEarly
            }
            Report::Started(_) | Report::TakenBack(_) => false,
        });
        if waits {
            return process.reports.push(ReportWaiting { connection, call, reports });
        }
        if self.plan.plant == Plant::LinkIgnoresAttemptNumbers {
            self.tell_again(&mut reports);
        }
        self.decide(move |pool, now| Answer::Forget(connection, call, pool.report(now, connection, reports)));
    }

    /// Adds what was reported before, as if it were about the attempts that count.
    fn tell_again(&mut self, reports: &mut Vec<Report>) {
        let Some(process) = &mut self.pool else { return };
        let root = Viewer::admin("root");
        for end in process.ends_reported.iter().rev().take(5) {
            let mut end = end.clone();
            let Fence { task, attempt, .. } = &mut end.fence;
            let page = (task.index.checked_sub(1), 1);
            let tasks = process.pool.live_tasks(&root, task.job, page, None).unwrap_or_default();
            if let Some(live) = tasks.first().filter(|live| live.index == task.index) {
                attempt.0 = live.attempt;
                reports.push(Report::Ended(end));
            }
        }
        let ended = reports.iter().filter_map(|report| match report {
            Report::Ended(end) => Some(end.clone()),
            Report::Started(_) | Report::TakenBack(_) => None,
        });
        process.ends_reported.extend(ended);
    }

    /// Any byte is a sign of life.
    pub fn pool_listens(&mut self, id: LinkId) {
        let Some(connection) = self.connection_of(id) else { return };
        let seems_alive = self.plan.plant == Plant::LinkSeemsAlive;
        let now = self.now;
        let end = self.door_end(connection).expect("the end was just found");
        if seems_alive {
            end.heard = now;
        }
        if end.heard != end.told {
            end.told = end.heard;
            let at = end.heard;
            self.decide(move |pool, _| {
                pool.heard(connection, at);
                Answer::Nothing
            });
        }
        self.after(self.timing.heartbeat, Event::PoolListens(id));
    }

    /// The pool finds that a link is gone.
    pub fn pool_notices(&mut self, id: LinkId) {
        let Some(connection) = self.connection_of(id) else { return };
        tell!(self, "pool loses {connection}");
        self.pool.as_mut().expect("a connection is a process's").ends.remove(&connection);
        self.peer_is_gone(id);
        self.decide(move |pool, _| {
            pool.handle_disconnected(connection);
            Answer::Nothing
        });
    }

    /// The pool's end of a link is closed: what it sent may still arrive, and then the agent finds out.
    pub fn peer_is_gone(&mut self, id: LinkId) {
        let flushes = self.random.chance(500);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.up.cut();
        if flushes {
            self.send_down(id, Down::Closed);
        } else if !link.down.is_cut() {
            link.down.cut();
            let wait = self.random.millis(0, 50);
            self.after(wait, Event::Notices(id, End::Agent));
        }
    }

    /// Tells the workers that the pool goes, and what lease their attempts have meanwhile.
    pub fn say_goodbye(&mut self, lease: Duration) {
        let Some(process) = &self.pool else { return };
        let made = process.ends.iter().filter(|(_, end)| end.registration == Registration::Made);
        for connection in made.map(|(connection, _)| *connection).collect::<Vec<_>>() {
            self.say_leaving(connection, Leaving::Restart, lease);
        }
    }

    /// Carries out what a turn decided.
    pub fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start { connection, spec, secrets: _, job, fences, lease } => {
                    let order = StartOrder {
                        job,
                        script: spec.script.clone(),
                        args: spec.args.clone(),
                        env: spec.env.clone(),
                        cwd: spec.cwd.clone(),
                        timeout: spec.timeout,
                        fences,
                        lease,
                    };
                    self.order(connection, Down::Start(order));
                }
                Effect::Cancel { connection, attempts } => {
                    self.order(connection, Down::Cancel(attempts));
                }
                Effect::TakeBack { connection, attempts } => self.order(connection, Down::TakeBack(attempts)),
                Effect::Notify { watcher, job, event } => self.follower_is_told(watcher, job, event),
                Effect::Cut(connection) => self.pool_cuts(connection),
                Effect::Dismiss(connection) => self.dismiss(connection),
                Effect::Admit(key, identity) => {
                    self.pool.as_mut().expect("a pool acts").identities.insert(key, identity);
                }
                Effect::Expel(key) => {
                    let process = self.pool.as_mut().expect("a pool acts");
                    if let Some(Identity::Worker(id, _)) = process.identities.remove(&key) {
                        let of = process.ends.iter().filter(|(_, end)| end.worker == id);
                        for connection in of.map(|(connection, _)| *connection).collect::<Vec<_>>() {
                            self.dismiss(connection);
                        }
                    }
                }
                Effect::Renew { .. } => unreachable!("nobody here replaces a key"),
                // No job here has secrets.
                Effect::EraseSecrets(_) => {}
            }
        }
    }

    /// Ends a connection; a worker that listens is told why before that.
    fn dismiss(&mut self, connection: ConnectionId) {
        let Some(end) = self.door_end(connection) else { return };
        match end.registration {
            Registration::Wanted | Registration::Made => {
                self.order(connection, Down::Leaving(Leaving::Removed, Duration::ZERO));
            }
            Registration::None | Registration::Over => self.pool_cuts(connection),
        }
    }

    pub fn pool_cuts_link(&mut self, link: LinkId) {
        if let Some(connection) = self.connection_of(link) {
            self.pool_cuts(connection);
        }
    }

    fn pool_cuts(&mut self, connection: ConnectionId) {
        let Some(link) = self.door_end(connection).map(|end| end.link) else { return };
        self.peer_is_gone(link);
        let wait = self.random.millis(0, 2000);
        self.after(wait, Event::Notices(link, End::Pool));
    }
}
