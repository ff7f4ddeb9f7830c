//! The second half of a liveness run: faults cease, what is away comes back or is given up by a person, and within a
//! bounded time everything that can be done is done.

use std::time::Duration;

use clusterctl::core::outcome::Cancel;
use clusterctl::core::pool::Viewer;

use crate::answer::Answer;
use crate::client::{Ask, ClientId, Submitted};
use crate::history::{Promise, Violation};
use crate::machine::{Future, MachineId};
use crate::pool_process::Intake;
use crate::wish::is_endless;
use crate::world::{Event, Faults, World, tell};

/// A run that is not done by then never will be: the longest lease, the longest script as often as it may run on one
/// slot after the other, and time for everybody to find everybody.
const DONE_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// Everybody who will ever come back is back by then.
const BACK_WITHIN: Duration = Duration::from_secs(1200);

/// To look whether everything rests takes longer than a step.
const STEPS_BETWEEN_LOOKS: u32 = 25;

impl World {
    /// Lets everything come to rest; says what does not.
    pub fn calm_down(&mut self) -> Option<Violation> {
        tell!(self, "faults cease");
        self.faults = Faults::HaveCeased;
        self.plan.executor.dies_in_a_start = 0;
        self.plan.agent_dies = 0;
        self.plan.starts_returned = 0;
        self.plan.links_stall = 0;
        self.plan.links_break = 0;
        self.repair();
        (0..self.machines.len()).map(MachineId).for_each(|id| self.worker_is_resumed(id));
        self.cancel_the_endless();
        self.after(Duration::ZERO, Event::Ticks);
        let (begun, mut gave_up) = (self.now, false);
        while self.now.since(begun) < DONE_WITHIN {
            for _ in 0..STEPS_BETWEEN_LOOKS {
                self.step();
            }
            if !gave_up && self.now.since(begun) > BACK_WITHIN {
                gave_up = true;
                self.give_up_the_gone();
            }
            if self.rests() {
                tell!(self, "everything rests");
                return None;
            }
        }
        Some(Violation {
            promise: Promise::P1,
            at: self.now,
            text: format!("it never rests: {}", self.unrest()),
        })
    }

    /// Heals the network, and settles which of the copies of a machine is to go on.
    fn repair(&mut self) {
        let now = self.now;
        let mut keys = std::collections::BTreeSet::new();
        for id in (0..self.machines.len()).map(MachineId) {
            let machine = self.machine(id);
            machine.away_until = machine.away_until.min(now);
            let is_first = keys.insert(machine.key);
            if !is_first && machine.future == Future::Works {
                machine.future = Future::Ends;
                self.agent_dies(id);
                self.executor_dies(id);
            }
            if let Some(executor) = &mut self.machine(id).executor {
                executor.be_reliable();
            }
            if self.random.chance(300) {
                let wait = self.random.millis(0, 100_000);
                self.after(wait, Event::LastBlow(id));
            }
        }
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.links.get_mut(&id).expect("the link was just found").held_until = now;
            // The last fault leaves its traces like any other.
            match self.random.below(4) {
                0 => self.break_loudly(id),
                1 => self.cut_silently(id),
                _ => {}
            }
        }
    }

    /// Clients cancel what would never end.
    fn cancel_the_endless(&mut self) {
        for id in (0..self.clients.len()).map(ClientId) {
            for Submitted { job, spec, .. } in self.client(id).jobs.clone() {
                if is_endless(&spec) {
                    self.ask(id, Ask::Cancel { job, ranges: Vec::new(), how: Cancel::Terminate });
                }
            }
        }
    }

    /// The last that goes wrong with a machine, when the rest has been well for a while.
    pub fn last_blow(&mut self, id: MachineId) {
        let link = self.machines[id.0].agent.as_ref().and_then(|agent| agent.link());
        match self.random.below(3) {
            0 => self.machine_reboots(id),
            1 => link.into_iter().for_each(|link| self.break_loudly(link)),
            _ => link.into_iter().for_each(|link| self.link_is_held(link)),
        }
        if self.random.chance(500) {
            let wait = self.random.millis(0, 60_000);
            self.after(wait, Event::LastBlow(id));
        }
    }

    /// A person removes the workers that will not come back.
    fn give_up_the_gone(&mut self) {
        for id in (0..self.machines.len()).map(MachineId) {
            let key = self.machines[id.0].key;
            let comes =
                |machine: &crate::machine::Machine| machine.key == key && machine.future == Future::Works;
            if !self.machines.iter().any(comes) {
                let name = self.machines[id.0].name.clone();
                tell!(self, "{name} is given up");
                self.decide(move |pool, now| {
                    let _ = pool.remove_worker(now, &Viewer::admin("root"), name.as_str());
                    Answer::Nothing
                });
            }
        }
    }

    /// Whether nothing is left to be done by anybody.
    fn rests(&self) -> bool {
        self.unfinished_jobs().is_empty()
            && self.pool.as_ref().is_some_and(|process| process.intake == Intake::Open)
            && self.clients.iter().all(|client| client.exchanges.is_empty() && self.follows_wait(client))
            && self.machines.iter().all(|machine| {
                machine.future == Future::Ends
                    || machine.executor.as_ref().is_none_or(|executor| executor.is_empty())
            })
    }

    /// Whether all that a client follows is what can never be placed.
    fn follows_wait(&self, client: &crate::client::Client) -> bool {
        let Some(process) = &self.pool else { return false };
        client.follows.values().all(|job| process.pool.info(&client.viewer, *job).is_some())
    }

    /// Live jobs with a task that is at a worker, or that a worker could take.
    fn unfinished_jobs(&self) -> Vec<String> {
        let Some(process) = &self.pool else { return vec!["no pool".to_owned()] };
        let root = Viewer::admin("root");
        let now = self.clocks();
        let page = process.pool.list(&root, &Default::default(), None, 1000);
        let mut unfinished = Vec::new();
        for job in page.jobs {
            let tasks = process.pool.live_tasks(&root, job.id, (None, 1000), None).unwrap_or_default();
            let at_worker = tasks.iter().any(|task| task.worker.is_some());
            let index = tasks.first().map_or(0, |task| task.index);
            let fitting = process.pool.why(now, &root, job.id, index).map_or(0, |why| why.fitting);
            if at_worker || fitting > 0 {
                let states = tasks.iter().map(|task| (task.index, task.state.as_str(), task.worker.clone()));
                unfinished.push(format!("job {}: {:?}", job.id, states.collect::<Vec<_>>()));
            }
        }
        unfinished
    }

    fn unrest(&self) -> String {
        let held = self.machines.iter().filter(|machine| machine.future == Future::Works).map(|machine| {
            let executor = machine.executor.as_ref();
            (machine.name.to_string(), executor.is_some_and(|executor| !executor.is_empty()))
        });
        let exchanges: usize = self.clients.iter().map(|client| client.exchanges.len()).sum();
        format!(
            "{:?}, executors hold {:?}, {exchanges} requests have no answer, follows {:?}",
            self.unfinished_jobs(),
            held.collect::<Vec<_>>(),
            self.clients.iter().map(|client| client.follows.clone()).collect::<Vec<_>>()
        )
    }
}
