//! Rounds of kill -9 under load, one process of the program after the other, at moments drawn by a seed.
//!
//! `CLUSTERCTL_ROUNDS=200 cargo test --test it rounds -- --nocapture` runs more rounds than a quick test does, and each
//! prints what was found. `CLUSTERCTL_ROUNDS_SEED=N` draws the same moments again.

mod load;

use crate::census;
use crate::cluster::{Cluster, Process, join, kill, wait_for};

use load::{Load, MayBeLost};

/// Rounds in a quick test.
const ROUNDS: u32 = 4;

/// A cluster under load, for so many rounds.
struct Rounds {
    cluster: Cluster,
    load: Load,
    count: u32,
}

impl Rounds {
    fn new(what: &str) -> Self {
        let mut cluster = Cluster::start();
        cluster.join("w1", &["--slots", "12"]);
        let load = Load::new(&cluster, what);
        Self { cluster, load, count: load::number("CLUSTERCTL_ROUNDS").unwrap_or(ROUNDS) }
    }

    /// Kills something in each round, in the midst of work, and checks at the end what became of all.
    fn run(mut self, lost: MayBeLost, mut strike: impl FnMut(&mut Self)) {
        for _ in 0..self.count {
            self.load.submit_round();
            self.load.wait_for_some_starts();
            strike(&mut self);
            self.load.look_at_what_has_ended();
        }
        self.load.finish(lost);
    }

    fn executor(&self) -> i32 {
        wait_for("there is an executor", || {
            self.cluster.site.detached("clusterctl executor").first().copied()
        })
    }
}

#[test]
fn whenever_the_pool_is_killed_each_task_ends_once_with_all_of_its_output() {
    Rounds::new("pool").run(MayBeLost::None, |rounds| {
        // Somebody is submitting just then, and somebody follows a job through all rounds.
        rounds.load.follow_from_now_on();
        rounds.load.begin_submit();
        rounds.cluster.kill_pool();
        rounds.cluster.restart_pool();
        rounds.load.end_submit();
    });
}

#[test]
fn whenever_the_agent_is_killed_each_task_ends_once_with_all_of_its_output() {
    let mut agent = None::<Process>;
    Rounds::new("agent").run(MayBeLost::None, |rounds| {
        match agent.take() {
            Some(agent) => agent.kill(),
            None => rounds.cluster.worker(0).signal(libc::SIGKILL),
        }
        let home = rounds.cluster.site.home("w1");
        agent = Some(join(&home, &rounds.cluster.address, "w1", &["--slots", "12"]));
    });
}

#[test]
fn whenever_a_keeper_is_killed_its_attempt_alone_is_lost() {
    Rounds::new("keeper").run(MayBeLost::OneEachRound, |rounds| {
        let keepers = census::children(rounds.executor());
        kill(rounds.load.pick(&keepers), libc::SIGKILL);
    });
}

#[test]
fn whenever_the_executor_is_killed_what_ran_is_lost_and_said_to_be() {
    Rounds::new("executor").run(MayBeLost::WhatRuns, |rounds| {
        let executor = rounds.executor();
        kill(executor, libc::SIGKILL);
        wait_for("another executor is there", || (rounds.executor() != executor).then_some(()));
    });
}

#[test]
fn whenever_a_client_is_killed_its_job_goes_on() {
    Rounds::new("client").run(MayBeLost::None, |rounds| rounds.load.run_and_kill_the_client());
}
