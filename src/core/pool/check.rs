//! What must hold between any two calls. Simulation calls it at each step.

use std::collections::BTreeMap;

use crate::core::range::RangeSet;
use crate::core::view::TaskState;

use super::Pool;

impl Pool {
    /// Panics if the state contradicts itself.
    ///
    /// # Panics
    /// When an invariant is broken: then the program is wrong, never its input.
    pub fn check(&self) {
        self.check_jobs();
        self.check_workers();
        self.check_owners();
    }

    fn check_jobs(&self) {
        for (id, job) in &self.jobs {
            assert!(!job.is_over(), "job {id} is over and still live");
            let spec = &job.submission.spec;
            let all =
                spec.array.as_ref().map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()));
            assert_eq!(job.live() + job.over.over(), all.len(), "job {id}: each task is in one state");
            assert_eq!(job.over.over(), job.over.total(), "job {id}: only ended tasks are counted as ended");
            let ended_badly = job.over.over() - job.over.of(TaskState::Done);
            assert_eq!(job.failed.len(), ended_badly, "job {id}: failed tasks are listed");
            assert_eq!(job.waiting.difference(&all).len(), 0, "job {id}: no task is made up");
            for (&index, active) in &job.active {
                assert!(!job.waiting.contains(index), "{id}.{index} waits and is at a worker");
                assert!(active.spent.attempts <= spec.retries, "{id}.{index} has more attempts than allowed");
                assert!(all.contains(index), "{id}.{index} is made up");
                let unknown = active.unknown_since.is_some();
                assert!(active.doomed.is_none() || unknown, "{id}.{index} is doomed and not unknown");
            }
            assert!(
                job.tried.keys().all(|&index| job.waiting.contains(index)),
                "job {id}: only waiting tasks are tried"
            );
            assert_eq!(
                self.scheduler.contains(&job.class, *id),
                job.may_start(),
                "job {id} waits where it should"
            );
        }
    }

    fn check_workers(&self) {
        let mut held: BTreeMap<_, u64> = BTreeMap::new();
        for (id, job) in &self.jobs {
            for (&index, active) in &job.active {
                *held.entry(active.worker).or_default() += 1;
                let worker = self.workers.get(&active.worker).expect("an attempt is at a known worker");
                let task = crate::core::id::TaskId { job: *id, index };
                assert!(worker.active.contains(&task), "worker {} knows of {task}", worker.state.name);
            }
        }
        for (id, worker) in &self.workers {
            let holds = held.get(id).copied().unwrap_or(0);
            assert_eq!(worker.active.len() as u64, holds, "worker {} holds what jobs say", worker.state.name);
            let offered = self
                .scheduler
                .offers()
                .find(|(other, _)| other == id)
                .map(|(_, offer)| (offer.slots, offer.used));
            assert_eq!(
                offered,
                worker.is_open().then(|| (worker.slots(), worker.used())),
                "worker {}'s offer",
                worker.state.name
            );
        }
        for worker in self.workers.values().filter(|worker| worker.used() > worker.slots()) {
            assert!(worker.recalls_at.is_some(), "what waits at {} is looked for", worker.state.name);
        }
        for (key, id) in &self.worker_keys {
            let worker = &self.workers[id].state;
            assert_eq!(worker.key, Some(*key), "worker {} is known by one key", worker.name);
        }
        for (connection, id) in &self.connections {
            let worker = &self.workers[id];
            assert_eq!(
                worker.connection,
                Some(*connection),
                "worker {} has one connection",
                worker.state.name
            );
        }
    }

    fn check_owners(&self) {
        for (owner, used) in &self.owners {
            let jobs = self.jobs.values().filter(|job| job.submission.owner == *owner);
            let (live, active) = jobs
                .fold((0, 0), |(live, active), job| (live + job.live(), active + job.active.len() as u64));
            assert_eq!((used.live, used.active), (live, active), "what {owner} has in the pool");
        }
    }
}
