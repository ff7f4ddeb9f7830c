//! The pool's process: the real `core::pool::Pool`, turn by turn, as `pool::driver` runs it.
//!
//! Requests are gathered and decided while the commit before their turn is under way, as many as a turn may hold. Answers are given and effects carried out when their own
//! turn is durable, never before. What the process has and the disk does not is gone when it crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use clusterctl::core::attempt::AttemptEnd;
use clusterctl::core::id::{ConnectionId, Epoch, Fingerprint, WorkerId};
use clusterctl::core::pool::{Batch, Effect, Host, Identity, Pool, Viewer, WatcherId};
use clusterctl::core::record::{JobState, Record, WorkerState};
use clusterctl::core::time::{Now, Timestamp};
use clusterctl::core::view;
use clusterctl::store::{self, Store};

use crate::answer::Answer;
use crate::follower::Follower;
use crate::history::Happened;
use crate::plan::Plant;
use crate::pool_doors::{DoorEnd, ReportWaiting, WriteWaiting};
use crate::world::{Event, World, tell};

/// The driver looks at the clock at least this often late.
const TIMER_LATE_MS: u64 = 30;

/// Decides, and gives back the answer that waits for the commit.
type Request = Box<dyn FnOnce(&mut PoolProcess, Now) -> Answer>;

/// A running pool.
pub struct PoolProcess {
    pub pool: Pool,
    pub life: u64,
    epoch: Epoch,
    /// Nothing was decided about them yet.
    gathered: VecDeque<Request>,
    /// Of the turn that is being gathered.
    answers: Vec<Answer>,
    /// Workers that fell silent, and when; those who wait for this turn may have been answered before.
    silences: Vec<(WorkerId, Timestamp)>,
    in_flight: Option<InFlight>,
    /// When it is to be told the time, as far as that is planned.
    timer_at: Option<Timestamp>,
    was_touched: bool,
    pub intake: Intake,
    pub last_connection: u64,
    /// Its ends of links.
    pub ends: BTreeMap<ConnectionId, DoorEnd>,
    pub identities: BTreeMap<Fingerprint, Identity>,
    pub followers: BTreeMap<WatcherId, Follower>,
    /// Output that was written and is not durable yet, in order.
    pub writes: VecDeque<WriteWaiting>,
    pub synced_at: Timestamp,
    /// Reports that wait for their output.
    pub reports: Vec<ReportWaiting>,
    /// For who is planted to tell them again.
    pub ends_reported: Vec<AttemptEnd>,
}

struct InFlight {
    batch: Batch,
    answers: Vec<Answer>,
    silences: Vec<(WorkerId, Timestamp)>,
    open: Vec<WorkerId>,
}

/// Whether a pool process lets anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    Open,
    /// It was told to stop.
    Stopping,
}

impl PoolProcess {
    /// Checks the pool's state, if anything was done to it.
    pub fn check(&mut self) {
        if std::mem::take(&mut self.was_touched) {
            self.pool.check();
        }
    }

    /// The workers that take tasks now.
    fn open_workers(&self, now: Now) -> Vec<WorkerId> {
        self.workers_that_are(now, view::WorkerState::Ready)
    }

    fn workers_that_are(&self, now: Now, state: view::WorkerState) -> Vec<WorkerId> {
        let page = self.pool.worker_page(now, &Viewer::admin("root"), "", usize::MAX);
        let such = page.workers.iter().filter(|worker| worker.state == state);
        let names: BTreeSet<String> = such.map(|worker| worker.name.clone()).collect();
        let is_such = |identity: &Identity| match identity {
            Identity::Worker(id, name) => names.contains(name).then_some(*id),
            Identity::Client { .. } => None,
        };
        self.identities.values().filter_map(is_such).collect()
    }

    /// Time has passed; notes who falls silent by that.
    fn pass(&mut self, now: Now) {
        let before = self.workers_that_are(now, view::WorkerState::Silent);
        self.pool.handle_timeout(now);
        let silent = self.workers_that_are(now, view::WorkerState::Silent).into_iter();
        self.silences.extend(silent.filter(|id| !before.contains(id)).map(|id| (id, now.at)));
    }
}

impl World {
    /// A pool process starts on what the disk has.
    pub fn pool_boots(&mut self) {
        if self.pool.is_some() {
            return;
        }
        self.lives += 1;
        let now = self.clocks();
        let mut timing = self.timing;
        if self.plan.plant == Plant::PoolGivesUpEarly {
            timing.lost_after = Duration::from_secs(30);
        }
        let mut pool = Pool::new(timing, Host::default());
        let epoch = self.disk.acquire().expect("the disk works");
        let next = store::replay(&mut self.disk, &mut pool, now.at).expect("the disk reads what it wrote");
        if let Some(before) = self.log_tells.take() {
            let difference = difference(&before, &remembered(&pool, now));
            difference.into_iter().for_each(|text| self.happened(Happened::LogDiffers(text)));
        }
        pool.start(now, epoch);
        tell!(self, "pool starts, epoch {epoch}, {} entries before", next - 1);
        self.happened(Happened::PoolStarted);
        let identities = pool.identities().collect();
        self.pool = Some(PoolProcess {
            pool,
            life: self.lives,
            epoch,
            gathered: VecDeque::new(),
            answers: Vec::new(),
            silences: Vec::new(),
            in_flight: None,
            timer_at: None,
            was_touched: true,
            intake: Intake::Open,
            last_connection: 0,
            ends: BTreeMap::new(),
            identities,
            followers: BTreeMap::new(),
            writes: VecDeque::new(),
            synced_at: self.now,
            reports: Vec::new(),
            ends_reported: Vec::new(),
        });
        self.dials_get_through();
        self.turn();
    }

    /// The process of this life, if it still is the present one.
    pub fn process(&mut self, life: u64) -> Option<&mut PoolProcess> {
        self.pool.as_mut().filter(|process| process.life == life)
    }

    /// Has the pool decide, in this turn or in one that comes; the answer is given when that is durable.
    pub fn decide(&mut self, decide: impl FnOnce(&mut Pool, Now) -> Answer + 'static) {
        self.ask_process(|process, now| decide(&mut process.pool, now));
    }

    /// The same for what is decided with an eye on the process.
    pub fn ask_process(&mut self, decide: impl FnOnce(&mut PoolProcess, Now) -> Answer + 'static) {
        if let Some(process) = &mut self.pool {
            process.gathered.push_back(Box::new(decide));
            self.turn();
        }
    }

    /// Decides about what was gathered, as far as one commit goes, and about what time has brought; ends the turn if the
    /// store is free. Otherwise it goes on gathering.
    fn turn(&mut self) {
        let now = self.clocks();
        let (plant, requests_max) = (self.plan.plant, self.plan.turn_requests_max);
        loop {
            let Some(process) = &mut self.pool else { return };
            process.was_touched = true;
            while !process.pool.is_turn_full()
                && process.answers.len() < requests_max
                && let Some(request) = process.gathered.pop_front()
            {
                let answer = request(process, now);
                process.answers.push(answer);
            }
            // Behind the requests: a worker may just have been heard.
            if process.pool.poll_timeout().is_some_and(|at| at <= now.at) {
                process.pass(now);
            }
            let early = match plant {
                Plant::AnswersBeforeTheCommit => std::mem::take(&mut process.answers),
                _ => Vec::new(),
            };
            self.give(early);
            self.end_turn(now);
            let waits = |process: &PoolProcess| process.in_flight.is_none() && !process.gathered.is_empty();
            if !self.pool.as_ref().is_some_and(waits) {
                return self.arm_pool();
            }
        }
    }

    /// Sends the turn to the store, if that is free.
    fn end_turn(&mut self, now: Now) {
        let Some(process) = self.pool.as_mut().filter(|process| process.in_flight.is_none()) else { return };
        let answers = std::mem::take(&mut process.answers);
        let silences = std::mem::take(&mut process.silences);
        let open = process.open_workers(now);
        let life = process.life;
        match process.pool.poll_batch(now) {
            None => {
                self.give(answers);
                self.tell_silences(silences);
            }
            Some(batch) => {
                process.in_flight = Some(InFlight { batch, answers, silences, open });
                let longest = if self.random.chance(10) { 3000 } else { self.plan.commit_ms };
                let wait = self.random.millis(0, longest);
                self.after(wait, Event::PoolCommitted(life));
            }
        }
    }

    fn tell_silences(&mut self, silences: Vec<(WorkerId, Timestamp)>) {
        for (worker, at) in silences {
            self.happened(Happened::Silent { worker, at });
        }
    }

    fn arm_pool(&mut self) {
        let late = self.random.millis(0, TIMER_LATE_MS);
        let Some(process) = &mut self.pool else { return };
        let Some(at) = process.pool.poll_timeout() else { return };
        if process.timer_at.is_none_or(|planned| at < planned) {
            process.timer_at = Some(at);
            let life = process.life;
            self.at(at + late, Event::PoolTime(life));
        }
    }

    pub fn pool_time(&mut self, life: u64) {
        let Some(process) = self.process(life) else { return };
        process.timer_at = None;
        self.turn();
    }

    pub fn pool_committed(&mut self, life: u64) {
        let Some(process) = self.process(life) else { return };
        let InFlight { batch, answers, silences, open } =
            process.in_flight.take().expect("a commit was under way");
        let effects = self.commit(batch, open);
        self.act(effects);
        self.give(answers);
        self.tell_silences(silences);
        self.turn();
    }

    /// Makes a batch durable. What is in the history has happened from now on, whoever is left to know of it.
    fn commit(&mut self, batch: Batch, open: Vec<WorkerId>) -> Vec<Effect> {
        let epoch = self.pool.as_ref().expect("a pool commits").epoch;
        let records: Vec<Record> = batch.turn().records.clone();
        let effects = store::commit(&mut self.disk, epoch, batch).expect("the disk works");
        if !records.is_empty() {
            self.happened(Happened::Open(open));
        }
        for record in records {
            tell!(self, "pool commits {}", Short(&record));
            self.happened(Happened::Recorded(record));
        }
        effects
    }

    /// The pool's process is killed; what was under way to the disk may have arrived there.
    pub fn pool_crashes(&mut self) {
        let Some(process) = &mut self.pool else { return };
        if process.in_flight.is_none() {
            self.note_what_the_log_tells();
        }
        let process = self.pool.as_mut().expect("the pool was just there");
        let in_flight = process.in_flight.take();
        tell!(self, "pool crashes{}", if in_flight.is_some() { " in a commit" } else { "" });
        if let Some(InFlight { batch, open, .. }) = in_flight
            && self.random.chance(500)
        {
            self.commit(batch, open);
        }
        self.pool_is_gone();
    }

    /// The pool is told to stop: it says so to its workers, ends what it has begun, and goes.
    pub fn pool_stops(&mut self) {
        let lease = self.timing.lease_at_shutdown;
        let Some(process) = &mut self.pool else { return };
        if process.intake == Intake::Stopping {
            return;
        }
        process.intake = Intake::Stopping;
        let life = process.life;
        tell!(self, "pool stops");
        self.say_goodbye(lease);
        let wait = self.random.millis(100, 3000);
        self.after(wait, Event::PoolGone(life));
    }

    pub fn pool_gone(&mut self, life: u64) {
        let Some(process) = self.process(life) else { return };
        if process.in_flight.is_some() {
            return self.after(Duration::from_millis(20), Event::PoolGone(life));
        }
        self.note_what_the_log_tells();
        tell!(self, "pool is gone");
        self.pool_is_gone();
    }

    /// All that was decided is durable: what the log tells at the next start is what the pool has.
    fn note_what_the_log_tells(&mut self) {
        let now = self.clocks();
        self.log_tells = self.pool.as_ref().map(|process| remembered(&process.pool, now));
    }

    fn pool_is_gone(&mut self) {
        let process = self.pool.take().expect("a pool goes");
        self.disk.crash(&mut self.random);
        for end in process.ends.values() {
            self.peer_is_gone(end.link);
        }
        for follower in process.followers.into_values() {
            self.follower_is_gone(&follower);
        }
        let longest = self.random.pick(&[200, 3000, 3000, 20_000, 20_000, 120_000, 900_000]);
        let wait = self.random.millis(50, longest);
        self.after(wait, Event::PoolBoots);
    }
}

/// All that a pool has to remember. For how long an attempt was unknown is recorded only now and then, and not what a
/// worker says differently each time.
fn remembered(pool: &Pool, now: Now) -> Vec<Record> {
    let mut records = pool.remembered(now.at);
    for record in &mut records {
        if let Record::Job(state) = record {
            state.active.iter_mut().for_each(|active| active.unknown = Duration::ZERO);
        } else if let Record::Worker(WorkerState { facts: Some(facts), .. }) = record {
            (facts.dial, facts.pid) = (0, 0);
        }
    }
    records
}

/// Where two memories differ first.
fn difference(has: &[Record], told: &[Record]) -> Option<String> {
    let differs = has.iter().zip(told).find(|(has, told)| has != told);
    let lengths = (has.len() != told.len()).then(|| format!("{} things and {}", has.len(), told.len()));
    differs.map(|(has, told)| format!("{}\n  and {}", Short(has), Short(told))).or(lengths)
}

/// A record in a few words.
struct Short<'a>(&'a Record);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Record::PoolStarted(epoch) => write!(f, "start of epoch {epoch}"),
            Record::Counters(counters) => write!(f, "{counters:?}"),
            Record::Submitted(job) => {
                let JobSummary { retries, array } = JobSummary::of(&job.spec);
                write!(f, "submitted {} of {} retries {retries} array {array}", job.job, job.owner)
            }
            Record::Assigned(to) => {
                write!(
                    f,
                    "assigned {} {:?} to worker {} executor {}",
                    to.job, to.tasks, to.worker, to.incarnation
                )
            }
            Record::Ended(ended) => write!(f, "ended {} {:?}", ended.end.fence, ended.end.outcome),
            Record::PutBack { fence, reason } => write!(f, "put back {fence} {reason:?}"),
            Record::CancelWanted { job, ranges, how, .. } => {
                write!(f, "cancel wanted {job} {ranges:?} {how}")
            }
            Record::Job(state) => {
                let JobState { submission, waiting, active, tried, over, failed, started } = &**state;
                write!(f, "job {} again: waiting {waiting:?}, active {active:?}, ", submission.job)?;
                write!(f, "tried {tried:?}, over {over:?}, failed {failed:?}, started {started:?}")
            }
            Record::Worker(state) => {
                let facts =
                    state.facts.as_ref().map(|facts| (&facts.boot_id, facts.incarnation.0, facts.slots));
                write!(f, "worker {} {} {:?} {facts:?}", state.id, state.name, state.validity)
            }
            Record::Client(state) => write!(f, "client {}", state.name),
            Record::ClientRenewed { before, client } => write!(f, "{} instead of {before}", client.key),
            Record::Token(state) => write!(f, "token {}", state.id),
            Record::TokenForgotten(id) => write!(f, "token {id} forgotten"),
            Record::WorkerForgotten(id) => write!(f, "worker {id} forgotten"),
        }
    }
}

struct JobSummary {
    retries: u32,
    array: String,
}

impl JobSummary {
    fn of(spec: &clusterctl::core::job::JobSpec) -> Self {
        Self { retries: spec.retries, array: spec.array.as_ref().map_or("-".to_owned(), ToString::to_string) }
    }
}
