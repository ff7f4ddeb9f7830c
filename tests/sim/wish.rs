//! What clients submit: scripts and demands, drawn by chance.

use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::job::{Array, JobSpec};
use clusterctl::core::label::Constraint;
use clusterctl::core::output::Stream;

use crate::plan::Tastes;
use crate::random::Random;
use crate::script::{Script, Spawns, Write};

/// Demands that machines of the simulation can meet.
const CONSTRAINTS: [&str; 6] =
    ["zone=a", "gpu", "!gpu", "gpu=h100 || zone=b", "name=w1", "zone=b && name!=w2"];

/// A job that somebody wants.
pub fn some_spec(random: &mut Random, run_ms: u64, tastes: Tastes) -> Arc<JobSpec> {
    let mut spec = JobSpec::new(some_script(random, run_ms, tastes).text());
    if random.chance(tastes.constraints) {
        spec.constraint = Constraint::parse(random.pick(&CONSTRAINTS)).unwrap();
    }
    if random.chance(tastes.retries) {
        spec.retries = random.pick(&[1, 2, 3]);
    }
    spec.priority = random.pick(&[0, 0, 0, 5, -5]);
    if random.chance(150) {
        spec.timeout = Some(Duration::from_millis(random.between(500, run_ms)));
    }
    if random.chance(200) {
        spec.lost_after = Some(Duration::from_secs(random.between(20, 300)));
    }
    if random.chance(tastes.arrays) {
        let first = u32::try_from(random.below(3)).unwrap();
        let last = first + u32::try_from(random.below(8)).unwrap();
        let at_once = random.pick(&[None, Some(1), Some(2), Some(4)]);
        spec.array = Some(Array::new(vec![(first, last)], at_once).unwrap());
    }
    Arc::new(spec)
}

/// A script that runs so long ends only because somebody wants it to.
const ENDLESS: Duration = Duration::from_secs(1_000_000);

/// Whether a job ends only because somebody wants it to.
pub fn is_endless(spec: &JobSpec) -> bool {
    Script::read(&spec.script).run == ENDLESS
}

fn some_script(random: &mut Random, run_ms: u64, tastes: Tastes) -> Script {
    let is_quick = random.chance(200);
    let run = if is_quick { random.between(0, 3) } else { random.between(1, run_ms) };
    // What waits behind such a task is taken back.
    let drags = if is_quick && random.chance(500) { random.between(1, run_ms) } else { 0 };
    let longest = random.pick(&[40, 400, 6000]);
    let mut after: Vec<u64> = (0..random.below(6)).map(|_| random.between(0, run)).collect();
    after.sort_unstable();
    let write = |after: u64| Write {
        after: Duration::from_millis(after),
        stream: if random.chance(600) { Stream::Stdout } else { Stream::Stderr },
        length: usize::try_from(random.between(1, longest)).unwrap(),
    };
    let writes = after.into_iter().map(write).collect();
    Script {
        run: if random.chance(tastes.endless) { ENDLESS } else { Duration::from_millis(run) },
        drags: Duration::from_millis(drags),
        exit: random.pick(&[0, 0, 0, 1, 77]),
        yields: if random.chance(tastes.stubborn) { None } else { Some(random.millis(0, 4000)) },
        spawns: if random.chance(30) { Spawns::No } else { Spawns::Yes },
        writes,
    }
}
