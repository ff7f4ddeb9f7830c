//! Mistakes that are planted in the world, one at a time, around the real pool and the real agent: each must be found,
//! since a check that cannot fail is a defect.
//!
//! With `CLUSTERCTL_SIM_SEEDS=N` each runs over N seeds, and says in how many it was found.

use crate::history::Promise;
use crate::plan::{Mode, Plant};
use crate::run::run;
use crate::trace::Detail;

/// Seeds among which one must find a mistake.
const WITHIN: u64 = 100;

#[test]
fn a_disk_that_forgets_its_last_commit_is_found() {
    is_found(Plant::DiskForgetsTheLastCommit, Promise::P1);
}

#[test]
fn answers_before_the_commit_are_found() {
    is_found(Plant::AnswersBeforeTheCommit, Promise::P1);
}

#[test]
fn a_client_that_changes_its_request_ids_is_found() {
    is_found(Plant::ClientChangesRequestIds, Promise::P2);
}

#[test]
fn a_start_that_is_delivered_to_a_second_executor_is_found() {
    is_found(Plant::LinkStartsTwice, Promise::P3);
}

#[test]
fn an_executor_that_forgets_its_journal_is_found() {
    is_found(Plant::ExecutorForgetsItsJournal, Promise::P3);
}

#[test]
fn a_keeper_that_counts_its_lease_too_slowly_is_found() {
    is_found(Plant::KeeperLeasesAreSlow, Promise::P4);
}

#[test]
fn a_report_that_is_taken_whatever_attempt_it_names_is_found() {
    is_found(Plant::LinkIgnoresAttemptNumbers, Promise::P5);
}

#[test]
fn a_disk_that_forgets_that_workers_went_down_is_found() {
    is_found(Plant::DiskForgetsLostWorkers, Promise::P6);
}

#[test]
fn a_pool_that_gives_up_too_early_is_found() {
    is_found(Plant::PoolGivesUpEarly, Promise::P7);
}

#[test]
fn a_worker_that_says_nothing_of_another_boot_is_found() {
    is_found(Plant::LinkTellsTheFirstBoot, Promise::P7);
}

#[test]
fn a_link_that_seems_alive_is_found() {
    is_found(Plant::LinkSeemsAlive, Promise::P7);
}

#[test]
fn garbled_output_is_found() {
    is_found(Plant::OutputIsGarbled, Promise::P9);
}

#[test]
fn output_that_is_acknowledged_before_it_is_durable_is_found() {
    is_found(Plant::OutputIsAcknowledgedEarly, Promise::P9);
}

#[test]
fn a_follower_that_is_not_told_everything_is_found() {
    is_found(Plant::FollowerLosesEvents, Promise::P10);
}

#[test]
fn a_disk_that_forgets_cancels_is_found() {
    is_found(Plant::DiskForgetsCancels, Promise::P11);
}

#[test]
fn an_executor_that_heeds_an_agent_that_was_replaced_is_found() {
    is_found(Plant::ExecutorIgnoresDials, Promise::P3);
}

#[test]
fn an_executor_that_starts_what_it_gave_back_is_found() {
    is_found(Plant::ExecutorKeepsWhatItGaveBack, Promise::P3);
}

#[test]
fn an_agent_that_counts_leases_from_their_answers_is_found() {
    is_found(Plant::AgentCountsLeasesFromTheAnswer, Promise::P13);
}

#[test]
fn keepers_whose_leases_last_too_long_are_found_before_another_attempt_begins() {
    is_found(Plant::KeeperLeasesAreSlow, Promise::P13);
}

#[test]
fn an_agent_that_forgets_that_it_drains_is_found() {
    is_found(Plant::AgentForgetsThatItDrains, Promise::P14);
}

#[test]
fn a_job_that_loses_its_demands_on_the_way_is_found() {
    is_found(Plant::SpecLosesItsDemands, Promise::Placement);
}

/// Asserts that some seed shows that a promise is broken.
fn is_found(plant: Plant, promise: Promise) {
    let shows = |seed: &u64| shows(*seed, plant, promise);
    match crate::number("CLUSTERCTL_SIM_SEEDS") {
        None => assert!((1..=WITHIN).any(|seed| shows(&seed)), "{plant:?} breaks {promise:?} unseen"),
        Some(seeds) => {
            let found = (1..=seeds).filter(shows).count();
            eprintln!("{plant:?}: {promise:?} is seen to be broken in {found} of {seeds} seeds");
            assert!(found > 0, "{plant:?} breaks {promise:?} unseen");
        }
    }
}

/// Whether a seed shows it. What is planted may also break what the program asserts of itself, which proves nothing.
fn shows(seed: u64, plant: Plant, promise: Promise) -> bool {
    let verdict = std::panic::catch_unwind(|| run(seed, Mode::Safety, plant, Detail::Silent));
    verdict.is_ok_and(|verdict| verdict.violations.iter().any(|broken| broken.promise == promise))
}
