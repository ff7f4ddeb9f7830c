//! Where tasks go: never beyond a worker's slots or a job's `at_once`, only where the constraint is met, and in the
//! order that the program states: priority, then the owner with the fewest slots in use, then age; to the emptiest
//! worker. Beyond its slots a worker is handed a few quick tasks, when nobody has a slot for anything that waits.
//!
//! What a job asks for is taken from its client, not from the pool.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::id::{JobId, RequestId, WorkerId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::label::Labels;
use clusterctl::core::limits;
use clusterctl::core::record::{Assignment, Record, WorkerState};

use super::tasks::{Job, Jobs};
use super::{Check, Findings, Happened, Promise};

/// What a worker is handed beyond its slots takes it about so long.
const PREFETCH: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Placements {
    asked: BTreeMap<(String, RequestId), Arc<JobSpec>>,
    jobs: Jobs,
    workers: BTreeMap<WorkerId, WorkerState>,
    /// How long the quickest task of a job took that has ended.
    quickest: BTreeMap<JobId, Duration>,
    /// As somebody who can look into the pool told it for the records that come.
    open: Option<BTreeSet<WorkerId>>,
}

impl Check for Placements {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Submitting { owner, request, spec } = event {
            self.asked.entry((owner.clone(), *request)).or_insert_with(|| Arc::clone(spec));
        } else if let Happened::Open(workers) = event {
            self.nothing_waits_in_vain(found);
            self.open = Some(workers.iter().copied().collect());
        } else if let Happened::PoolStarted = event {
            self.open = None;
        } else if let Happened::Recorded(record) = event {
            self.recorded(record, found);
        }
    }
}

impl Placements {
    fn recorded(&mut self, record: &Record, found: &mut Findings) {
        if let Record::Worker(state) = record {
            self.workers.insert(state.id, state.clone());
        }
        if let Record::Ended(ended) = record {
            let quickest = self.quickest.entry(ended.end.fence.task.job).or_insert(Duration::MAX);
            *quickest = ended.end.usage.run.min(*quickest);
        }
        let Record::Assigned(assignment) = record else { return self.jobs.apply(record) };
        // One after the other: each changes what is right for the next.
        for &task in &assignment.tasks {
            self.placed(assignment.job, task.0, assignment.worker, found);
            self.jobs.apply(&Record::Assigned(Assignment { tasks: vec![task], ..assignment.clone() }));
        }
    }

    fn placed(&self, id: JobId, index: u32, worker: WorkerId, found: &mut Findings) {
        let mut broken = |text: String| {
            found.broken(Promise::Placement, format!("{id}.{index} goes to worker {worker}: {text}"));
        };
        let Some(job) = self.jobs.0.get(&id) else { return broken("there is no such job".to_owned()) };
        if !job.waiting.contains(&index) {
            broken("it does not wait".to_owned());
        }
        let spec = self.spec(job);
        if self.free(worker) == 0 {
            self.placed_ahead(id, worker, &mut broken);
        }
        if !spec.constraint.matches(&self.labels(worker)) {
            broken(format!("it does not meet {}", spec.constraint));
        }
        if !may_start(job, &spec) {
            broken(format!("{} tasks of it run already", job.active.len()));
        }
        if let Some(open) = &self.open {
            if !open.contains(&worker) {
                broken("that takes nothing".to_owned());
            }
            // Ahead of a slot only what nobody has one for.
            let right = self.next(open);
            let is_right = right.map_or(self.free(worker) == 0, |right| right == (id, worker));
            if !is_right {
                broken(format!("job and worker to come next were {right:?}"));
            }
        }
    }

    /// It waits there: as one of a few, of a job that has had a quick task.
    fn placed_ahead(&self, id: JobId, worker: WorkerId, broken: &mut impl FnMut(String)) {
        let (slots, there) = (self.slots(worker), self.jobs.at(worker));
        let rounds = self.quickest.get(&id).map_or(0, |run| {
            let rounds = PREFETCH.as_micros() / run.as_micros().max(1);
            u32::try_from(rounds).unwrap_or(u32::MAX).min(limits::PREFETCH_ROUNDS_MAX)
        });
        if there >= slots + slots * rounds {
            broken(format!("it has {slots} slots and {there} tasks, and the job's took {rounds} to a round"));
        }
    }

    /// A turn is over: what waits fits nowhere.
    fn nothing_waits_in_vain(&self, found: &mut Findings) {
        if let Some((job, worker)) = self.open.as_ref().and_then(|open| self.next(open)) {
            let text = format!("job {job} waits, and worker {worker} has a slot for it");
            found.broken(Promise::Placement, text);
        }
    }

    /// What comes next, found by looking at everything.
    fn next(&self, open: &BTreeSet<WorkerId>) -> Option<(JobId, WorkerId)> {
        let free: Vec<(u32, WorkerId, Labels)> = open
            .iter()
            .map(|&worker| (self.free(worker), worker))
            .filter(|(free, _)| *free > 0)
            .map(|(free, worker)| (free, worker, self.labels(worker)))
            .collect();
        if free.is_empty() {
            return None;
        }
        let waiting = self.jobs.0.iter().filter(|(_, job)| !job.waiting.is_empty());
        let place = |(&id, job): (&JobId, &Job)| {
            let spec = self.spec(job);
            let fitting = free.iter().filter(|(_, _, labels)| spec.constraint.matches(labels));
            let (_, worker, _) = fitting.min_by_key(|(free, worker, _)| (Reverse(*free), *worker))?;
            let rank = (Reverse(spec.priority), self.jobs.in_use(&job.owner), id);
            may_start(job, &spec).then_some((rank, *worker))
        };
        waiting.filter_map(place).min().map(|((_, _, id), worker)| (id, worker))
    }

    fn spec(&self, job: &Job) -> Arc<JobSpec> {
        let asked = self.asked.get(&(job.owner.clone(), job.request));
        Arc::clone(asked.unwrap_or(&job.spec))
    }

    fn slots(&self, worker: WorkerId) -> u32 {
        let facts = self.workers.get(&worker).and_then(|state| state.facts.as_ref());
        facts.map_or(0, |facts| facts.slots)
    }

    fn free(&self, worker: WorkerId) -> u32 {
        self.slots(worker).saturating_sub(self.jobs.at(worker))
    }

    /// Its own labels, those of its token over them, and its name.
    fn labels(&self, worker: WorkerId) -> Labels {
        let Some(state) = self.workers.get(&worker) else { return Labels::new() };
        let mut labels = state.facts.as_ref().map(|facts| facts.labels.clone()).unwrap_or_default();
        labels.extend(state.bound.clone());
        labels.insert("name".to_owned(), state.name.clone());
        labels
    }
}

fn may_start(job: &Job, spec: &JobSpec) -> bool {
    let at_once = spec.array.as_ref().and_then(|array| array.at_once);
    at_once.is_none_or(|at_once| (job.active.len() as u64) < u64::from(at_once))
}
