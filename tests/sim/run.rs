//! One run of one seed, from the first boot to the verdict.

use crate::history::{Happened, Violation};
use crate::plan::{Mode, Plan, Plant};
use crate::random::Random;
use crate::trace::Detail;
use crate::world::World;

/// What came of a run.
pub struct Verdict {
    pub violations: Vec<Violation>,
    /// Tells this run from another.
    pub digest: [u8; 32],
}

/// Runs a seed to its end.
pub fn run(seed: u64, mode: Mode, plant: Plant, detail: Detail) -> Verdict {
    let mut random = Random::new(seed);
    let plan = Plan::draw(mode, plant, &mut random);
    if detail == Detail::Told {
        eprintln!("{plan:#?}");
    }
    let steps = plan.steps;
    let mut world = World::new(plan, random, detail);
    for _ in 0..steps {
        world.step();
    }
    let stuck = match mode {
        Mode::Safety => None,
        Mode::Liveness => world.calm_down(),
    };
    world.end();
    let mut violations = world.history.violations();
    violations.extend(stuck);
    Verdict { violations, digest: world.trace.digest() }
}

impl World {
    /// The run is over: the pool is restarted once more, and everything is looked at.
    fn end(&mut self) {
        self.pool_crashes();
        self.pool_boots();
        self.look_at_everything();
        for machine in 0..self.machines.len() {
            let unfinished = self.machines[machine].executor.as_ref().map(|executor| executor.unfinished());
            unfinished.into_iter().flatten().for_each(|event| self.happened(event));
        }
        for (fence, kept) in self.disk.kept() {
            self.happened(Happened::Kept { fence, kept });
        }
    }
}

/// The command that shows a run line by line.
pub fn how_to_replay(seed: u64, test: &str) -> String {
    format!("  replay: CLUSTERCTL_SIM_SEED={seed} cargo test --test sim {test} -- --nocapture")
}
