//! A model keeper: runs one script and ends it, as `process::keeper` does with bash, by the decisions of
//! `core::lifetime`.

use std::time::Duration;

use clusterctl::core::attempt::Launch;
use clusterctl::core::lifetime::{EndReason, Lifetime};
use clusterctl::core::outcome::Cancel;
use clusterctl::core::time::Timestamp;
use clusterctl::core::timing::Timing;

use crate::script::{Script, Write};

/// What runs. All times are on the machine's own clock.
#[derive(Debug)]
pub struct Keeper {
    lifetime: Lifetime,
    script: Script,
    started: Timestamp,
    writes_done: usize,
    /// When the script gives in to a signal.
    yields_at: Option<Timestamp>,
}

/// What a keeper's script did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    Wrote(Write),
    Ended(EndReason),
}

impl Keeper {
    /// Starts a launch.
    pub fn start(now: Timestamp, launch: &Launch, timing: Timing) -> Self {
        Self {
            lifetime: Lifetime::new(timing, now, launch.timeout, launch.lease_until),
            script: Script::read(&launch.script).of_task(launch.fence.task.index),
            started: now,
            writes_done: 0,
            yields_at: None,
        }
    }

    /// How long it has run.
    pub fn ran(&self, now: Timestamp) -> Duration {
        now.since(self.started)
    }

    /// The exit code that its script has if nobody ends it.
    pub fn exit(&self) -> u8 {
        self.script.exit
    }

    /// Its lease ends then.
    pub fn lease(&mut self, until: Timestamp) {
        self.lifetime.set_lease(until);
    }

    /// Begins to end what runs.
    pub fn end(&mut self, now: Timestamp, how: Cancel) {
        let step = self.lifetime.end(now, how);
        self.signal(now, step);
    }

    fn signal(&mut self, now: Timestamp, step: Option<Cancel>) {
        let yields = match step {
            None => None,
            Some(Cancel::Interrupt | Cancel::Terminate) => self.script.yields.map(|after| now + after),
            Some(Cancel::Kill) => Some(now),
        };
        self.yields_at = [self.yields_at, yields].into_iter().flatten().min();
    }

    /// When `wake` wants to be called next.
    pub fn next(&self) -> Timestamp {
        let write = self.script.writes.get(self.writes_done).map(|write| self.started + write.after);
        let own = self.started + self.script.run;
        let others = [write, self.lifetime.next(), self.yields_at];
        others.into_iter().flatten().fold(own, Timestamp::min)
    }

    /// Time has passed. Once it says that the script has ended, the keeper is idle.
    pub fn wake(&mut self, now: Timestamp) -> Vec<Did> {
        let mut did = Vec::new();
        let until = self.yields_at.map_or(now, |at| at.min(now));
        while let Some(write) = self.script.writes.get(self.writes_done)
            && self.started + write.after <= until
        {
            did.push(Did::Wrote(*write));
            self.writes_done += 1;
        }
        while self.lifetime.next().is_some_and(|at| at <= now) {
            let step = self.lifetime.due(now);
            self.signal(now, step);
        }
        let by_itself = self.started + self.script.run <= now;
        if by_itself || self.yields_at.is_some_and(|at| at <= now) {
            did.push(Did::Ended(self.lifetime.reason()));
        }
        did
    }
}
