//! What a run is made of, drawn from its seed: how many machines and clients, how slow everything is, and which faults
//! come how often. Each run leaves out some kinds of fault, so that the others come in combinations that a mixture of
//! all would hide.

use std::time::Duration;

use crate::executor::{Dials, GivingBack, Habits, Journalling, Sending};
use crate::random::Random;

/// Everything that is decided before a run begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Steps with faults.
    pub steps: u64,
    pub machines: u64,
    pub clients: u64,
    /// Between two faults, on average.
    pub fault_gap: Duration,
    /// Between two requests of one client, on average.
    pub ask_gap: Duration,
    /// The faults, each with a weight.
    pub faults: Vec<(Fault, u64)>,
    /// A message takes up to so many milliseconds.
    pub delay_ms: u64,
    /// A commit takes up to so many milliseconds.
    pub commit_ms: u64,
    /// A turn takes so many requests at most, for the program's bound in bytes, which no turn here comes near.
    pub turn_requests_max: usize,
    /// The longest script, in milliseconds.
    pub run_ms: u64,
    /// What clients like to ask.
    pub tastes: Tastes,
    /// The longest that a machine is out of reach, in milliseconds.
    pub away_ms: u64,
    /// So often in a thousand a new link delivers nothing for a while.
    pub links_stall: u64,
    /// So often in a thousand a new link breaks soon.
    pub links_break: u64,
    /// So often in a thousand an agent gives a start back.
    pub starts_returned: u64,
    /// So often in a thousand an agent dies in the middle of what it does.
    pub agent_dies: u64,
    pub executor: Habits,
    pub plant: Plant,
}

/// What clients of a run ask more or less of.
#[derive(Clone, Copy, Debug)]
pub struct Tastes {
    /// So often in a thousand a job may be retried.
    pub retries: u64,
    /// So often in a thousand a job is an array.
    pub arrays: u64,
    /// So often in a thousand a job asks for certain workers.
    pub constraints: u64,
    /// So often in a thousand something else than a submit is a cancel.
    pub cancels: u64,
    /// So often in a thousand a job is cancelled as soon as it is accepted.
    pub regrets: u64,
    /// So often in a thousand a script ends only by KILL.
    pub stubborn: u64,
    /// So often in a thousand a script never ends by itself.
    pub endless: u64,
    /// Jobs of one client that may be unfinished before it waits.
    pub jobs_at_once: usize,
}

impl Tastes {
    fn draw(mode: Mode, random: &mut Random) -> Self {
        Self {
            retries: random.pick(&[200, 600, 1000]),
            arrays: random.pick(&[0, 300, 700]),
            constraints: random.pick(&[0, 0, 500]),
            cancels: random.pick(&[50, 200, 600]),
            regrets: random.pick(&[0, 0, 300]),
            stubborn: random.pick(&[100, 700]),
            // A safety run ends whatever still runs.
            endless: if mode == Mode::Liveness { 50 } else { 0 },
            jobs_at_once: random.pick(&[3, 6, 12]),
        }
    }
}

/// What a run is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Faults to the end; nothing bad happens.
    Safety,
    /// Faults cease; everything good happens.
    Liveness,
}

/// What can go wrong, or is done by people who run a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    PoolCrashes,
    PoolStops,
    AgentDies,
    AgentLeaves,
    ExecutorDies,
    KeeperDies,
    MachineReboots,
    LinkBreaks,
    LinkIsCut,
    LinkIsHeld,
    MachineIsAway,
    WorkerDrains,
    WorkerStops,
    WorkerIsRemoved,
    WorkerIsDrained,
    WorkerIsResumed,
    MachineJoins,
    MachineIsCopied,
    ContainerIsCopied,
    FollowerIsSlow,
    WallClockJumps,
    LogGrows,
}

/// All of them, with their usual weight.
const FAULTS: [(Fault, u64); 22] = [
    (Fault::PoolCrashes, 10),
    (Fault::PoolStops, 5),
    (Fault::AgentDies, 8),
    (Fault::AgentLeaves, 2),
    (Fault::ExecutorDies, 5),
    (Fault::KeeperDies, 4),
    (Fault::MachineReboots, 5),
    (Fault::LinkBreaks, 10),
    (Fault::LinkIsCut, 10),
    (Fault::LinkIsHeld, 10),
    (Fault::MachineIsAway, 12),
    (Fault::WorkerDrains, 3),
    (Fault::WorkerStops, 2),
    (Fault::WorkerIsRemoved, 2),
    (Fault::WorkerIsDrained, 3),
    (Fault::WorkerIsResumed, 4),
    (Fault::MachineJoins, 3),
    (Fault::MachineIsCopied, 3),
    (Fault::ContainerIsCopied, 2),
    (Fault::FollowerIsSlow, 4),
    (Fault::WallClockJumps, 2),
    (Fault::LogGrows, 1),
];

/// A mistake that is planted, to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    Nothing,
    /// The disk says that a commit is durable, and forgets the last one in a crash.
    DiskForgetsTheLastCommit,
    /// The disk keeps everything but cancels.
    DiskForgetsCancels,
    /// The disk forgets of lost attempts that their workers went down with them.
    DiskForgetsLostWorkers,
    /// The pool answers before its turn is durable.
    AnswersBeforeTheCommit,
    /// A client that gets no answer asks again under another request id.
    ClientChangesRequestIds,
    /// A submit loses its constraint, priority and bound on the way.
    SpecLosesItsDemands,
    /// Endings are reported again, as if they were about the attempt that counts.
    LinkIgnoresAttemptNumbers,
    /// A worker's messages say that its machine was never booted since it first came.
    LinkTellsTheFirstBoot,
    /// The pool's end of a link takes it for a sign of life that it is there.
    LinkSeemsAlive,
    /// The pool gives up what is unknown long before it was told to.
    PoolGivesUpEarly,
    /// What an earlier link had to deliver is delivered again by a later one, to whatever executor there is.
    LinkStartsTwice,
    /// An executor hears what an agent that was replaced had left to say, and does not look at its dial.
    ExecutorIgnoresDials,
    /// An executor starts what it has given back.
    ExecutorKeepsWhatItGaveBack,
    /// An executor starts scripts without a line in its journal.
    ExecutorForgetsItsJournal,
    /// An agent takes what it is given although it drains.
    AgentForgetsThatItDrains,
    /// An agent counts a lease from when it was answered.
    AgentCountsLeasesFromTheAnswer,
    /// A keeper counts a lease three times too slowly.
    KeeperLeasesAreSlow,
    /// A byte of output is changed now and then.
    OutputIsGarbled,
    /// The pool says that output is durable before it is.
    OutputIsAcknowledgedEarly,
    /// A follower is not told everything.
    FollowerLosesEvents,
    /// Over real RPC: who follows again asks for a task's output from its beginning.
    FollowerForgetsItsPlace,
}

impl Plan {
    /// The plan of a seed; `random` is the run's own.
    pub fn draw(mode: Mode, plant: Plant, random: &mut Random) -> Self {
        let machines = match random.below(6) {
            0 => 1,
            1 => random.between(6, 9),
            _ => random.between(2, 4),
        };
        let commit_ms = random.pick(&[1, 20, 300, 2000]);
        // A pool that decides little at a time and commits slowly would not get through.
        let quick = commit_ms <= 20;
        let turn_requests_max = if quick { random.pick(&[usize::MAX, 1, 3]) } else { usize::MAX };
        let mut plan = Self {
            steps: match mode {
                Mode::Safety => 4000,
                Mode::Liveness => 1000,
            },
            machines,
            clients: random.between(1, 3),
            fault_gap: random.millis(1000, 20_000),
            ask_gap: random.millis(1000, 15_000),
            faults: some_faults(random),
            delay_ms: random.pick(&[2, 50, 400, 3000]),
            commit_ms,
            turn_requests_max,
            run_ms: match mode {
                Mode::Safety => random.pick(&[2000, 30_000, 120_000, 120_000, 900_000]),
                // What was submitted has to be done within bounds.
                Mode::Liveness => random.pick(&[2000, 30_000, 120_000]),
            },
            tastes: Tastes::draw(mode, random),
            away_ms: random.pick(&[20_000, 150_000, 150_000, 900_000]),
            links_stall: random.pick(&[0, 0, 50, 200]),
            links_break: random.pick(&[0, 0, 50, 200]),
            starts_returned: random.pick(&[0, 0, 50, 300]),
            agent_dies: random.pick(&[0, 0, 20]),
            executor: habits(plant, random),
            plant,
        };
        plan.let_show(plant);
        plan
    }

    /// Brings about what shows a planted mistake soon that needs a coincidence.
    fn let_show(&mut self, plant: Plant) {
        match plant {
            Plant::KeeperLeasesAreSlow => {
                self.faults = vec![(Fault::MachineIsAway, 10)];
                (self.away_ms, self.run_ms, self.tastes.retries) = (150_000, 900_000, 1000);
            }
            Plant::ExecutorIgnoresDials => {
                (self.agent_dies, self.starts_returned, self.tastes.retries) = (200, 500, 0);
            }
            Plant::ExecutorForgetsItsJournal => {
                self.faults = vec![(Fault::ExecutorDies, 10)];
            }
            Plant::OutputIsAcknowledgedEarly => {
                self.faults = vec![(Fault::PoolCrashes, 10)];
                self.commit_ms = 2000;
            }
            Plant::LinkIgnoresAttemptNumbers => {
                self.faults = vec![(Fault::KeeperDies, 10)];
                (self.run_ms, self.tastes.retries) = (120_000, 1000);
            }
            Plant::DiskForgetsCancels => {
                self.faults = vec![(Fault::PoolCrashes, 10)];
                self.tastes.cancels = 600;
            }
            Plant::DiskForgetsLostWorkers => {
                self.faults = vec![(Fault::ExecutorDies, 20), (Fault::PoolCrashes, 5)];
                (self.run_ms, self.tastes.retries) = (900_000, 1000);
            }
            Plant::LinkTellsTheFirstBoot => {
                self.faults = vec![(Fault::MachineReboots, 10)];
                (self.run_ms, self.tastes.retries) = (900_000, 0);
            }
            Plant::LinkSeemsAlive | Plant::PoolGivesUpEarly => {
                self.faults = vec![(Fault::MachineIsAway, 10)];
                (self.away_ms, self.run_ms, self.tastes.retries) = (150_000, 900_000, 0);
            }
            Plant::AgentCountsLeasesFromTheAnswer => {
                self.faults = vec![(Fault::MachineIsAway, 10)];
                (self.away_ms, self.run_ms, self.tastes.retries) = (150_000, 900_000, 1000);
                self.delay_ms = 3000;
            }
            Plant::ExecutorKeepsWhatItGaveBack => {
                (self.tastes.arrays, self.tastes.retries) = (1000, 0);
            }
            Plant::AgentForgetsThatItDrains => {
                self.faults = vec![(Fault::WorkerDrains, 10)];
            }
            Plant::Nothing
            | Plant::DiskForgetsTheLastCommit
            | Plant::AnswersBeforeTheCommit
            | Plant::ClientChangesRequestIds
            | Plant::SpecLosesItsDemands
            | Plant::LinkStartsTwice
            | Plant::OutputIsGarbled
            | Plant::FollowerLosesEvents
            | Plant::FollowerForgetsItsPlace => {}
        }
    }
}

/// Faults that make trouble together.
const THEMES: [&[Fault]; 10] = [
    &[Fault::MachineIsAway],
    &[Fault::LinkIsHeld, Fault::LinkIsHeld, Fault::MachineIsAway],
    &[Fault::PoolStops, Fault::MachineIsAway],
    &[Fault::PoolCrashes, Fault::LogGrows, Fault::MachineIsAway],
    &[Fault::MachineReboots, Fault::LinkIsHeld, Fault::PoolCrashes],
    &[Fault::MachineIsCopied, Fault::WorkerDrains, Fault::MachineIsAway],
    &[Fault::ContainerIsCopied, Fault::WorkerDrains, Fault::LinkBreaks],
    &[Fault::ExecutorDies, Fault::AgentDies, Fault::LinkBreaks, Fault::PoolCrashes],
    &[Fault::WorkerDrains, Fault::LinkBreaks, Fault::LinkIsHeld],
    &[Fault::KeeperDies, Fault::LinkIsCut, Fault::LinkIsHeld],
];

/// Some kinds of fault: often only a few, so that each comes often.
fn some_faults(random: &mut Random) -> Vec<(Fault, u64)> {
    let mut faults: Vec<(Fault, u64)> = match random.below(5) {
        0..2 => random.pick(&THEMES).iter().map(|fault| (*fault, 10)).collect(),
        2 | 3 => (0..random.between(2, 5)).map(|_| random.pick(&FAULTS)).collect(),
        _ => {
            let left_out = random.between(100, 700);
            FAULTS.iter().copied().filter(|_| !random.chance(left_out)).collect()
        }
    };
    if faults.is_empty() || random.chance(150) {
        faults.extend([(Fault::LogGrows, 2), (Fault::PoolCrashes, 5)]);
    }
    faults
}

fn habits(plant: Plant, random: &mut Random) -> Habits {
    let ignores_dials = plant == Plant::ExecutorIgnoresDials;
    let forgets = plant == Plant::ExecutorForgetsItsJournal;
    let garbles = plant == Plant::OutputIsGarbled;
    let keeps = plant == Plant::ExecutorKeepsWhatItGaveBack;
    Habits {
        dies_in_a_start: random.pick(&[0, 0, 20]),
        dials: if ignores_dials { Dials::Ignored } else { Dials::Checked },
        journalling: if forgets { Journalling::Forgotten } else { Journalling::Done },
        lease_stretch: if plant == Plant::KeeperLeasesAreSlow { 3 } else { 1 },
        giving_back: if keeps { GivingBack::Forgotten } else { GivingBack::Done },
        sending: if garbles { Sending::Garbled } else { Sending::Exact },
    }
}
