//! What becomes of machines: they join, their executors run and die, they reboot, and they are copied with their keys.

use std::time::Duration;

use clusterctl::core::agent::AgentEffect;
use clusterctl::core::attempt::ToExecutor;
use clusterctl::core::id::{Fingerprint, Name};
use clusterctl::core::label::Labels;

use crate::agent_process::Line;
use crate::history::Happened;
use crate::machine::{Clock, Machine, MachineId};
use crate::plan::Plant;
use crate::world::{Event, World, tell};

/// The worst clock that the promises speak of, in parts per million.
const CLOCK_ERROR_MAX: u64 = 50_000;

impl World {
    /// A new machine joins the pool with a key of its own.
    pub fn machine_joins(&mut self) {
        let id = MachineId(self.machines.len());
        let number = self.fresh();
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let name = Name::from_any(&format!("w{}", id.0 + 1));
        let labels = self.some_labels();
        let slots = u32::try_from(self.random.between(1, 4)).unwrap();
        let machine = Machine::that_is_off(name, Fingerprint(key), labels, slots, self.some_clock());
        self.machines.push(machine);
        self.boot(id);
        tell!(
            self,
            "{} joins with {} slots {:?}",
            self.machines[id.0].name,
            self.machines[id.0].slots,
            self.machines[id.0].labels
        );
        let wait = self.random.millis(0, 2000);
        self.after(wait, Event::AgentStarts(id));
    }

    fn some_labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        labels.insert("zone".to_owned(), self.random.pick(&["a", "b"]).to_string());
        if self.random.chance(400) {
            labels.insert("gpu".to_owned(), self.random.pick(&["a100", "h100"]).to_string());
        }
        labels
    }

    fn some_clock(&mut self) -> Clock {
        let error = i64::try_from(self.random.between(0, 2 * CLOCK_ERROR_MAX)).unwrap();
        Clock {
            booted: self.now,
            at_boot: self.random.below(1_000_000_000_000),
            error: error - i64::try_from(CLOCK_ERROR_MAX).unwrap(),
        }
    }

    fn boot(&mut self, id: MachineId) {
        let boot = self.fresh();
        let clock = self.some_clock();
        let machine = self.machine(id);
        machine.boot_id = format!("boot-{boot}");
        machine.first_boot_id.get_or_insert_with(|| machine.boot_id.clone());
        machine.clock = clock;
    }

    /// Everything on a machine ends at once, and it comes back with another boot id; of its journals it has what a power
    /// cut leaves.
    pub fn machine_reboots(&mut self, id: MachineId) {
        tell!(self, "{} reboots", self.machines[id.0].name);
        let link = self.machine(id).agent.take().and_then(|agent| agent.link());
        if let Some(link) = link {
            self.cut_silently(link);
        }
        self.executor_dies(id);
        if self.random.chance(500) {
            self.machine(id).journals.clear();
        } else {
            self.machine(id).journals.iter_mut().for_each(crate::executor::Journal::tear);
        }
        self.boot(id);
        let wait = self.random.millis(3000, 60_000);
        self.machine(id).away_until = self.now + wait;
        self.after(wait, Event::AgentStarts(id));
    }

    /// A copy of a machine is started, with the same key. It is another machine, or a container beside the first.
    pub fn machine_is_copied(&mut self, id: MachineId, place: Copied) {
        let copy = MachineId(self.machines.len());
        let original = &self.machines[id.0];
        let Machine { name, key, labels, slots, clock, .. } = original;
        let machine = Machine {
            enrolment: original.enrolment,
            boot_id: original.boot_id.clone(),
            ..Machine::that_is_off(name.clone(), *key, labels.clone(), *slots, *clock)
        };
        tell!(self, "{} is copied: {place:?}", machine.name);
        self.machines.push(machine);
        if place == Copied::Elsewhere {
            self.boot(copy);
        }
        self.after(Duration::from_secs(1), Event::AgentStarts(copy));
    }

    pub fn executor_wakes(&mut self, id: MachineId) {
        let now = self.now;
        let machine = &mut self.machines[id.0];
        machine.wakes_at = None;
        let local = machine.clock.local(now);
        if let Some(executor) = &mut machine.executor {
            executor.wake(local, &mut self.random);
        }
        self.settle(id);
    }

    /// Plans to look at an executor when it next has something to do.
    pub fn arm_executor(&mut self, id: MachineId) {
        let machine = &mut self.machines[id.0];
        let local = machine.clock.local(self.now);
        let next = machine.executor.as_ref().and_then(|executor| executor.next(local));
        let Some(next) = next else { return };
        let at = machine.clock.real(next).max(self.now);
        if machine.wakes_at.is_none_or(|planned| at < planned) {
            machine.wakes_at = Some(at);
            self.at(at, Event::ExecutorWakes(id));
        }
    }

    /// Takes what an executor did into the history, and what it said to its agent.
    pub fn gather(&mut self, id: MachineId) {
        let machine = &mut self.machines[id.0];
        let Some(executor) = &mut machine.executor else { return };
        let (happened, said) = (executor.take_happened(), executor.take_said());
        let (dies, ends) = (executor.is_dying, executor.may_end());
        if let Some(agent) = &mut machine.agent {
            agent.inbox.extend(said);
        }
        self.witness(id, happened);
        if dies {
            self.executor_dies(id);
        } else if ends {
            tell!(self, "{}'s executor ends", self.machines[id.0].name);
            self.executor_is_gone(id);
        }
    }

    fn witness(&mut self, id: MachineId, happened: Vec<Happened>) {
        for event in happened {
            match &event {
                Happened::Started(fence) => tell!(self, "{} starts {fence}", self.machines[id.0].name),
                Happened::Ended { fence, outcome, .. } => {
                    tell!(self, "{} has ended {fence} {outcome:?}", self.machines[id.0].name);
                }
                other => unreachable!("an executor tells of starts and ends, not of {other:?}"),
            }
            self.happened(event);
        }
    }

    /// An executor is killed, and all that it runs with it. Whoever calls this settles the machine.
    pub fn executor_dies(&mut self, id: MachineId) {
        let now = self.now;
        let machine = self.machine(id);
        let local = machine.clock.local(now);
        let Some(executor) = &mut machine.executor else { return };
        executor.die(local);
        let happened = executor.take_happened();
        tell!(self, "{}'s executor dies", self.machines[id.0].name);
        self.witness(id, happened);
        self.executor_is_gone(id);
    }

    fn executor_is_gone(&mut self, id: MachineId) {
        let machine = self.machine(id);
        if let Some(agent) = &mut machine.agent {
            agent.line = Line::Broken;
        }
        if let Some(executor) = machine.executor.take() {
            machine.journals.push(executor.journal);
            self.happened(Happened::ExecutorGone(executor.incarnation));
        }
    }

    /// Keeps what an agent had left to say when it died.
    pub fn keep_late_words(&mut self, id: MachineId, undone: Vec<AgentEffect>) {
        if self.plan.plant == Plant::ExecutorIgnoresDials {
            let words = undone.into_iter().filter_map(|effect| match effect {
                AgentEffect::Tell(word @ ToExecutor::Start(_)) => Some(word),
                AgentEffect::Tell(_)
                | AgentEffect::Send(..)
                | AgentEffect::Report(_)
                | AgentEffect::Drain
                | AgentEffect::Exit => None,
            });
            self.machine(id).late_words.extend(words);
        }
    }

    /// What a planted fault delivers after a registration.
    pub fn deliver_what_must_not_come(&mut self, id: MachineId) {
        let now = self.now;
        let machine = &mut self.machines[id.0];
        let local = machine.clock.local(now);
        if let Some(executor) = &mut machine.executor {
            for word in std::mem::take(&mut machine.late_words) {
                executor.obey(local, word, &mut self.random);
            }
        }
        if let Some(agent) = &mut machine.agent {
            let orders = machine.delivered.iter().rev().take(3).cloned();
            orders.for_each(|order| agent.agent.start(local, order));
        }
        self.carry_out(id);
    }
}

/// Where a copy of a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// On other hardware, with a boot id of its own.
    Elsewhere,
    /// On the same kernel, which has one boot id for all.
    Beside,
}
