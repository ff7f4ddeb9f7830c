//! The same promises over the real thing: the real pool with its store and its output, real agents, Cap'n Proto over
//! turmoil's streams, whose links delay, hold and lose; agents and the pool die, model executors and keepers as well.
//!
//! ```text
//!   clients ──rpc──> pool::Alone (core, store, output; one thread) <──rpc── worker::work_at ──line── model executors
//! ```
//!
//! A run lasts minutes of virtual time: faults strike for a while, then cease, and everything comes to its end.

mod client;
mod follower;
mod machine;
mod pool;
mod run;
mod time;

use crate::history::Promise;
use crate::plan::Plant;
use crate::trace::Detail;
use crate::{judged, seeds};

/// Seeds that a normal run takes.
const SEEDS: u64 = 12;

#[test]
fn over_real_rpc_nothing_bad_happens_and_everything_ends_when_faults_cease() {
    let (seeds, detail) = seeds(SEEDS);

    judged(&seeds, "over_real_rpc", |seed| run::run(seed, Plant::Nothing, detail).violations);
}

#[test]
fn over_real_rpc_the_same_seed_is_the_same_run() {
    for seed in [1, 2] {
        let digest = || run::run(seed, Plant::Nothing, Detail::Silent).digest;

        assert_eq!(digest(), digest(), "seed {seed}");
    }
}

/// Runs seeds with a planted fault until its promise is seen to be broken; from one on that shows it soon.
fn is_found(plant: Plant, promise: Promise, first: u64) -> bool {
    let broken = |seed| run::run(seed, plant, Detail::Silent).violations;
    (first..first + 40).any(|seed| broken(seed).iter().any(|broken| broken.promise == promise))
}

#[test]
fn over_real_rpc_output_that_was_garbled_is_found() {
    assert!(is_found(Plant::OutputIsGarbled, Promise::P9, 1));
}

#[test]
fn over_real_rpc_keepers_whose_leases_are_slow_are_found() {
    assert!(is_found(Plant::KeeperLeasesAreSlow, Promise::P13, 1));
}

#[test]
fn over_real_rpc_an_executor_that_forgets_its_journal_is_found() {
    assert!(is_found(Plant::ExecutorForgetsItsJournal, Promise::P3, 1));
}

#[test]
fn over_real_rpc_a_follower_that_forgets_its_place_is_found() {
    assert!(is_found(Plant::FollowerForgetsItsPlace, Promise::P10, 5));
}
