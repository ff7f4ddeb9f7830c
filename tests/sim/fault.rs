//! Faults strike: one of those that the plan allows, now and then, wherever chance points.

use std::time::Duration;

use clusterctl::core::access::{Role, TokenWish};
use clusterctl::core::agent::Agent;
use clusterctl::core::label::Labels;
use clusterctl::core::pool::Viewer;

use crate::agent_process::Wanted;
use crate::answer::Answer;
use crate::history::Happened;
use crate::link::LinkId;
use crate::machine::{Future, MachineId};
use crate::machine_life::Copied;
use crate::plan::{Fault, Plant};
use crate::world::{Event, Faults, World, tell};

/// Machines that there may be in all.
const MACHINES_MAX: usize = 14;
/// Records by which the log grows at a stroke: the program lets it grow by so many before it repeats what is old.
const RECORDS: u64 = 4400;
const YEAR_MS: i64 = 365 * 24 * 3_600_000;

impl World {
    pub fn fault_strikes(&mut self) {
        if self.faults == Faults::HaveCeased {
            return;
        }
        self.forget_dead_links();
        let all: u64 = self.plan.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(all);
        let found = self.plan.faults.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let fault = found.expect("the weights add up").0;
        let machine = MachineId(self.random.index(self.machines.len()));
        tell!(self, "fault: {fault:?} at {}", self.machines[machine.0].name);
        self.strike(fault, machine);
        let gap = u64::try_from(self.plan.fault_gap.as_millis()).unwrap();
        let wait = self.random.millis(0, 2 * gap);
        self.after(wait, Event::FaultStrikes);
    }

    fn strike(&mut self, fault: Fault, machine: MachineId) {
        let link = self.machines[machine.0].agent.as_ref().and_then(|agent| agent.link());
        match fault {
            Fault::PoolCrashes => self.pool_crashes(),
            Fault::PoolStops => self.pool_stops(),
            Fault::AgentDies | Fault::AgentLeaves => self.agent_dies(machine),
            Fault::ExecutorDies => {
                self.executor_dies(machine);
                self.settle(machine);
            }
            Fault::KeeperDies => self.keeper_dies(machine),
            Fault::MachineReboots => self.machine_reboots(machine),
            Fault::LinkBreaks => link.into_iter().for_each(|link| self.break_loudly(link)),
            Fault::LinkIsCut => link.into_iter().for_each(|link| self.link_is_cut(link)),
            Fault::LinkIsHeld => link.into_iter().for_each(|link| self.link_is_held(link)),
            Fault::MachineIsAway => self.machine_is_away(machine),
            Fault::WorkerDrains => self.worker_is_told(machine, Agent::drain),
            Fault::WorkerStops => self.worker_is_told(machine, Agent::stop),
            Fault::WorkerIsRemoved => self.worker_is_removed(machine),
            Fault::WorkerIsDrained => self.worker_is_drained(machine),
            Fault::WorkerIsResumed => self.worker_is_resumed(machine),
            Fault::MachineJoins if self.machines.len() < MACHINES_MAX => self.machine_joins(),
            Fault::MachineIsCopied if self.machines.len() < MACHINES_MAX => {
                self.machine_is_copied(machine, Copied::Elsewhere);
            }
            Fault::ContainerIsCopied if self.machines.len() < MACHINES_MAX => {
                self.machine_is_copied(machine, Copied::Beside);
            }
            Fault::MachineJoins | Fault::MachineIsCopied | Fault::ContainerIsCopied => {}
            Fault::FollowerIsSlow => self.follower_is_slow(),
            Fault::WallClockJumps => {
                self.wall_error_ms = self.random.pick(&[0, YEAR_MS, -YEAR_MS, 3_600_000]);
            }
            Fault::LogGrows => self.log_grows(),
        }
    }

    fn keeper_dies(&mut self, id: MachineId) {
        let now = self.now;
        let machine = &mut self.machines[id.0];
        let local = machine.clock.local(now);
        let Some(executor) = &mut machine.executor else { return };
        let running = executor.running();
        if !running.is_empty() {
            executor.lose_keeper(local, self.random.pick(&running));
        }
        self.settle(id);
    }

    /// A link that was just made may be one of those that stall at once, or break soon.
    pub fn link_is_poor(&mut self, id: LinkId) {
        let (stalls, breaks) = (self.plan.links_stall, self.plan.links_break);
        if self.random.chance(stalls) {
            let until = self.now + self.random.millis(1000, 30_000);
            self.links.get_mut(&id).expect("the link was just made").held_until = until;
        }
        if self.random.chance(breaks) {
            let longest = self.random.pick(&[100, 3000, 30_000]);
            let at = self.now + self.random.millis(0, longest);
            self.at(at, Event::Breaks(id));
        }
    }

    /// A link delivers nothing for a while, and then all that it has. Of what the agent sends it may have lost the way.
    pub fn link_is_held(&mut self, id: LinkId) {
        let wait = self.random.millis(100, 28_000);
        let breaks = self.random.chance(500);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.held_until = self.now + wait;
        if breaks {
            link.up.cut();
            let more = self.random.millis(0, 10_000);
            self.after(wait + more, Event::Notices(id, crate::link::End::Agent));
            self.after(wait + more, Event::Notices(id, crate::link::End::Pool));
        }
    }

    /// A link is cut without a word, in one direction or in both; what is sent is lost from now on.
    fn link_is_cut(&mut self, id: LinkId) {
        let both = self.random.chance(600);
        let upward = self.random.chance(500);
        let Some(link) = self.links.get_mut(&id) else { return };
        if !both && upward {
            link.up.cut();
        } else if !both {
            link.down.cut();
        }
        let wait = if both { Duration::ZERO } else { self.random.millis(0, 30_000) };
        if both {
            self.cut_silently(id);
        } else {
            // Neither end gets what it sends acknowledged, and gives up.
            self.after(wait, Event::Notices(id, crate::link::End::Agent));
            self.after(wait + Duration::from_secs(10), Event::Notices(id, crate::link::End::Pool));
        }
    }

    /// Nothing reaches a machine for a while: its link is cut, or held until the network is back.
    fn machine_is_away(&mut self, id: MachineId) {
        let longest = self.plan.away_ms;
        let until = self.now + self.random.millis(500, longest);
        let holds = longest <= 20_000 && self.random.chance(500);
        let machine = self.machine(id);
        machine.away_until = machine.away_until.max(until);
        let of = self.links.iter().filter(|(_, link)| link.machine == id).map(|(id, _)| *id);
        for link in of.collect::<Vec<_>>() {
            if holds {
                self.links.get_mut(&link).expect("the link was just found").held_until = until;
            } else {
                self.cut_silently(link);
            }
        }
    }

    /// Somebody tells an agent to drain or to stop.
    fn worker_is_told(&mut self, id: MachineId, what: fn(&mut Agent)) {
        let forgets = self.plan.plant == Plant::AgentForgetsThatItDrains;
        let Some(process) = &mut self.machine(id).agent else { return };
        if !forgets {
            what(&mut process.agent);
        }
        process.wanted = Wanted::Drain;
        let executor = process.agent.incarnation();
        self.happened(Happened::Drains(executor));
        self.carry_out(id);
        self.settle(id);
    }

    pub fn worker_is_removed(&mut self, id: MachineId) {
        if self.machines.iter().filter(|machine| machine.future == Future::Works).count() < 2 {
            return;
        }
        let name = self.machines[id.0].name.clone();
        self.decide(move |pool, now| {
            let _ = pool.remove_worker(now, &Viewer::admin("root"), name.as_str());
            Answer::Nothing
        });
    }

    /// A person takes a worker out of service, perhaps for good after a while.
    fn worker_is_drained(&mut self, id: MachineId) {
        let name = self.machines[id.0].name.clone();
        let after = Duration::from_millis(self.random.below(120_000));
        let deadline = self.random.chance(500).then_some(after);
        self.decide(move |pool, now| {
            let _ = pool.drain_worker(now, &Viewer::admin("root"), name.as_str(), deadline);
            Answer::Nothing
        });
    }

    pub fn worker_is_resumed(&mut self, id: MachineId) {
        let name = self.machines[id.0].name.clone();
        self.decide(move |pool, now| {
            let _ = pool.resume_worker(now, &Viewer::admin("root"), name.as_str());
            Answer::Nothing
        });
    }

    /// Thousands of records that matter to nobody, so that what is old has to be repeated.
    fn log_grows(&mut self) {
        if self.log_growths == 0 {
            return;
        }
        self.log_growths -= 1;
        self.decide(|pool, now| {
            let wish = TokenWish {
                role: Role::Client,
                name: None,
                owner: None,
                labels: Labels::new(),
                uses: None,
                ttl: Duration::from_secs(60),
            };
            let token = pool
                .create_token(now, &Viewer::admin("root"), wish, [9; 32])
                .expect("there is room for a token");
            for _ in 0..RECORDS {
                pool.revoke_token(now, &Viewer::admin("root"), token).expect("the token was just made");
            }
            Answer::Nothing
        });
    }
}
