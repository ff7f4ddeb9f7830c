//! An agent's decisions: what a worker's pool wants, what its executor says, and what each is told next. Pure.
//!
//! It survives the link: endings are kept until the pool has them, output is asked for again from where the pool is.
//! It knows neither how words travel nor how jobs run.
//!
//! ```text
//!   an attempt here:   given ──Started──> running ──Ended──> ended ──all output acknowledged──> reported ──forget──> gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::attempt::{AttemptEnd, FromExecutor, Held, Launch, ToExecutor};
use super::id::{Fence, Incarnation};
use super::membership::{Carried, Registered, Report, StartOrder};
use super::outcome::Cancel;
use super::output::Chunk;
use super::time::Timestamp;

/// What an agent wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEffect {
    /// Say this to the executor.
    Tell(ToExecutor),
    /// Send this output to the pool, and say when it is durable.
    Send(Fence, Chunk),
    /// Report this to the pool, and say when it is durable.
    Report(Report),
    /// Tell the pool that nothing new is wanted.
    Drain,
    /// Nothing is left: end.
    Exit,
}

/// Whether a worker takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Work,
    /// Finish what there is, then end.
    Drain,
    /// End everything, then end.
    Stop,
    /// The pool does not know this worker any more: the same, and nothing need be kept.
    Forsaken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Here {
    Given,
    Running,
    /// Some of its output is on its way.
    Ended(AttemptEnd),
    /// The pool has been told.
    Reported(AttemptEnd),
}

impl Here {
    fn of(held: Held) -> (Fence, Self) {
        match held {
            Held::Waiting(fence) => (fence, Self::Given),
            Held::Running(fence) => (fence, Self::Running),
            Held::Ended(end) => (end.fence, Self::Ended(end)),
        }
    }
}

/// An agent's state.
#[derive(Debug)]
pub struct Agent {
    incarnation: Incarnation,
    dial: u64,
    attempts: BTreeMap<Fence, Here>,
    acknowledged: BTreeMap<Fence, u64>,
    online: bool,
    intent: Intent,
    worker: String,
    slots: u32,
    /// For how long after a sign of life of the pool what waits may start.
    silent_after: Duration,
    /// Until when an attempt with a lease may run, as far as the pool has said.
    lease_until: Timestamp,
    /// The pool goes: what it said then is its last word.
    left: bool,
    /// Where there is no room for more.
    full: Option<String>,
    effects: Vec<AgentEffect>,
}

impl Agent {
    /// An agent whose executor has just said what it has, and is to run so many at a time.
    pub fn new(incarnation: Incarnation, held: Vec<Held>, slots: u32) -> Self {
        Self {
            incarnation,
            dial: 0,
            attempts: held.into_iter().map(Here::of).collect(),
            acknowledged: BTreeMap::new(),
            online: false,
            intent: Intent::Work,
            worker: String::new(),
            slots,
            silent_after: Duration::ZERO,
            lease_until: Timestamp::default(),
            left: false,
            full: None,
            effects: Vec::new(),
        }
    }

    /// The executor was met anew, or another one: what it has counts, and what is wanted of it has not changed. Only a
    /// new registration tells the pool.
    pub fn handle_welcome(&mut self, incarnation: Incarnation, held: Vec<Held>) {
        let Self { intent, dial, .. } = *self;
        *self = Self {
            intent,
            dial,
            worker: std::mem::take(&mut self.worker),
            lease_until: self.lease_until,
            silent_after: self.silent_after,
            full: self.full.take(),
            ..Self::new(incarnation, held, self.slots)
        };
        match intent {
            Intent::Work | Intent::Drain => {}
            Intent::Stop => self.tell(ToExecutor::StopAll),
            Intent::Forsaken => self.forsake(),
        }
        self.exit_if_done();
    }

    /// Of which executor it speaks.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What is to be said to the pool about the present executor, when registering.
    pub fn carried(&self) -> Carried {
        let mut carried = Carried {
            incarnation: self.incarnation,
            living: Vec::new(),
            ended: Vec::new(),
            never_started: Vec::new(),
        };
        for (fence, here) in &self.attempts {
            match here {
                Here::Given | Here::Running => carried.living.push(*fence),
                Here::Ended(_) | Here::Reported(_) => carried.ended.push(*fence),
            }
        }
        carried
    }

    /// How many attempts it has that have not ended.
    pub fn living(&self) -> usize {
        self.attempts.values().filter(|here| matches!(here, Here::Given | Here::Running)).count()
    }

    /// Whether something waits here for a slot.
    pub fn has_more_to_start(&self) -> bool {
        self.attempts.len() > self.slots as usize
    }

    /// A registration that was sent at `sent`, by this dial, was answered: everything goes on from where the pool is.
    pub fn handle_registered(&mut self, sent: Timestamp, dial: u64, told: &Registered) {
        self.dial = dial;
        self.online = true;
        self.left = false;
        self.worker.clone_from(&told.name);
        self.silent_after = told.silent_after;
        self.tell(ToExecutor::Dial(dial));
        self.tell(ToExecutor::Unpause);
        self.handle_lease(sent, told.lease);
        for &fence in &told.forget {
            self.forget(fence);
        }
        let unwanted: BTreeSet<Fence> = told.kill.iter().copied().collect();
        for &fence in &unwanted {
            self.tell(ToExecutor::End { fence, how: Cancel::Kill });
        }
        let positions: BTreeMap<Fence, u64> = told.positions.iter().copied().collect();
        let fences: Vec<Fence> = self.attempts.keys().copied().collect();
        for fence in fences {
            if unwanted.contains(&fence) {
                // Its end is reported without: nobody acknowledges output of what is not wanted.
                self.acknowledged.insert(fence, u64::MAX);
            } else {
                let position = positions.get(&fence).copied().unwrap_or(0);
                self.acknowledged.insert(fence, position);
                self.tell(ToExecutor::SendFrom { fence, position });
            }
            self.report_again(fence);
        }
        if self.intent != Intent::Work {
            self.effects.push(AgentEffect::Drain);
        }
    }

    /// The link is gone: nothing is sent until there is another.
    pub fn handle_disconnected(&mut self) {
        if std::mem::replace(&mut self.online, false) {
            self.tell(ToExecutor::Pause);
        }
        self.exit_if_done();
    }

    /// The pool gives attempts of one job. Who takes nothing new or has no room gives them back, and so does one to whom
    /// they come when their lease would be over.
    pub fn start(&mut self, now: Timestamp, order: StartOrder) {
        let StartOrder { script, args, env, cwd, timeout, fences, lease, .. } = order;
        for fence in fences {
            if self.attempts.contains_key(&fence) {
                continue;
            }
            if self.intent != Intent::Work
                || self.full.is_some()
                || (lease.is_some() && self.lease_until <= now)
            {
                self.effects.push(AgentEffect::Report(Report::TakenBack(fence)));
                continue;
            }
            self.attempts.insert(fence, Here::Given);
            let launch = Launch {
                fence,
                dial: self.dial,
                script: script.clone(),
                args: args.clone(),
                env: env.clone(),
                cwd: cwd.clone(),
                timeout,
                lease_until: lease.map(|_| self.lease_until),
                worker: self.worker.clone(),
            };
            self.tell(ToExecutor::Start(launch));
        }
    }

    /// The pool wants an attempt ended.
    pub fn cancel(&mut self, fence: Fence, how: Cancel) {
        self.tell(ToExecutor::End { fence, how });
    }

    /// There is no room for more at this place, or there is again.
    pub fn set_full(&mut self, place: Option<String>) {
        self.full = place;
    }

    /// Where there is no room for more.
    pub fn full(&self) -> Option<&str> {
        self.full.as_deref()
    }

    /// The pool would like to have an attempt back, if it was not started.
    pub fn take_back(&mut self, fence: Fence) {
        self.tell(ToExecutor::TakeBack(fence));
    }

    /// The pool has an ending, or does not want it.
    pub fn forget(&mut self, fence: Fence) {
        if matches!(self.attempts.get(&fence), Some(Here::Ended(_) | Here::Reported(_))) {
            self.attempts.remove(&fence);
            self.acknowledged.remove(&fence);
            self.tell(ToExecutor::Forget(fence));
            self.exit_if_done();
        }
    }

    /// Output up to a position is durable at the pool.
    pub fn handle_durable(&mut self, fence: Fence, position: u64) {
        let Some(acknowledged) = self.acknowledged.get_mut(&fence) else { return };
        *acknowledged = position.max(*acknowledged);
        self.tell(ToExecutor::Acknowledged { fence, position });
        self.report_if_complete(fence);
    }

    /// A heartbeat that was sent at `sent` was answered with this lease.
    pub fn handle_lease(&mut self, sent: Timestamp, lease: Duration) {
        if !self.left {
            self.lease_until = sent + lease;
            self.tell(ToExecutor::Lease(self.lease_until));
            self.tell(ToExecutor::Starts { slots: self.slots, until: sent + self.silent_after });
        }
    }

    /// The pool goes, and extends the lease once.
    pub fn handle_leaving(&mut self, now: Timestamp, lease: Duration) {
        self.handle_lease(now, lease);
        self.left = true;
    }

    /// The executor says something.
    pub fn handle_executor(&mut self, word: FromExecutor) {
        match word {
            FromExecutor::Welcome { .. } => {}
            FromExecutor::Started(fence) => {
                if let Some(here @ Here::Given) = self.attempts.get_mut(&fence) {
                    *here = Here::Running;
                    if self.online {
                        self.effects.push(AgentEffect::Report(Report::Started(fence)));
                    }
                }
            }
            FromExecutor::Output { fence, chunk } => {
                // What was forgotten may still have been on its way here.
                if self.attempts.contains_key(&fence) && self.online {
                    self.acknowledged.entry(fence).or_insert(0);
                    self.effects.push(AgentEffect::Send(fence, chunk));
                }
            }
            FromExecutor::Ended(end) => {
                let fence = end.fence;
                self.acknowledged.entry(fence).or_insert(0);
                self.attempts.insert(fence, Here::Ended(end));
                if self.intent == Intent::Forsaken {
                    self.forget(fence);
                }
                self.report_if_complete(fence);
                self.exit_if_done();
            }
            FromExecutor::Refused(fence) => {
                self.attempts.remove(&fence);
                if self.online {
                    self.effects.push(AgentEffect::Report(Report::TakenBack(fence)));
                }
                self.exit_if_done();
            }
        }
    }

    /// Takes nothing new, gives back what was not started, and ends when nothing is left.
    pub fn drain(&mut self) {
        if self.intent == Intent::Work {
            self.intent = Intent::Drain;
            let given: Vec<Fence> = self
                .attempts
                .iter()
                .filter(|(_, here)| **here == Here::Given)
                .map(|(fence, _)| *fence)
                .collect();
            given.into_iter().for_each(|fence| self.take_back(fence));
            if self.online {
                self.effects.push(AgentEffect::Drain);
            }
        }
        self.exit_if_done();
    }

    /// Ends everything that runs, and ends when the pool knows of it; if that is away, when nothing runs any more. The
    /// executor keeps what is not known, for the agent that comes next.
    pub fn stop(&mut self) {
        self.drain();
        if self.intent == Intent::Drain {
            self.intent = Intent::Stop;
            self.tell(ToExecutor::StopAll);
        }
        self.exit_if_done();
    }

    /// Kills everything that runs, if it is being stopped.
    pub fn kill(&mut self) {
        let living =
            |(fence, here): (&Fence, &Here)| matches!(here, Here::Given | Here::Running).then_some(*fence);
        let living: Vec<Fence> = self.attempts.iter().filter_map(living).collect();
        living.into_iter().for_each(|fence| self.tell(ToExecutor::End { fence, how: Cancel::Kill }));
    }

    /// The pool does not know this worker any more: everything is ended and nothing is kept.
    pub fn forsake(&mut self) {
        self.intent = Intent::Forsaken;
        self.tell(ToExecutor::StopAll);
        let ended = |(fence, here): (&Fence, &Here)| {
            matches!(here, Here::Ended(_) | Here::Reported(_)).then_some(*fence)
        };
        let ended: Vec<Fence> = self.attempts.iter().filter_map(ended).collect();
        ended.into_iter().for_each(|fence| self.forget(fence));
        self.exit_if_done();
    }

    /// What is to be done.
    pub fn poll_effects(&mut self) -> Vec<AgentEffect> {
        std::mem::take(&mut self.effects)
    }

    /// Reports what may have been lost with the link.
    fn report_again(&mut self, fence: Fence) {
        match self.attempts.get(&fence) {
            None | Some(Here::Given) => {}
            Some(Here::Running) => self.effects.push(AgentEffect::Report(Report::Started(fence))),
            Some(Here::Ended(end) | Here::Reported(end)) => {
                let ended = Here::Ended(end.clone());
                self.attempts.insert(fence, ended);
                self.report_if_complete(fence);
            }
        }
    }

    /// Reports an ending once all of its output is durable.
    fn report_if_complete(&mut self, fence: Fence) {
        if !self.online {
            return;
        }
        let acknowledged = self.acknowledged.get(&fence).copied().unwrap_or(0);
        let Some(here) = self.attempts.get_mut(&fence) else { return };
        let Here::Ended(end) = here else { return };
        if !end.tail.is_empty() || acknowledged >= end.totals.end() {
            self.effects.push(AgentEffect::Report(Report::Ended(end.clone())));
            *here = Here::Reported(end.clone());
        }
    }

    fn exit_if_done(&mut self) {
        let done = match self.intent {
            Intent::Work => false,
            Intent::Stop if !self.online => self.living() == 0,
            Intent::Drain | Intent::Stop | Intent::Forsaken => self.attempts.is_empty(),
        };
        if done {
            self.tell(ToExecutor::ExitWhenEmpty);
            self.effects.push(AgentEffect::Exit);
        }
    }

    fn tell(&mut self, word: ToExecutor) {
        self.effects.push(AgentEffect::Tell(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::{AttemptNumber, JobId};
    use crate::core::outcome::{Outcome, Usage};
    use crate::core::output::{OutputTotals, Stream};

    fn fence() -> Fence {
        Fence { attempt: AttemptNumber(1), ..Fence::default() }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    fn order() -> StartOrder {
        StartOrder {
            job: JobId(1),
            script: b"true".to_vec(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            timeout: None,
            fences: vec![fence()],
            lease: None,
        }
    }

    fn ended(bytes: u64) -> AttemptEnd {
        let totals = OutputTotals { stdout_bytes: bytes, ..OutputTotals::default() };
        AttemptEnd {
            fence: fence(),
            outcome: Outcome::Exited(0),
            usage: Usage::default(),
            totals,
            tail: Vec::new(),
        }
    }

    fn told() -> Registered {
        Registered {
            name: "w1".into(),
            pool: "lab".into(),
            lease: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
            silent_after: Duration::from_secs(15),
            forget: Vec::new(),
            kill: Vec::new(),
            positions: Vec::new(),
            only_owner: None,
        }
    }

    fn running() -> Agent {
        let mut agent = Agent::new(Incarnation(1), Vec::new(), 2);
        agent.handle_registered(at(0), 1, &told());
        agent.start(at(0), order());
        agent.handle_executor(FromExecutor::Started(fence()));
        agent.poll_effects();
        agent
    }

    fn reports(agent: &mut Agent) -> Vec<Report> {
        let report = |effect| match effect {
            AgentEffect::Report(report) => Some(report),
            _ => None,
        };
        agent.poll_effects().into_iter().filter_map(report).collect()
    }

    fn leases(agent: &mut Agent) -> Vec<Timestamp> {
        let lease = |effect| match effect {
            AgentEffect::Tell(ToExecutor::Lease(until)) => Some(until),
            _ => None,
        };
        agent.poll_effects().into_iter().filter_map(lease).collect()
    }

    #[test]
    fn what_waits_may_start_for_as_long_after_a_heartbeat_as_its_worker_is_not_silent() {
        let mut agent = running();

        agent.handle_lease(at(10), Duration::from_secs(60));

        let starts = AgentEffect::Tell(ToExecutor::Starts { slots: 2, until: at(25) });
        assert!(agent.poll_effects().contains(&starts));
    }

    #[test]
    fn who_drains_gives_back_what_was_not_started() {
        let mut agent = Agent::new(Incarnation(1), Vec::new(), 2);
        agent.handle_registered(at(0), 1, &told());
        agent.start(at(0), order());
        agent.poll_effects();

        agent.drain();
        assert_eq!(agent.poll_effects()[0], AgentEffect::Tell(ToExecutor::TakeBack(fence())));
        agent.handle_executor(FromExecutor::Refused(fence()));

        assert_eq!(agent.poll_effects()[0], AgentEffect::Report(Report::TakenBack(fence())));
    }

    #[test]
    fn an_ending_is_reported_when_its_output_is_durable_and_not_before() {
        let mut agent = running();
        let chunk = Chunk { position: 0, stream: Stream::Stdout, offset: 0, bytes: vec![7; 9] };
        agent.handle_executor(FromExecutor::Output { fence: fence(), chunk });
        agent.handle_executor(FromExecutor::Ended(ended(9)));
        assert_eq!(reports(&mut agent), []);

        agent.handle_durable(fence(), 9);

        assert_eq!(reports(&mut agent), [Report::Ended(ended(9))]);
    }

    #[test]
    fn an_ending_is_reported_again_after_a_break_until_it_is_to_be_forgotten() {
        let mut agent = running();
        agent.handle_executor(FromExecutor::Ended(ended(0)));
        assert_eq!(reports(&mut agent).len(), 1);
        agent.handle_disconnected();

        assert_eq!(agent.carried().ended, [fence()]);
        agent.handle_registered(at(0), 2, &told());
        assert_eq!(reports(&mut agent), [Report::Ended(ended(0))]);

        agent.forget(fence());
        agent.handle_registered(at(0), 3, &told());
        assert_eq!(reports(&mut agent), []);
    }

    #[test]
    fn that_it_started_is_told_again_after_a_break() {
        let mut agent = running();
        agent.handle_disconnected();

        agent.handle_registered(at(0), 2, &told());

        assert_eq!(reports(&mut agent), [Report::Started(fence())]);
    }

    #[test]
    fn after_a_break_output_goes_on_where_the_pool_is() {
        let mut agent = running();
        agent.handle_disconnected();

        agent.handle_registered(at(0), 2, &Registered { positions: vec![(fence(), 5)], ..told() });

        let wanted = AgentEffect::Tell(ToExecutor::SendFrom { fence: fence(), position: 5 });
        assert!(agent.poll_effects().contains(&wanted));
    }

    #[test]
    fn the_end_of_what_is_not_wanted_is_reported_whatever_became_of_its_output() {
        let mut agent = running();
        agent.handle_durable(fence(), 5);
        agent.handle_disconnected();
        agent.handle_registered(at(0), 2, &Registered { kill: vec![fence()], ..told() });
        agent.poll_effects();

        agent.handle_executor(FromExecutor::Ended(ended(5)));

        assert_eq!(reports(&mut agent), [Report::Ended(ended(5))]);
    }

    #[test]
    fn a_lease_counts_from_when_its_heartbeat_was_sent() {
        let mut agent = running();

        agent.handle_lease(at(10), Duration::from_secs(60));

        assert_eq!(leases(&mut agent), [at(70)]);
    }

    #[test]
    fn a_start_has_no_longer_lease_than_the_heartbeat_that_was_answered_last() {
        let mut agent = Agent::new(Incarnation(1), Vec::new(), 2);
        agent.handle_registered(at(100), 1, &told());
        agent.poll_effects();

        agent.start(at(130), StartOrder { lease: Some(Duration::from_secs(60)), ..order() });

        let effects = agent.poll_effects();
        let AgentEffect::Tell(ToExecutor::Start(launch)) = &effects[0] else { panic!("{effects:?}") };
        assert_eq!(launch.lease_until, Some(at(160)));
    }

    #[test]
    fn a_start_that_comes_when_its_lease_is_over_is_given_back() {
        let mut agent = Agent::new(Incarnation(1), Vec::new(), 2);
        agent.handle_registered(at(0), 1, &told());
        agent.poll_effects();

        agent.start(at(61), StartOrder { lease: Some(Duration::from_secs(60)), ..order() });

        assert_eq!(agent.poll_effects(), [AgentEffect::Report(Report::TakenBack(fence()))]);
        assert_eq!(agent.living(), 0);
    }

    #[test]
    fn the_lease_that_a_pool_grants_when_it_goes_is_its_last_word() {
        let mut agent = running();

        agent.handle_leaving(at(10), Duration::from_secs(600));
        agent.handle_lease(at(9), Duration::from_secs(60));

        assert_eq!(leases(&mut agent), [at(610)]);
    }

    #[test]
    fn who_drains_gives_new_starts_back() {
        let mut agent = running();
        agent.drain();
        agent.poll_effects();
        let another = Fence { attempt: AttemptNumber(2), ..fence() };

        agent.start(at(1), StartOrder { fences: vec![another], ..order() });

        assert_eq!(agent.poll_effects(), [AgentEffect::Report(Report::TakenBack(another))]);
    }

    #[test]
    fn who_has_no_room_gives_new_starts_back_until_there_is() {
        let mut agent = running();
        let another = Fence { attempt: AttemptNumber(2), ..fence() };
        agent.set_full(Some("/work (0 MiB free)".into()));
        agent.start(at(1), StartOrder { fences: vec![another], ..order() });
        assert_eq!(agent.poll_effects(), [AgentEffect::Report(Report::TakenBack(another))]);

        agent.set_full(None);

        agent.start(at(1), StartOrder { fences: vec![another], ..order() });
        assert_eq!(agent.living(), 2);
    }

    #[test]
    fn what_was_wanted_is_wanted_of_the_next_executor_too() {
        let mut agent = running();
        agent.stop();
        agent.poll_effects();

        agent.handle_welcome(Incarnation(2), vec![Held::Running(fence())]);

        assert_eq!(agent.poll_effects(), [AgentEffect::Tell(ToExecutor::StopAll)]);
        agent.handle_welcome(Incarnation(3), Vec::new());
        assert!(agent.poll_effects().contains(&AgentEffect::Exit));
    }

    #[test]
    fn who_is_forsaken_ends_everything_and_keeps_nothing() {
        let mut agent = running();
        agent.handle_disconnected();
        agent.forsake();

        agent.handle_executor(FromExecutor::Ended(ended(5)));

        let effects = agent.poll_effects();
        assert!(effects.contains(&AgentEffect::Tell(ToExecutor::Forget(fence()))), "{effects:?}");
        assert!(effects.contains(&AgentEffect::Exit), "{effects:?}");
    }

    #[test]
    fn who_is_stopped_while_the_pool_is_away_ends_when_nothing_runs() {
        let mut agent = running();
        agent.handle_disconnected();
        agent.stop();
        assert!(!agent.poll_effects().contains(&AgentEffect::Exit));

        agent.handle_executor(FromExecutor::Ended(ended(5)));

        assert!(agent.poll_effects().contains(&AgentEffect::Exit));
        assert_eq!(agent.carried().ended, [fence()]);
    }

    #[test]
    fn when_the_time_is_over_what_still_runs_is_killed() {
        let mut agent = running();
        agent.stop();
        agent.poll_effects();

        agent.kill();

        let kill = ToExecutor::End { fence: fence(), how: Cancel::Kill };
        assert_eq!(agent.poll_effects(), [AgentEffect::Tell(kill)]);
    }

    #[test]
    fn a_draining_agent_ends_when_nothing_is_left() {
        let mut agent = running();
        agent.drain();
        assert_eq!(agent.poll_effects(), [AgentEffect::Drain]);
        agent.handle_executor(FromExecutor::Ended(ended(0)));
        agent.poll_effects();

        agent.forget(fence());

        assert!(agent.poll_effects().contains(&AgentEffect::Exit));
    }
}
