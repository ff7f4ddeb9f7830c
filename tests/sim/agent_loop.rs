//! The agent's loop: starts, serves and leaves, as `worker::driver` does, with the real decisions of `core::agent` between
//! link and executor.

use std::time::Duration;

use clusterctl::core::agent::AgentEffect;
use clusterctl::core::attempt::{Held, ToExecutor};
use clusterctl::core::id::{Fence, Incarnation};
use clusterctl::core::membership::{Report, StartOrder};
use clusterctl::core::output::Chunk;
use clusterctl::core::time::Timestamp;

use crate::agent_process::{AgentProcess, Call, Line, Phase, Wanted};
use crate::executor::Executor;
use crate::history::Happened;
use crate::link::{End, LinkId};
use crate::machine::{Future, MachineId};
use crate::message::{Down, Leaving, Up};
use crate::plan::Plant;
use crate::world::{Event, Faults, World, tell};

/// So long an agent waits for the answer to its goodbye.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

impl World {
    pub fn agent(&mut self, id: MachineId) -> Option<&mut AgentProcess> {
        self.machine(id).agent.as_mut()
    }

    /// An agent's process starts, if there is none.
    pub fn agent_starts(&mut self, id: MachineId) {
        if self.machine(id).agent.is_some() || self.machine(id).future == Future::Ends {
            return;
        }
        tell!(self, "{} starts its agent", self.machines[id.0].name);
        let (met, held) = self.meet_executor(id);
        let generation = self.fresh();
        let machine = self.machine(id);
        machine.agent = Some(AgentProcess::new(met, held, machine.slots, generation));
        self.happened(Happened::Works(met));
        self.agent_waits(id, Duration::ZERO);
    }

    /// Finds the executor, or starts one; with what it says that it has.
    fn meet_executor(&mut self, id: MachineId) -> (Incarnation, Vec<Held>) {
        let incarnation = Incarnation(self.fresh());
        let (timing, habits) = (self.timing, self.plan.executor);
        let machine = self.machine(id);
        let boot_id = machine.boot_id.clone();
        let new = || Executor::new(incarnation, boot_id, timing, habits);
        let executor = machine.executor.get_or_insert_with(new);
        (executor.incarnation, executor.welcome())
    }

    /// The agent's end of a link is closed, in order or with a reset.
    pub fn agent_closes(&mut self, id: LinkId) {
        let resets = self.random.chance(300);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.down.cut();
        if !resets {
            self.send_up(id, Up::Closed);
        } else if !link.up.is_cut() {
            link.up.cut();
            let wait = self.random.millis(0, 50);
            self.after(wait, Event::Notices(id, End::Pool));
        }
    }

    /// A message has come down a link.
    pub fn agent_receives(&mut self, id: LinkId, message: Down) {
        let machine = self.links[&id].machine;
        let Some(agent) = self.agent(machine).filter(|agent| agent.link() == Some(id)) else { return };
        agent.hear();
        match (agent.phase.clone(), message) {
            (_, Down::Closed) => self.agent_loses(machine),
            (Phase::Registering { link, dial }, Down::Registered(told)) => {
                self.agent_is_answered(machine, link, &dial, told);
            }
            (Phase::Serving { .. }, message) => self.agent_heeds(machine, message),
            (Phase::Leaving { .. }, Down::Done(call)) => {
                if matches!(self.agent(machine).and_then(|agent| agent.answered(call)), Some(Call::Leave)) {
                    self.agent_ends(machine);
                }
            }
            (Phase::Waiting | Phase::Registering { .. } | Phase::Leaving { .. } | Phase::Forsaken, _) => {}
        }
    }

    fn agent_heeds(&mut self, id: MachineId, message: Down) {
        let (now, plant) = (self.now, self.plan.plant);
        let machine = self.machine(id);
        let local = machine.clock.local(now);
        let process = machine.agent.as_mut().expect("an agent heeds");
        match message {
            Down::Registered(_) | Down::Closed => {}
            Down::Durable(call) => {
                if let Some(Call::Write(ends)) = process.answered(call) {
                    ends.into_iter().for_each(|(fence, end)| process.agent.handle_durable(fence, end));
                }
            }
            Down::Forget(call, fences) => {
                process.answered(call);
                fences.into_iter().for_each(|fence| process.agent.forget(fence));
            }
            Down::Lease(call, lease) => {
                if let Some(Call::Beat(sent)) = process.answered(call) {
                    let late = plant == Plant::AgentCountsLeasesFromTheAnswer;
                    process.agent.handle_lease(if late { local } else { sent }, lease);
                    self.has_leases(id, sent, lease);
                }
            }
            Down::Done(call) => drop(process.answered(call)),
            Down::Failed => return self.agent_loses(id),
            Down::Start(order) => self.agent_starts_attempts(id, local, order),
            Down::Cancel(attempts) => {
                attempts.into_iter().for_each(|(fence, how)| process.agent.cancel(fence, how));
            }
            Down::TakeBack(attempts) => {
                attempts.into_iter().for_each(|fence| process.agent.take_back(fence));
            }
            Down::Leaving(Leaving::Restart, lease) => {
                process.agent.handle_leaving(local, lease);
                self.has_leases(id, local, lease);
            }
            Down::Leaving(Leaving::Removed, _) => {
                if let Some(link) = process.link() {
                    self.agent_closes(link);
                }
                if let Some(process) = self.agent(id) {
                    process.agent.handle_disconnected();
                }
                return self.agent_is_forsaken(id);
            }
        }
        self.carry_out(id);
        self.settle(id);
    }

    /// The pool has answered what an agent sent at this time of its machine's clock.
    pub fn has_leases(&mut self, id: MachineId, sent: Timestamp, lease: Duration) {
        let machine = self.machine(id);
        let sent = machine.clock.real(sent);
        let executor = machine.agent.as_ref().expect("an agent is answered").agent.incarnation();
        self.happened(Happened::Leased { executor, sent, lease });
    }

    fn agent_starts_attempts(&mut self, id: MachineId, local: Timestamp, order: StartOrder) {
        if self.plan.plant == Plant::LinkStartsTwice {
            self.machine(id).delivered.push(order.clone());
        }
        let returns = self.random.chance(self.plan.starts_returned);
        let Some(process) = self.agent(id) else { return };
        let here = process.agent.carried();
        let is_new = |fence| !here.living.contains(fence) && !here.ended.contains(fence);
        if returns && order.fences.iter().all(is_new) {
            // What an agent with more attempts than slots may do: it gives back what it has not begun.
            let reports: Vec<Report> = order.fences.into_iter().map(Report::TakenBack).collect();
            return self.agent_reports(id, reports);
        }
        process.agent.start(local, order);
    }

    pub fn agent_beats(&mut self, id: MachineId, generation: u64) {
        let now = self.now;
        let Some(agent) = self.agent(id).filter(|agent| agent.generation == generation) else { return };
        let Some(link) = agent.link() else { return };
        if agent.hears_nothing() {
            tell!(self, "{} does not hear the pool any more", self.machines[id.0].name);
            return self.drop_membership(id);
        }
        let call = self.fresh_call();
        let heartbeat = self.timing.heartbeat;
        let machine = self.machine(id);
        let local = machine.clock.local(now);
        let next = machine.clock.real(local + heartbeat);
        machine.agent.as_mut().expect("an agent beats").called(call, Call::Beat(local));
        self.send_up(link, Up::Beat(call));
        self.at(next, Event::Beats(id, generation));
    }

    /// The agent finds that its link is gone.
    pub fn agent_notices(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let machine = link.machine;
        if self.agent(machine).is_some_and(|agent| agent.link() == Some(id)) {
            self.agent_loses(machine);
        }
    }

    fn agent_loses(&mut self, id: MachineId) {
        let Some(agent) = self.agent(id) else { return };
        let Some(link) = agent.link() else { return };
        match agent.phase {
            Phase::Waiting | Phase::Forsaken => {}
            Phase::Registering { .. } => {
                self.agent_closes(link);
                self.agent_is_away(id);
            }
            Phase::Serving { .. } => {
                tell!(self, "{} loses its link", self.machines[id.0].name);
                self.drop_membership(id);
            }
            Phase::Leaving { .. } => self.agent_ends(id),
        }
    }

    fn drop_membership(&mut self, id: MachineId) {
        let (now, heartbeat) = (self.now, self.timing.heartbeat);
        let machine = self.machine(id);
        let local = machine.clock.local(now);
        let Some(Phase::Serving { link, since }) = machine.agent.as_ref().map(|agent| agent.phase.clone())
        else {
            return;
        };
        self.agent_closes(link);
        let agent = self.agent(id).expect("an agent has the membership");
        // A pool that takes us and at once lets go is not to be hurried.
        agent.failures = if local.since(since) < heartbeat { agent.failures + 1 } else { 0 };
        let failures = agent.failures;
        agent.enter(Phase::Waiting);
        agent.agent.handle_disconnected();
        self.carry_out(id);
        let pause = self.pause(failures);
        self.agent_waits(id, pause);
    }

    /// Carries out what the agent decided.
    pub fn carry_out(&mut self, id: MachineId) {
        let Some(process) = self.agent(id) else { return };
        let mut effects = process.agent.poll_effects();
        let serving = matches!(process.phase, Phase::Serving { .. });
        let dies = self.faults == Faults::Strike
            && effects.iter().any(|effect| matches!(effect, AgentEffect::Tell(_)))
            && self.random.chance(self.plan.agent_dies);
        let undone = if dies { effects.split_off(self.random.index(effects.len())) } else { Vec::new() };
        let (mut chunks, mut reports, mut exits): (Vec<(Fence, Chunk)>, Vec<Report>, bool) =
            (Vec::new(), Vec::new(), false);
        for effect in effects {
            match effect {
                AgentEffect::Tell(word) => self.tell_executor(id, word),
                AgentEffect::Send(fence, chunk) => chunks.push((fence, chunk)),
                AgentEffect::Report(report) => reports.push(report),
                AgentEffect::Drain if serving => self.agent_calls(id, Call::Drain, Up::Drain),
                AgentEffect::Drain => {}
                AgentEffect::Exit => exits = true,
            }
        }
        if serving {
            self.agent_writes(id, chunks);
            self.agent_reports(id, reports);
        }
        if dies {
            self.keep_late_words(id, undone);
            return self.agent_dies(id);
        }
        if exits {
            self.agent_exits(id);
        }
    }

    fn tell_executor(&mut self, id: MachineId, word: ToExecutor) {
        let (now, machine) = (self.now, &mut self.machines[id.0]);
        let local = machine.clock.local(now);
        if let Some(executor) = &mut machine.executor {
            executor.obey(local, word, &mut self.random);
        }
    }

    fn agent_writes(&mut self, id: MachineId, chunks: Vec<(Fence, Chunk)>) {
        let mut parts: Vec<(Fence, Vec<Chunk>)> = Vec::new();
        for (fence, chunk) in chunks {
            match parts.iter_mut().find(|(other, _)| *other == fence) {
                Some((_, chunks)) => chunks.push(chunk),
                None => parts.push((fence, vec![chunk])),
            }
        }
        if parts.is_empty() {
            return;
        }
        let end = |(fence, chunks): &(Fence, Vec<Chunk>)| (*fence, chunks.last().map_or(0, Chunk::end));
        let ends = parts.iter().map(end).collect();
        self.agent_calls(id, Call::Write(ends), |call| Up::Write(call, parts));
    }

    fn agent_reports(&mut self, id: MachineId, reports: Vec<Report>) {
        if !reports.is_empty() {
            self.agent_calls(id, Call::Report, |call| Up::Report(call, reports));
        }
    }

    fn agent_calls(&mut self, id: MachineId, call: Call, message: impl FnOnce(crate::message::CallId) -> Up) {
        let number = self.fresh_call();
        let Some(agent) = self.agent(id) else { return };
        let Some(link) = agent.link() else { return };
        agent.called(number, call);
        self.send_up(link, message(number));
    }

    /// Nothing is left to do: the agent says goodbye, if anybody listens, and ends.
    fn agent_exits(&mut self, id: MachineId) {
        tell!(self, "{} has nothing left to do", self.machines[id.0].name);
        let Some(agent) = self.agent(id) else { return };
        let Phase::Serving { link, .. } = agent.phase else { return self.agent_ends(id) };
        agent.enter(Phase::Leaving { link });
        let generation = agent.generation;
        self.agent_calls(id, Call::Leave, Up::Leave);
        self.after(LEAVE_WITHIN, Event::LeaveTimesOut(id, generation));
    }

    pub fn leave_times_out(&mut self, id: MachineId, generation: u64) {
        if self.agent(id).is_some_and(|agent| agent.generation == generation) {
            self.agent_ends(id);
        }
    }

    /// The agent's process ends of its own accord. Somebody starts another, sooner or later.
    fn agent_ends(&mut self, id: MachineId) {
        self.agent_dies(id);
    }

    /// The agent's process is gone, whatever it was about to do.
    pub fn agent_dies(&mut self, id: MachineId) {
        let Some(agent) = self.machine(id).agent.take() else { return };
        tell!(self, "{}'s agent is gone", self.machines[id.0].name);
        if let Some(link) = agent.link() {
            self.agent_closes(link);
        }
        if let Some(executor) = &mut self.machine(id).executor {
            executor.lose_agent();
        }
        self.settle(id);
        let longest = self.random.pick(&[500, 5000, 60_000]);
        let wait = self.random.millis(10, longest);
        self.after(wait, Event::AgentStarts(id));
    }

    /// Lets executor and agent of a machine talk until neither has more to say, and plans when to look again.
    pub fn settle(&mut self, id: MachineId) {
        loop {
            self.gather(id);
            let Some(process) = self.agent(id) else { break };
            if matches!(process.phase, Phase::Leaving { .. }) {
                break;
            }
            if process.line == Line::Broken {
                self.meet_another_executor(id);
                continue;
            }
            let Some(word) = process.inbox.pop_front() else { break };
            process.agent.handle_executor(word);
            self.carry_out(id);
        }
        self.arm_executor(id);
    }

    /// The line to the executor is gone: another is met, and what the pool has to know of that it learns by the next
    /// registration.
    fn meet_another_executor(&mut self, id: MachineId) {
        let (met, held) = self.meet_executor(id);
        let Some(process) = self.agent(id) else { return };
        process.meet(met, held);
        if process.wanted == Wanted::Drain {
            self.happened(Happened::Drains(met));
        }
        self.carry_out(id);
        self.drop_membership(id);
    }
}
