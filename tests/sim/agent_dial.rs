//! How a simulated agent becomes a member of its pool: dialling, enrolling, registering, as `worker::registration` and
//! the loop of `worker::driver` do it; and what it does when the pool says no.

use std::time::Duration;

use clusterctl::core::id::ConnectionId;
use clusterctl::core::membership::{Carried, Registered};
use clusterctl::core::pool::{EnrolWish, Identity, NameChoice, RegisterError, Viewer};
use clusterctl::core::{access, label::Labels};

use crate::agent_process::{Dial, Phase};
use crate::answer::Answer;
use crate::history::Happened;
use crate::link::{Link, LinkId};
use crate::machine::{Enrolment, Future, MachineId};
use crate::message::Up;
use crate::plan::Plant;
use crate::pool_doors::DoorEnd;
use crate::pool_process::Intake;
use crate::world::{Event, World, tell};

/// A registration that is not answered by then is given up.
const REGISTER_WITHIN: Duration = Duration::from_secs(20);

impl World {
    pub fn agent_waits(&mut self, id: MachineId, wait: Duration) {
        let Some(agent) = self.agent(id) else { return };
        agent.enter(Phase::Waiting);
        let generation = agent.generation;
        self.after(wait, Event::Dials(id, generation));
        self.settle(id);
    }

    /// A dial or a registration failed: again after a pause.
    pub fn agent_is_away(&mut self, id: MachineId) {
        let Some(agent) = self.agent(id) else { return };
        agent.failures += 1;
        let failures = agent.failures;
        let pause = self.pause(failures);
        self.agent_waits(id, pause);
    }

    /// There is a pool again: who dialled in vain gets through.
    pub fn dials_get_through(&mut self) {
        for id in (0..self.machines.len()).map(MachineId) {
            let Some(agent) = self.agent(id).filter(|agent| agent.phase == Phase::Waiting) else { continue };
            let generation = agent.generation;
            let wait = self.pause(10);
            self.after(wait, Event::Dials(id, generation));
        }
    }

    pub fn pause(&mut self, failures: u32) -> Duration {
        let longest = Duration::from_millis(100) * 2_u32.saturating_pow(failures.min(10));
        let longest = longest.min(self.timing.dial_pause_max);
        let part = u32::try_from(self.random.between(500, 1000)).unwrap();
        longest * part / 1000
    }

    pub fn agent_dials(&mut self, id: MachineId, generation: u64) {
        if self.agent(id).is_none_or(|agent| agent.generation != generation) {
            return;
        }
        let machine = &self.machines[id.0];
        let away_for = machine.away_until.since(self.now);
        if !away_for.is_zero() {
            // Every dial until then would fail, and nobody but the agent would know.
            return self.agent_waits(id, away_for);
        }
        let Some(process) = &self.pool else { return };
        if process.intake == Intake::Stopping {
            return self.agent_is_away(id);
        }
        if machine.enrolment == Enrolment::Wanted {
            self.enrol(id);
            return self.agent_waits(id, Duration::from_secs(1));
        }
        let Some(Identity::Worker(worker, _)) = process.identities.get(&machine.key).cloned() else {
            return self.agent_is_forsaken(id);
        };
        let link = LinkId(self.fresh());
        let process = self.pool.as_mut().expect("the pool was just there");
        process.last_connection += 1;
        let connection = ConnectionId(process.last_connection);
        process.ends.insert(connection, DoorEnd::new(link, worker));
        let life = process.life;
        self.links.insert(link, Link::new(id, life, connection));
        self.link_is_poor(link);
        self.register(id, link);
    }

    /// The key is let in by a token, which is made for it.
    fn enrol(&mut self, id: MachineId) {
        let machine = self.machine(id);
        let (key, name) = (machine.key, machine.name.clone());
        self.decide(move |pool, now| {
            let wish = access::TokenWish {
                role: access::Role::Worker,
                name: None,
                owner: None,
                labels: Labels::new(),
                uses: Some(1),
                ttl: Duration::from_secs(60),
            };
            let token = pool
                .create_token(now, &Viewer::admin("root"), wish, [7; 32])
                .expect("there is room for a token");
            let wish = EnrolWish {
                token,
                secret_hash: [7; 32],
                role: access::Role::Worker,
                key,
                name,
                choice: NameChoice::Default,
                source: "10.0.0.9".to_owned(),
            };
            match pool.enrol(now, wish) {
                Ok(_) => Answer::Enrolled(id),
                // It was let in before, and removed before it knew.
                Err(_) => Answer::Nothing,
            }
        });
    }

    fn register(&mut self, id: MachineId, link: LinkId) {
        let (now, plant) = (self.now, self.plan.plant);
        let machine = self.machine(id);
        let began = machine.clock.local(now);
        // Of the present boot alone: a power cut takes a journal's last lines.
        let past = machine.journals.iter().map(|journal| Carried {
            incarnation: journal.incarnation,
            living: Vec::new(),
            ended: Vec::new(),
            never_started: match journal.boot_id == machine.boot_id {
                true => journal.never_started.iter().copied().collect(),
                false => Vec::new(),
            },
        });
        let agent = &machine.agent.as_ref().expect("an agent registers").agent;
        let carried: Vec<Carried> = std::iter::once(agent.carried()).chain(past).collect();
        let incarnation = agent.incarnation();
        let mut facts = machine.facts(incarnation, began.0);
        let boot_id = machine.boot_id.clone();
        if plant == Plant::LinkTellsTheFirstBoot {
            facts.boot_id = machine.first_boot_id.clone().expect("a machine that registers was booted");
        }
        let journals = machine.journals.iter().map(|journal| journal.incarnation).collect();
        let agent = machine.agent.as_mut().expect("an agent registers");
        agent.enter(Phase::Registering { link, dial: Dial { began, incarnation, journals } });
        let generation = agent.generation;
        tell!(self, "{} registers over {link:?}: {carried:?}", self.machines[id.0].name);
        self.happened(Happened::Registers { executor: incarnation, boot_id });
        self.send_up(link, Up::Register(facts, carried));
        self.after(REGISTER_WITHIN, Event::RegisterTimesOut(id, generation));
        self.settle(id);
    }

    pub fn register_times_out(&mut self, id: MachineId, generation: u64) {
        let Some(agent) = self.agent(id).filter(|agent| agent.generation == generation) else { return };
        if let Some(link) = agent.link() {
            self.agent_closes(link);
        }
        self.agent_is_away(id);
    }

    pub fn agent_is_answered(
        &mut self,
        id: MachineId,
        link: LinkId,
        dial: &Dial,
        told: Result<Registered, RegisterError>,
    ) {
        let now = self.now;
        let machine = self.machine(id);
        let local = machine.clock.local(now);
        let agent = machine.agent.as_mut().expect("an agent is answered");
        match told {
            Ok(told) if agent.agent.incarnation() == dial.incarnation => {
                machine.journals.retain(|journal| !dial.journals.contains(&journal.incarnation));
                agent.enter(Phase::Serving { link, since: local });
                let generation = agent.generation;
                agent.agent.handle_registered(dial.began, dial.began.0, &told);
                self.has_leases(id, dial.began, told.lease);
                self.after(Duration::ZERO, Event::Beats(id, generation));
                self.carry_out(id);
                self.deliver_what_must_not_come(id);
                self.settle(id);
            }
            Ok(_) => {
                self.agent_closes(link);
                self.agent_is_away(id);
            }
            Err(RegisterError::Elsewhere(_) | RegisterError::Copied(_) | RegisterError::Outdated) => {
                tell!(self, "{} is refused for now", self.machines[id.0].name);
                self.agent_closes(link);
                self.agent_waits(id, self.timing.dial_pause_refused);
            }
            Err(RegisterError::Unknown) => {
                self.agent_closes(link);
                self.agent_is_forsaken(id);
            }
            Err(RegisterError::Slots(_)) => unreachable!("no machine has so many slots"),
        }
    }

    /// The pool knows this worker no more: what runs is ended, and then the agent. Only another token would let it in.
    pub fn agent_is_forsaken(&mut self, id: MachineId) {
        tell!(self, "{} is no longer known", self.machines[id.0].name);
        self.machine(id).future = Future::Ends;
        let Some(process) = self.agent(id) else { return };
        process.enter(Phase::Forsaken);
        process.agent.forsake();
        self.carry_out(id);
        self.settle(id);
    }
}
