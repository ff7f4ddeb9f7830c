//! The world of a run: one pool, machines with workers, links between them, clients, and the time that they share.
//!
//! Here is what everything has in common; what each does when its time comes stands in a file of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use clusterctl::core::record::Record;
use clusterctl::core::time::{Now, Timestamp, WallTime};
use clusterctl::core::timing::Timing;

use crate::client::{Client, ClientId, ExchangeId};
use crate::disk::{Disk, Honesty};
use crate::history::{Happened, History, Observer};
use crate::link::{End, Link, LinkId};
use crate::machine::{Machine, MachineId};
use crate::message::{CallId, Down, Up};
use crate::plan::{Plan, Plant};
use crate::pool_process::PoolProcess;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::trace::{Detail, Trace};

/// Adds a line to a run's trace; the arguments are looked at only if somebody reads it.
macro_rules! tell {
    ($world:expr, $($what:tt)*) => {{
        let now = $world.now;
        $world.trace.tell(now, format_args!($($what)*));
    }};
}
pub(crate) use tell;

/// Something that is to happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A pool process starts, if there is none.
    PoolBoots,
    /// The pool process of this life is told that time has passed.
    PoolTime(u64),
    PoolCommitted(u64),
    PoolSynced(u64),
    /// The pool looks whether anything came over a link.
    PoolListens(LinkId),
    /// The pool ends its end of a link.
    PoolCuts(LinkId),
    /// The pool process of this life, which was told to stop, is gone.
    PoolGone(u64),
    /// The next message of a link arrives at this end.
    Arrives(LinkId, End),
    /// An end finds out that its link is gone.
    Notices(LinkId, End),
    /// A link breaks, and both ends are told.
    Breaks(LinkId),
    AgentStarts(MachineId),
    /// Of an agent in this generation.
    Dials(MachineId, u64),
    RegisterTimesOut(MachineId, u64),
    Beats(MachineId, u64),
    LeaveTimesOut(MachineId, u64),
    ExecutorWakes(MachineId),
    /// A client does something of its own accord.
    ClientActs(ClientId),
    /// A request of a client arrives at the pool.
    Asked(ClientId, ExchangeId),
    /// A client asks again, if it has no answer.
    AsksAgain(ClientId, ExchangeId),
    /// A client follows a job again, if it still wants to.
    FollowsAgain(ClientId, Observer),
    FaultStrikes,
    LastBlow(MachineId),
    /// Time passes, although nobody has anything to do.
    Ticks,
}

/// Everything there is.
pub struct World {
    pub now: Timestamp,
    pub plan: Plan,
    pub random: Random,
    pub trace: Trace,
    pub history: History,
    pub disk: Disk,
    pub pool: Option<PoolProcess>,
    /// What the log has to tell, if all that the last pool process decided was durable when it went.
    pub log_tells: Option<Vec<Record>>,
    /// Pool processes so far.
    pub lives: u64,
    pub machines: Vec<Machine>,
    pub links: BTreeMap<LinkId, Link>,
    pub clients: Vec<Client>,
    /// How far the wall clock is from the right time.
    pub wall_error_ms: i64,
    pub faults: Faults,
    /// How often the log may still grow at a stroke: it makes every restart slow.
    pub log_growths: u32,
    pub timing: Timing,
    schedule: Schedule<Event>,
    last_number: u64,
}

/// Whether anything still goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    Strike,
    HaveCeased,
}

const FIRST_WALL_MS: i64 = 1_700_000_000_000;

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(plan: Plan, random: Random, detail: Detail) -> Self {
        let honesty = match plan.plant {
            Plant::DiskForgetsTheLastCommit => Honesty::ForgetsTheLastCommit,
            Plant::DiskForgetsCancels => Honesty::ForgetsCancels,
            Plant::DiskForgetsLostWorkers => Honesty::ForgetsLostWorkers,
            _ => Honesty::Honest,
        };
        let mut world = Self {
            now: Timestamp(1_000_000_000),
            random,
            trace: Trace::new(detail),
            history: History::default(),
            disk: Disk::new(honesty),
            pool: None,
            log_tells: None,
            lives: 0,
            machines: Vec::new(),
            links: BTreeMap::new(),
            clients: Vec::new(),
            wall_error_ms: 0,
            faults: Faults::Strike,
            log_growths: 2,
            timing: Timing::default(),
            schedule: Schedule::default(),
            last_number: 0,
            plan,
        };
        world.happened(Happened::GoesBy(world.timing));
        world.pool_boots();
        for _ in 0..world.plan.machines {
            world.machine_joins();
        }
        for n in 0..world.plan.clients {
            world.client_comes(n);
        }
        world.after(Duration::from_secs(5), Event::FaultStrikes);
        world
    }

    /// Lets the next thing happen.
    pub fn step(&mut self) {
        let (at, event) = self.schedule.next().expect("a world always has something to come");
        self.now = at;
        self.handle(event);
        if let Some(process) = &mut self.pool {
            process.check();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::PoolBoots => self.pool_boots(),
            Event::PoolTime(life) => self.pool_time(life),
            Event::PoolCommitted(life) => self.pool_committed(life),
            Event::PoolSynced(life) => self.pool_synced(life),
            Event::PoolListens(link) => self.pool_listens(link),
            Event::PoolCuts(link) => self.pool_cuts_link(link),
            Event::PoolGone(life) => self.pool_gone(life),
            Event::Arrives(link, end) => self.arrives(link, end),
            Event::Notices(link, End::Agent) => self.agent_notices(link),
            Event::Notices(link, End::Pool) => self.pool_notices(link),
            Event::Breaks(link) => self.break_loudly(link),
            Event::AgentStarts(machine) => self.agent_starts(machine),
            Event::Dials(machine, generation) => self.agent_dials(machine, generation),
            Event::RegisterTimesOut(machine, generation) => self.register_times_out(machine, generation),
            Event::Beats(machine, generation) => self.agent_beats(machine, generation),
            Event::LeaveTimesOut(machine, generation) => self.leave_times_out(machine, generation),
            Event::ExecutorWakes(machine) => self.executor_wakes(machine),
            Event::ClientActs(client) => self.client_acts(client),
            Event::Asked(client, exchange) => self.pool_asked(client, exchange),
            Event::AsksAgain(client, exchange) => self.client_asks_again(client, exchange),
            Event::FollowsAgain(client, observer) => self.client_follows_again(client, observer),
            Event::FaultStrikes => self.fault_strikes(),
            Event::LastBlow(machine) => self.last_blow(machine),
            Event::Ticks => self.after(Duration::from_secs(60), Event::Ticks),
        }
    }

    /// Plans an event for a moment.
    pub fn at(&mut self, at: Timestamp, event: Event) {
        self.schedule.plan(at.max(self.now), event);
    }

    /// Plans an event for after a while.
    pub fn after(&mut self, wait: Duration, event: Event) {
        self.schedule.plan(self.now + wait, event);
    }

    /// Both clocks, as the pool reads them.
    pub fn clocks(&self) -> Now {
        let passed = i64::try_from(self.now.0 / 1_000_000).unwrap();
        Now { at: self.now, wall: WallTime(FIRST_WALL_MS + passed + self.wall_error_ms) }
    }

    /// Something happened that shows from outside.
    pub fn happened(&mut self, event: Happened) {
        self.history.add(self.now, event);
    }

    /// A number that was not given out before.
    pub fn fresh(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub fn fresh_call(&mut self) -> CallId {
        CallId(self.fresh())
    }

    pub fn machine(&mut self, id: MachineId) -> &mut Machine {
        &mut self.machines[id.0]
    }

    /// How long a message is on its way.
    pub fn delay(&mut self) -> Duration {
        let longest = self.plan.delay_ms;
        self.random.millis(0, longest)
    }

    /// Sends a message up a link.
    pub fn send_up(&mut self, id: LinkId, message: Up) {
        let arrival = self.now + self.delay();
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(at) = link.up.send(message, arrival.max(link.held_until)) {
            self.at(at, Event::Arrives(id, End::Pool));
        }
    }

    /// Sends a message down a link.
    pub fn send_down(&mut self, id: LinkId, message: Down) {
        let arrival = self.now + self.delay();
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(at) = link.down.send(message, arrival.max(link.held_until)) {
            self.at(at, Event::Arrives(id, End::Agent));
        }
    }

    fn arrives(&mut self, id: LinkId, end: End) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.held_until > self.now {
            let until = link.held_until;
            return self.at(until, Event::Arrives(id, end));
        }
        match end {
            End::Pool => {
                if let Some(message) = link.up.arrive() {
                    self.pool_receives(id, message);
                }
            }
            End::Agent => {
                if let Some(message) = link.down.arrive() {
                    self.agent_receives(id, message);
                }
            }
        }
    }

    /// Forgets links that neither end has any longer.
    pub fn forget_dead_links(&mut self) {
        let used = |machine: &Machine| machine.agent.as_ref().and_then(|agent| agent.link());
        let by_agents: Vec<LinkId> = self.machines.iter().filter_map(used).collect();
        let by_pool: Vec<LinkId> =
            self.pool.iter().flat_map(|process| process.ends.values().map(|end| end.link)).collect();
        self.links.retain(|id, _| by_agents.contains(id) || by_pool.contains(id));
    }

    /// Cuts a link without a word: each end finds out by its own time-outs.
    pub fn cut_silently(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.cut();
            let (agent, pool) = (self.random.millis(5000, 35_000), self.random.millis(5000, 90_000));
            self.after(agent, Event::Notices(id, End::Agent));
            self.after(pool, Event::Notices(id, End::Pool));
        }
    }

    /// Breaks a link so that both ends find out at once, with the loss of what is on its way.
    pub fn break_loudly(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.cut();
            let (agent, pool) = (self.random.millis(0, 50), self.random.millis(0, 50));
            self.after(agent, Event::Notices(id, End::Agent));
            self.after(pool, Event::Notices(id, End::Pool));
        }
    }
}
