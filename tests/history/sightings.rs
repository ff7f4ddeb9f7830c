//! P1 and P5: what somebody was shown is not undone, neither for the same eyes nor by another pool process; an outcome
//! that anybody saw is the one that everybody sees.

use std::collections::BTreeMap;

use clusterctl::core::id::{JobId, TaskId};
use clusterctl::core::outcome::Outcome;
use clusterctl::core::view::{Counts, TaskState};

use super::{Check, Findings, Follow, Happened, Observer, Promise, TaskSight};

/// Whose eyes: of one observer, or of all that saw an earlier pool process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Eyes {
    One(Observer),
    Before,
}

/// The least that a task must be from now on.
#[derive(Clone, Copy, Debug, Default)]
struct Least {
    attempt: u32,
    over: bool,
}

#[derive(Debug, Default)]
pub(super) struct Sightings {
    tasks: BTreeMap<(TaskId, Eyes), Least>,
    jobs: BTreeMap<(JobId, Eyes), Counts>,
    outcomes: BTreeMap<TaskId, (TaskState, Option<Outcome>)>,
}

impl Check for Sightings {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::PoolStarted = event {
            self.forget_whose();
        } else if let Happened::TaskSeen { observer, sight } = event {
            self.task(*observer, sight, found);
        } else if let Happened::JobSeen { observer, job, counts } = event {
            self.job(*observer, *job, counts, found);
        } else if let Happened::Followed { observer, job, what } = event {
            self.followed(*observer, *job, what, found);
        }
    }
}

impl Sightings {
    /// A new process must show everybody at least what any saw.
    fn forget_whose(&mut self) {
        for ((task, _), least) in std::mem::take(&mut self.tasks) {
            let all = self.tasks.entry((task, Eyes::Before)).or_default();
            all.attempt = all.attempt.max(least.attempt);
            all.over |= least.over;
        }
        for ((job, _), counts) in std::mem::take(&mut self.jobs) {
            let all = self.jobs.entry((job, Eyes::Before)).or_default();
            for (all, one) in all.0.iter_mut().zip(counts.0) {
                *all = one.max(*all);
            }
        }
    }

    fn task(&mut self, observer: Observer, sight: &TaskSight, found: &mut Findings) {
        let TaskSight { task, attempt, state, outcome } = sight;
        let over = state.is_over();
        for eyes in [Eyes::Before, Eyes::One(observer)] {
            let least = self.tasks.get(&(*task, eyes)).copied().unwrap_or_default();
            if *attempt < least.attempt && !over {
                let text = format!("attempt {} of {task} was shown, and now {attempt}", least.attempt);
                found.broken(Promise::P1, text);
            }
            if least.over && !over {
                found.broken(Promise::P1, format!("{task} was shown as over, and now as {}", state.as_str()));
            }
        }
        let least = self.tasks.entry((*task, Eyes::One(observer))).or_default();
        least.attempt = least.attempt.max(*attempt);
        least.over |= over;
        if over {
            self.outcome(*task, *state, outcome.as_ref(), found);
        }
    }

    fn outcome(&mut self, task: TaskId, state: TaskState, outcome: Option<&Outcome>, found: &mut Findings) {
        let (first_state, first) = self.outcomes.entry(task).or_insert((state, outcome.cloned()));
        let differ = matches!((&*first, outcome), (Some(first), Some(outcome)) if first != outcome);
        if *first_state != state || differ {
            let text = format!("{task} was seen as {first_state:?} {first:?} and as {state:?} {outcome:?}");
            found.broken(Promise::P5, text);
        }
        if first.is_none() {
            *first = outcome.cloned();
        }
    }

    fn job(&mut self, observer: Observer, job: JobId, counts: &Counts, found: &mut Findings) {
        for eyes in [Eyes::Before, Eyes::One(observer)] {
            let Some(least) = self.jobs.get(&(job, eyes)) else { continue };
            for state in TaskState::ALL.into_iter().filter(|state| state.is_over()) {
                if counts.of(state) < least.of(state) {
                    let (was, is) = (least.of(state), counts.of(state));
                    let text = format!("job {job} had {was} tasks {} and now {is}", state.as_str());
                    found.broken(Promise::P1, text);
                }
            }
        }
        self.jobs.insert((job, Eyes::One(observer)), *counts);
    }

    fn followed(&mut self, observer: Observer, job: JobId, what: &Follow, found: &mut Findings) {
        match what {
            Follow::Ended { index, attempt, outcome } => {
                let sight = TaskSight {
                    task: TaskId { job, index: *index },
                    attempt: *attempt,
                    state: TaskState::of(outcome),
                    outcome: Some(outcome.clone()),
                };
                self.task(observer, &sight, found);
            }
            Follow::Cancelled(ranges) => {
                for index in ranges.iter().flat_map(|&(first, last)| first..=last) {
                    let task = TaskId { job, index };
                    let sight = TaskSight { task, attempt: 0, state: TaskState::Cancelled, outcome: None };
                    self.task(observer, &sight, found);
                }
            }
            Follow::Over(counts) => self.job(observer, job, counts, found),
            Follow::Begins { .. } | Follow::Task(_) => {}
        }
    }
}
