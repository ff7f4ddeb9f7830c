//! A model executor: holds attempts, a journal of starts, spools, and endings until they are forgotten, word for word as
//! `process::executor` does, and outlives its agent.
//!
//! It can be planted with habits that the real one must not have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clusterctl::core::attempt::{AttemptEnd, FromExecutor, Held, Launch, ToExecutor};
use clusterctl::core::id::{Fence, Incarnation};
use clusterctl::core::lifetime::EndReason;
use clusterctl::core::limits;
use clusterctl::core::outcome::{Cancel, Outcome, Usage};
use clusterctl::core::time::Timestamp;
use clusterctl::core::timing::Timing;

use crate::history::Happened;
use crate::keeper::{Did, Keeper};
use crate::random::Random;
use crate::script::{Script, Spawns};
use crate::spool::Spool;

/// Bytes are held back so long for more to come with them.
const FLUSH_AFTER: Duration = Duration::from_millis(4);

/// What an executor does that it must not, or may do only by chance.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// So often in a thousand it dies between two steps of a start.
    pub dies_in_a_start: u64,
    pub dials: Dials,
    pub journalling: Journalling,
    /// Its keepers' clocks run so many times too slowly when they count a lease.
    pub lease_stretch: u32,
    pub giving_back: GivingBack,
    /// Whether it sends its output as it should.
    pub sending: Sending,
}

/// Whether starts by an older registration are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dials {
    Checked,
    Ignored,
}

/// Whether a start stands in the journal before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journalling {
    Done,
    Forgotten,
}

/// Whether what was given back never starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivingBack {
    Done,
    Forgotten,
}

/// What of its output an executor sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    Exact,
    /// Now and then a byte is changed.
    Garbled,
}

/// What an executor leaves for the next one.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    pub incarnation: Incarnation,
    /// Of the boot that it ran in.
    pub boot_id: String,
    pub never_started: BTreeSet<Fence>,
    started: BTreeSet<Fence>,
}

impl Journal {
    /// A power cut: the lines that tell of starts were never on the disk.
    pub fn tear(&mut self) {
        self.never_started.append(&mut self.started);
    }
}

#[derive(Debug)]
pub struct Executor {
    pub incarnation: Incarnation,
    timing: Timing,
    habits: Habits,
    dial: u64,
    attempts: BTreeMap<Fence, Attempt>,
    slots: usize,
    begin_until: Timestamp,
    lease_until: Timestamp,
    forgotten: BTreeSet<Fence>,
    flow: Flow,
    stay: Stay,
    has_agent: bool,
    pub journal: Journal,
    said: Vec<FromExecutor>,
    happened: Vec<Happened>,
    /// It has died by chance in the middle of something.
    pub is_dying: bool,
}

#[derive(Debug)]
struct Attempt {
    phase: Phase,
    spool: Spool,
    flow: Flow,
    flush_at: Option<Timestamp>,
    stopped: bool,
}

#[derive(Debug)]
enum Phase {
    /// For a keeper, until then.
    Waiting(Box<Launch>, Timestamp),
    Running(Box<Keeper>),
    Ended(Box<AttemptEnd>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    ForEver,
    UntilEmpty,
}

impl Executor {
    pub fn new(incarnation: Incarnation, boot_id: String, timing: Timing, habits: Habits) -> Self {
        Self {
            incarnation,
            timing,
            habits,
            dial: 0,
            attempts: BTreeMap::new(),
            slots: usize::MAX,
            begin_until: Timestamp(u64::MAX),
            lease_until: Timestamp::default(),
            forgotten: BTreeSet::new(),
            flow: Flow::Paused,
            stay: Stay::ForEver,
            has_agent: false,
            journal: Journal { incarnation, boot_id, ..Journal::default() },
            said: Vec::new(),
            happened: Vec::new(),
            is_dying: false,
        }
    }

    /// A new agent says hello.
    pub fn welcome(&mut self) -> Vec<Held> {
        self.has_agent = true;
        // Whatever an agent before this one wanted.
        self.stay = Stay::ForEver;
        self.said.clear();
        self.pause();
        let held = |(fence, attempt): (&Fence, &Attempt)| match &attempt.phase {
            Phase::Waiting(..) => Held::Waiting(*fence),
            Phase::Running(_) => Held::Running(*fence),
            Phase::Ended(end) => Held::Ended((**end).clone()),
        };
        self.attempts.iter().map(held).collect()
    }

    /// The agent is gone: everything stays as it is, and no output is sent until another asks for it.
    pub fn lose_agent(&mut self) {
        self.has_agent = false;
        self.said.clear();
        self.pause();
    }

    /// From now on it does not die by chance.
    pub fn be_reliable(&mut self) {
        self.habits.dies_in_a_start = 0;
    }

    /// Whether it ends by itself.
    pub fn may_end(&self) -> bool {
        self.stay == Stay::UntilEmpty && self.attempts.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Attempts whose scripts run.
    pub fn running(&self) -> Vec<Fence> {
        let runs = |(fence, attempt): (&Fence, &Attempt)| {
            matches!(attempt.phase, Phase::Running(_)).then_some(*fence)
        };
        self.attempts.iter().filter_map(runs).collect()
    }

    /// What attempts that run have written so far.
    pub fn unfinished(&self) -> Vec<Happened> {
        let running = self.running().into_iter();
        running
            .map(|fence| Happened::StillRuns { fence, written: self.attempts[&fence].spool.written() })
            .collect()
    }

    /// What it has said to its agent since it was last asked.
    pub fn take_said(&mut self) -> Vec<FromExecutor> {
        std::mem::take(&mut self.said)
    }

    /// What happened to scripts since it was last asked.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    fn say(&mut self, word: FromExecutor) {
        if self.has_agent {
            self.said.push(word);
        }
    }

    pub fn obey(&mut self, now: Timestamp, word: ToExecutor, random: &mut Random) {
        match word {
            ToExecutor::Start(launch) => self.receive(now, launch, random),
            ToExecutor::End { fence, how } => self.end(now, fence, how),
            ToExecutor::Lease(until) => {
                let until = self.stretched(now, until);
                self.lease_until = until;
                for attempt in self.attempts.values_mut() {
                    if let Phase::Running(keeper) = &mut attempt.phase {
                        keeper.lease(until);
                    }
                }
            }
            ToExecutor::Starts { slots, until } => (self.slots, self.begin_until) = (slots as usize, until),
            ToExecutor::TakeBack(fence) => self.give_back(fence),
            ToExecutor::Acknowledged { fence, position } => {
                if let Some(attempt) = self.attempts.get_mut(&fence) {
                    attempt.spool.acknowledge(position);
                }
            }
            ToExecutor::SendFrom { fence, position } => {
                if let Some(attempt) = self.attempts.get_mut(&fence) {
                    attempt.spool.rewind(position);
                    attempt.flow = Flow::Open;
                    attempt.flush_at = Some(now);
                }
            }
            ToExecutor::Pause => self.pause(),
            ToExecutor::Unpause => self.flow = Flow::Open,
            ToExecutor::Forget(fence) => self.forget(fence),
            ToExecutor::Dial(dial) => self.dial = self.dial.max(dial),
            ToExecutor::ExitWhenEmpty => self.stay = Stay::UntilEmpty,
            ToExecutor::StopAll => self.stop_all(now),
        }
        self.send_output(now, random);
    }

    /// When its keepers take a lease for over.
    fn stretched(&self, now: Timestamp, until: Timestamp) -> Timestamp {
        match self.habits.lease_stretch {
            1 => until,
            times => now + until.since(now) * times,
        }
    }

    fn receive(&mut self, now: Timestamp, mut launch: Launch, random: &mut Random) {
        let fence = launch.fence;
        if launch.dial < self.dial && self.habits.dials == Dials::Checked {
            return self.say(FromExecutor::Refused(fence));
        }
        if self.attempts.contains_key(&fence) || self.forgotten.contains(&fence) {
            return;
        }
        self.journal.never_started.insert(fence);
        if random.chance(self.habits.dies_in_a_start) {
            self.is_dying = true;
            return;
        }
        launch.lease_until = launch.lease_until.map(|until| self.stretched(now, until));
        // A keeper is there at once, or has to be started, on a machine that may be slow.
        let longest = if random.chance(20) { 2000 } else { 10 };
        let from = now + random.millis(0, longest);
        let attempt = Attempt {
            phase: Phase::Waiting(Box::new(launch), from),
            spool: Spool::default(),
            flow: self.flow,
            flush_at: None,
            stopped: false,
        };
        self.attempts.insert(fence, attempt);
    }

    fn end(&mut self, now: Timestamp, fence: Fence, how: Cancel) {
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        match &mut attempt.phase {
            Phase::Waiting(..) if attempt.stopped => {
                self.conclude(now, fence, Outcome::Lost("the worker was stopped".to_owned()));
            }
            Phase::Waiting(..) => self.conclude(now, fence, Outcome::Cancelled(how)),
            Phase::Running(keeper) => keeper.end(now, how),
            Phase::Ended(_) => {}
        }
    }

    fn stop_all(&mut self, now: Timestamp) {
        self.stay = Stay::UntilEmpty;
        let all: Vec<Fence> = self.attempts.keys().copied().collect();
        for fence in all {
            self.attempts.get_mut(&fence).unwrap().stopped = true;
            self.end(now, fence, Cancel::Terminate);
        }
    }

    fn pause(&mut self) {
        self.flow = Flow::Paused;
        for attempt in self.attempts.values_mut() {
            attempt.flow = Flow::Paused;
        }
    }

    fn forget(&mut self, fence: Fence) {
        if matches!(self.attempts.get(&fence), Some(Attempt { phase: Phase::Ended(_), .. })) {
            self.attempts.remove(&fence);
            self.forgotten.insert(fence);
        }
    }

    /// When `wake` wants to be called next.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let of = |attempt: &Attempt| {
            let flush = attempt.flush_at.filter(|_| attempt.flow == Flow::Open);
            let phase = match &attempt.phase {
                Phase::Waiting(_, from) => Some(*from).filter(|from| self.may_begin((*from).max(now))),
                Phase::Running(keeper) => Some(keeper.next()),
                Phase::Ended(_) => None,
            };
            [flush, phase].into_iter().flatten().min()
        };
        self.attempts.values().filter_map(of).min()
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Timestamp, random: &mut Random) {
        let all: Vec<Fence> = self.attempts.keys().copied().collect();
        for fence in all {
            let may_begin = self.may_begin(now);
            match &mut self.attempts.get_mut(&fence).unwrap().phase {
                Phase::Waiting(_, from) if *from <= now && may_begin => self.start(now, fence, random),
                Phase::Running(keeper) if keeper.next() <= now => {
                    let (ran, exit) = (keeper.ran(now), keeper.exit());
                    let did = keeper.wake(now);
                    self.heed(now, fence, (ran, exit), did);
                }
                Phase::Waiting(..) | Phase::Running(_) | Phase::Ended(_) => {}
            }
            if self.is_dying {
                return;
            }
        }
        self.send_output(now, random);
    }

    /// Whether what waits gets a slot then.
    fn may_begin(&self, at: Timestamp) -> bool {
        let running = self.attempts.values().filter(|attempt| matches!(attempt.phase, Phase::Running(_)));
        running.count() < self.slots && at <= self.begin_until
    }

    /// What waits is given back, as if it had never come; what was begun goes on.
    fn give_back(&mut self, fence: Fence) {
        if !matches!(self.attempts.get(&fence), Some(Attempt { phase: Phase::Waiting(..), .. })) {
            return;
        }
        if self.habits.giving_back == GivingBack::Done {
            self.attempts.remove(&fence);
        }
        self.say(FromExecutor::Refused(fence));
    }

    fn start(&mut self, now: Timestamp, fence: Fence, random: &mut Random) {
        let attempt = self.attempts.get_mut(&fence).unwrap();
        let Phase::Waiting(launch, _) = &mut attempt.phase else { return };
        launch.lease_until = launch.lease_until.map(|until| until.max(self.lease_until));
        if self.habits.journalling == Journalling::Done {
            self.journal.never_started.remove(&fence);
            self.journal.started.insert(fence);
        }
        if random.chance(self.habits.dies_in_a_start) {
            self.is_dying = true;
            return;
        }
        if Script::read(&launch.script).spawns == Spawns::No {
            return self.conclude(now, fence, Outcome::SpawnFailed("planted in the script".to_owned()));
        }
        attempt.phase = Phase::Running(Box::new(Keeper::start(now, launch, self.timing)));
        self.happened.push(Happened::Started(fence));
        self.say(FromExecutor::Started(fence));
    }

    fn heed(&mut self, now: Timestamp, fence: Fence, (ran, exit): (Duration, u8), did: Vec<Did>) {
        for did in did {
            let attempt = self.attempts.get_mut(&fence).unwrap();
            match did {
                Did::Wrote(write) => {
                    attempt.spool.push(fence, write);
                    attempt.flush_at.get_or_insert(now + FLUSH_AFTER);
                }
                Did::Ended(reason) => {
                    let outcome = match reason {
                        EndReason::Own => Outcome::Exited(exit),
                        _ if attempt.stopped => Outcome::Lost("the worker was stopped".to_owned()),
                        EndReason::TimedOut => Outcome::TimedOut,
                        EndReason::LeaseOver => Outcome::Lost("its lease ran out".to_owned()),
                        EndReason::Cancelled(how) => Outcome::Cancelled(how),
                    };
                    let totals = attempt.spool.totals();
                    let tail = attempt.spool.take_tail();
                    let usage = Usage { run: ran, ..Usage::default() };
                    self.ended(now, AttemptEnd { fence, outcome, usage, totals, tail });
                }
            }
        }
    }

    /// Ends an attempt without an outcome of its own.
    fn conclude(&mut self, now: Timestamp, fence: Fence, outcome: Outcome) {
        let totals = self.attempts[&fence].spool.totals();
        self.ended(now, AttemptEnd { fence, outcome, usage: Usage::default(), totals, tail: Vec::new() });
    }

    fn ended(&mut self, now: Timestamp, end: AttemptEnd) {
        let attempt = self.attempts.get_mut(&end.fence).unwrap();
        attempt.phase = Phase::Ended(Box::new(end.clone()));
        attempt.flush_at = Some(now);
        let written = attempt.spool.written();
        self.happened.push(Happened::Ended { fence: end.fence, outcome: end.outcome.clone(), written });
        self.say(FromExecutor::Ended(end));
    }

    /// Sends output as far as the window allows.
    fn send_output(&mut self, now: Timestamp, random: &mut Random) {
        let mut in_flight: u64 = self.attempts.values().map(|attempt| attempt.spool.in_flight()).sum();
        let mut said = Vec::new();
        for (&fence, attempt) in &mut self.attempts {
            let due = attempt.flow == Flow::Open && attempt.flush_at.is_some_and(|at| at <= now);
            while due && in_flight < limits::OUTPUT_IN_FLIGHT_BYTES_MAX as u64 {
                let Some(mut chunk) = attempt.spool.next() else { break };
                in_flight += chunk.bytes.len() as u64;
                if self.habits.sending == Sending::Garbled && random.chance(50) {
                    chunk.bytes[0] ^= 1;
                }
                said.push(FromExecutor::Output { fence, chunk });
            }
            if due {
                attempt.flush_at = attempt.spool.has_unsent().then(|| now + FLUSH_AFTER);
            }
        }
        said.into_iter().for_each(|word| self.say(word));
    }

    /// The keeper of an attempt is killed; the executor kills what it inherits.
    pub fn lose_keeper(&mut self, now: Timestamp, fence: Fence) {
        if self.running().contains(&fence) {
            self.conclude(now, fence, Outcome::Lost("the process that kept it was killed".to_owned()));
        }
    }

    /// The executor dies, and with it all that runs.
    pub fn die(&mut self, now: Timestamp) {
        self.has_agent = false;
        for fence in self.running() {
            self.conclude(now, fence, Outcome::Lost("its executor died".to_owned()));
        }
    }
}
