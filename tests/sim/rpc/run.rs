//! One run of one seed: faults strike, then cease, and everything is to come to its end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::id::Name;
use clusterctl::core::label::Labels;
use clusterctl::core::timing::Timing;

use super::client::{self, Client};
use super::follower::{self, Follower};
use super::machine::{self, Machine};
use super::pool::{self, HOST, Witness};
use super::time;
use crate::history::{Happened, Violation};
use crate::plan::{Mode, Plan, Plant};
use crate::random::Random;
use crate::run::Verdict;
use crate::trace::Detail;

/// Promises' durations are divided by this: a run is short.
const FASTER: u32 = 5;
const TICK: Duration = Duration::from_millis(10);
/// Faults strike for so long.
const STRIKES_FOR: Duration = Duration::from_secs(90);
/// So long after they have ceased clients wait for what may end by itself.
const PATIENT_FOR: Duration = Duration::from_secs(60);
/// Everything has ended so long after they have ceased.
const CALM_FOR: Duration = Duration::from_secs(300);
/// What goes wrong is mended after so many milliseconds at most.
const MENDED_MS: u64 = 20_000;

/// What is mended, and when.
type Mending = (Duration, Mend);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mend {
    Starts(String),
    Repairs(String),
    Releases(String),
}

struct Run<'a> {
    sim: turmoil::Sim<'a>,
    machines: Vec<machine::Shared>,
    clients: Vec<client::Shared>,
    followers: Vec<follower::Shared>,
    random: Random,
    mendings: BTreeSet<Mending>,
    gap_ms: u64,
    detail: Detail,
}

/// Runs a seed to its end.
pub fn run(seed: u64, plant: Plant, detail: Detail) -> Verdict {
    let mut random = Random::new(seed);
    let plan = Plan::draw(Mode::Liveness, plant, &mut random);
    let state = tempfile::Builder::new().prefix("cctl-sim-").tempdir_in(memory()).unwrap();
    let witness = Witness::default();
    time::begin();
    let mut run = Run::new(&plan, random, state.path(), &witness, detail);
    let stuck = run.finish();
    let Run { sim, machines, .. } = run;
    // The pool is gone, and whoever still runs.
    drop(sim);
    let mut history = std::mem::take(&mut *witness.lock().unwrap());
    let now = time::now().at;
    for event in machines.iter().flat_map(|machine| machine.borrow().unfinished()) {
        history.add(now, event);
    }
    let mut tails = history.tails();
    for (fence, mut kept) in pool::kept(state.path(), history.begun().into_iter()) {
        for chunk in tails.remove(&fence).unwrap_or_default() {
            pool::add(&mut kept, chunk);
        }
        history.add(now, Happened::Kept { fence, kept });
    }
    let mut violations = history.violations();
    violations.extend(stuck);
    Verdict { violations, digest: history.digest() }
}

/// Where a sync costs nothing, if there is such a place.
fn memory() -> std::path::PathBuf {
    let shared = std::path::PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

impl Run<'_> {
    fn new(
        plan: &Plan,
        mut random: Random,
        state: &std::path::Path,
        witness: &Witness,
        detail: Detail,
    ) -> Self {
        let timing = Timing::default().scaled_down(FASTER);
        pool::tell(witness, Happened::GoesBy(timing));
        let mut sim = turmoil::Builder::new()
            .tick_duration(TICK)
            .simulation_duration(STRIKES_FOR + 2 * CALM_FOR)
            .max_message_latency(Duration::from_millis(plan.delay_ms.clamp(10, 400)))
            .tcp_capacity(4096)
            .rng_seed(random.number())
            .build();
        let (at, told) = (state.to_owned(), Arc::clone(witness));
        sim.host(HOST, move || pool::serve(at.clone(), timing, Arc::clone(&told)));
        let machines: Vec<machine::Shared> = (1..=plan.machines.min(4))
            .map(|n| {
                let name = Name::parse(&format!("w{n}")).unwrap();
                let zone = random.pick(&["a", "b"]);
                let gpu = random.pick(&["h100", "a100"]);
                let labels =
                    [("zone", zone), ("gpu", gpu)].map(|(key, value)| (key.to_owned(), value.to_owned()));
                let offer = (u32::try_from(random.between(1, 4)).unwrap(), Labels::from(labels));
                let own = Random::new(random.number());
                let machine = Machine::new(name, offer, (timing, plan.executor), own, Arc::clone(witness));
                Rc::new(RefCell::new(machine))
            })
            .collect();
        for machine in &machines {
            let name = machine.borrow().name.to_string();
            let machine = Rc::clone(machine);
            sim.host(name, move || machine::work(Rc::clone(&machine)));
        }
        let clients: Vec<client::Shared> = (1..=plan.clients.clamp(1, 2))
            .map(|n| {
                let own = Random::new(random.number());
                Rc::new(RefCell::new(Client::new(n, own, plan.clone(), Arc::clone(witness))))
            })
            .collect();
        for (n, client) in clients.iter().enumerate() {
            let client = Rc::clone(client);
            sim.host(format!("c{n}"), move || client::ask(Rc::clone(&client)));
        }
        let followers: Vec<follower::Shared> = (101..)
            .zip(&clients)
            .map(|(n, client)| {
                let own = Random::new(random.number());
                Rc::new(RefCell::new(Follower::new(
                    n,
                    own,
                    plan.plant,
                    Rc::clone(client),
                    Arc::clone(witness),
                )))
            })
            .collect();
        for (n, follower) in followers.iter().enumerate() {
            let follower = Rc::clone(follower);
            sim.host(format!("f{n}"), move || follower::follow(Rc::clone(&follower)));
        }
        let gap_ms = u64::try_from(plan.fault_gap.as_millis()).unwrap().max(100);
        Self { sim, machines, clients, followers, random, mendings: BTreeSet::new(), gap_ms, detail }
    }

    /// What did not come to its end, if anything.
    fn finish(&mut self) -> Option<Violation> {
        let mut next_fault = Duration::ZERO;
        let mut calm = false;
        loop {
            let elapsed = self.sim.elapsed();
            time::set(elapsed);
            self.mend(elapsed);
            if elapsed < STRIKES_FOR {
                if elapsed >= next_fault {
                    self.strike(elapsed);
                    next_fault = elapsed + self.random.millis(0, 2 * self.gap_ms);
                }
            } else if !calm {
                calm = true;
                self.machines.iter().for_each(|machine| machine.borrow_mut().calm_down());
            }
            if elapsed > STRIKES_FOR + PATIENT_FOR {
                self.clients.iter().for_each(|client| client.borrow_mut().give_up());
            }
            let has_asked = self.clients.iter().all(|client| client.borrow().is_done());
            let has_seen = self.followers.iter().all(|follower| follower.borrow().is_done());
            if calm && self.mendings.is_empty() && has_asked && has_seen {
                return None;
            }
            if elapsed > STRIKES_FOR + CALM_FOR {
                let clients = self.clients.iter().map(|client| client.borrow().waits_for());
                let followers = self.followers.iter().map(|follower| follower.borrow().waits_for());
                let open: Vec<String> = clients.chain(followers).collect();
                let promise = crate::history::Promise::P1;
                return Some(Violation {
                    promise,
                    at: time::now().at,
                    text: format!("stuck: {}", open.join("; ")),
                });
            }
            self.sim.step().expect("no host fails");
            time::set(self.sim.elapsed());
            self.machines.iter().for_each(|machine| machine.borrow_mut().pass());
        }
    }

    fn later(&mut self, now: Duration, mend: Mend) {
        let after = self.random.millis(10, MENDED_MS);
        self.mendings.insert((now + after, mend));
    }

    fn mend(&mut self, now: Duration) {
        while self.mendings.first().is_some_and(|(at, _)| *at <= now) {
            let (_, mend) = self.mendings.pop_first().expect("there is a first one");
            self.told(now, &format!("{mend:?}"));
            match mend {
                Mend::Starts(host) if self.sim.is_host_running(host.as_str()) => {}
                Mend::Starts(host) => self.sim.bounce(host),
                Mend::Repairs(host) => self.sim.repair(host, HOST),
                Mend::Releases(host) => self.sim.release(host, HOST),
            }
        }
    }

    /// Something goes wrong.
    fn strike(&mut self, now: Duration) {
        let at = self.random.index(self.machines.len());
        let machine = Rc::clone(&self.machines[at]);
        let worker = machine.borrow().name.to_string();
        let who = self.random.pick(&["c", "f"]);
        let client = format!("{who}{}", self.random.index(self.clients.len()));
        let someone = if self.random.chance(700) { worker.clone() } else { client };
        let kind = self.random.below(9);
        self.told(now, &format!("fault {kind} at {someone}"));
        match kind {
            0 => self.dies(now, HOST.to_owned()),
            1 | 2 => self.dies(now, worker),
            3 => machine.borrow_mut().executor_dies(),
            4 => machine.borrow_mut().keeper_dies(),
            5 => {
                self.sim.partition(someone.as_str(), HOST);
                self.later(now, Mend::Repairs(someone));
            }
            6 => {
                self.sim.partition_oneway(someone.as_str(), HOST);
                self.later(now, Mend::Repairs(someone));
            }
            7 => {
                self.sim.partition_oneway(HOST, someone.as_str());
                self.later(now, Mend::Repairs(someone));
            }
            _ => {
                self.sim.hold(someone.as_str(), HOST);
                self.later(now, Mend::Releases(someone));
            }
        }
    }

    fn dies(&mut self, now: Duration, host: String) {
        if self.sim.is_host_running(host.as_str()) {
            self.sim.crash(host.as_str());
            self.later(now, Mend::Starts(host));
        }
    }

    fn told(&self, now: Duration, what: &str) {
        if self.detail == Detail::Told {
            eprintln!("{:.3}s {what}", now.as_secs_f64());
        }
    }
}
