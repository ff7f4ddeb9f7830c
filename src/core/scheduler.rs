//! Which waiting job goes next, and to which worker.
//!
//! Jobs that ask for the same thing (priority, owner, constraint) form one *class*, first come first served. Workers
//! that look the same to the constraints in use form one *kind*. Matching is class × kind and cached, so that a
//! decision costs the number of classes with work, not of tasks or workers. `name` and `hostname` tell every worker
//! from every other, so a class that asks for them keeps its own list of workers instead.
//!
//! Priority first, then the owner with the fewest slots in use, then age. Nothing here knows what a job or a worker
//! does; `core::pool` tells what waits and what is free.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::id::{JobId, WorkerId};
use super::label::{Constraint, Labels};
use super::limits;

/// Labels that are different on every worker.
const INDIVIDUAL: [&str; 2] = ["hostname", "name"];

/// What a job asks for. Ordered so that the highest priority comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassKey {
    /// Higher priorities come first.
    pub priority: Reverse<i8>,
    /// Whose jobs.
    pub owner: String,
    /// Which workers.
    pub constraint: Constraint,
}

/// What a worker offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its labels, name and hostname included.
    pub labels: Labels,
    /// Takes only this owner's jobs.
    pub only_owner: Option<String>,
    /// What it can run at a time.
    pub slots: u32,
    /// Tasks that it has: beyond its slots, those that wait there.
    pub used: u32,
}

impl Offer {
    /// Slots that are free.
    pub fn free(&self) -> u32 {
        self.slots.saturating_sub(self.used)
    }

    /// How often its slots are taken by what waits there; none, if it is not to have more.
    fn rounds(&self) -> Option<u32> {
        let ahead = self.used.checked_sub(self.slots).filter(|&ahead| ahead < limits::PREFETCH_TASKS_MAX)?;
        ahead.checked_div(self.slots)
    }

    fn fits(&self, class: &ClassKey) -> bool {
        self.only_owner.as_ref().is_none_or(|owner| *owner == class.owner)
            && class.constraint.matches(&self.labels)
    }
}

/// What workers have in common that the constraints in use cannot tell apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KindKey {
    only_owner: Option<String>,
    labels: Labels,
}

#[derive(Debug, Default)]
struct Kind {
    workers: u32,
    /// Those with free slots, the emptiest first.
    free: BTreeSet<(Reverse<u32>, WorkerId)>,
    /// Those without, by how much waits there already.
    full: BTreeSet<(u32, WorkerId)>,
}

#[derive(Debug, Default)]
struct Class {
    /// Jobs with a task that may be given out, oldest first.
    jobs: BTreeSet<JobId>,
    /// Those of them whose tasks may be handed to workers without a free slot: so many for each slot.
    quick: BTreeMap<JobId, u32>,
    /// Workers that fit, for a class that asks for what is different on every worker.
    individuals: Option<BTreeSet<WorkerId>>,
    /// Whether a kind fits, as far as it was asked.
    kinds: BTreeMap<KindKey, bool>,
}

/// What waits and what is free.
#[derive(Debug, Default)]
pub struct Scheduler {
    classes: BTreeMap<ClassKey, Class>,
    workers: BTreeMap<WorkerId, Offer>,
    kinds: BTreeMap<KindKey, Kind>,
    /// Keys that constraints in use ask for, with the number of classes that do.
    keys: BTreeMap<String, usize>,
    free_slots: u64,
    quick_jobs: u64,
}

impl Scheduler {
    /// A job of this class has a task that may be given out: to a free slot, or ahead of one that is about to become
    /// free, with at most `rounds` for each slot.
    pub fn add(&mut self, class: &ClassKey, job: JobId, rounds: u32) {
        if !self.classes.contains_key(class) {
            self.open_class(class);
        }
        let class = self.classes.get_mut(class).expect("the class was just opened");
        class.jobs.insert(job);
        let before = if rounds > 0 { class.quick.insert(job, rounds) } else { class.quick.remove(&job) };
        self.quick_jobs -= u64::from(before.is_some());
        self.quick_jobs += u64::from(rounds > 0);
    }

    /// A job has no task any more that may be given out.
    pub fn remove(&mut self, key: &ClassKey, job: JobId) {
        let Some(class) = self.classes.get_mut(key) else { return };
        class.jobs.remove(&job);
        self.quick_jobs -= u64::from(class.quick.remove(&job).is_some());
        if class.jobs.is_empty() {
            self.classes.remove(key);
            for label in key.constraint.keys() {
                if let Some(classes) = self.keys.get_mut(label) {
                    *classes -= 1;
                }
            }
        }
    }

    /// Whether a job is among those that wait here.
    pub fn contains(&self, class: &ClassKey, job: JobId) -> bool {
        self.classes.get(class).is_some_and(|class| class.jobs.contains(&job))
    }

    /// A worker offers this from now on, or nothing.
    pub fn offer(&mut self, worker: WorkerId, offer: Option<Offer>) {
        let old = self.workers.remove(&worker);
        let same_kind = matches!((&old, &offer), (Some(old), Some(new)) if old.labels == new.labels && old.only_owner == new.only_owner);
        if let Some(old) = &old {
            self.leave_kind(worker, old);
        }
        if let Some(new) = &offer {
            self.enter_kind(worker, new);
        }
        if !same_kind {
            for (key, class) in &mut self.classes {
                if let Some(individuals) = &mut class.individuals {
                    individuals.remove(&worker);
                    if offer.as_ref().is_some_and(|offer| offer.fits(key)) {
                        individuals.insert(worker);
                    }
                }
            }
        }
        if let Some(new) = offer {
            self.workers.insert(worker, new);
        }
    }

    /// The job that goes next and the worker that it goes to, if any waits that fits what is free. The caller then
    /// tells the changed offer, and whether the job still waits.
    ///
    /// `in_use` tells how many slots an owner has in use.
    pub fn next(&mut self, in_use: impl Fn(&str) -> u64) -> Option<(JobId, WorkerId)> {
        let oldest = |class: &Class| class.jobs.first().map(|&job| (job, Place::Free));
        let quick =
            |class: &Class| class.quick.first_key_value().map(|(&job, &rounds)| (job, Place::Ahead(rounds)));
        let free = if self.free_slots > 0 { self.best(&in_use, oldest) } else { None };
        free.or_else(|| if self.quick_jobs > 0 { self.best(&in_use, quick) } else { None })
    }

    /// The best of what the classes propose, and the worker for it.
    fn best(
        &mut self,
        in_use: impl Fn(&str) -> u64,
        propose: impl Fn(&Class) -> Option<(JobId, Place)>,
    ) -> Option<(JobId, WorkerId)> {
        let mut best: Option<(u64, JobId, WorkerId)> = None;
        let mut priority = None;
        for (key, class) in &mut self.classes {
            if best.is_some() && priority != Some(key.priority) {
                break;
            }
            let Some((oldest, place)) = propose(class) else { continue };
            let rank = (in_use(&key.owner), oldest);
            if best.is_some_and(|(used, job, _)| (used, job) <= rank) {
                continue;
            }
            if let Some(worker) = find_worker(key, class, &self.kinds, &self.workers, place) {
                best = Some((rank.0, rank.1, worker));
                priority = Some(key.priority);
            }
        }
        best.map(|(_, job, worker)| (job, worker))
    }

    /// What workers offer that are connected and not draining.
    pub fn offers(&self) -> impl Iterator<Item = (WorkerId, &Offer)> {
        self.workers.iter().map(|(&id, offer)| (id, offer))
    }

    /// Whether a worker, when free, may run jobs of a class.
    pub fn fits(&self, worker: WorkerId, class: &ClassKey) -> bool {
        self.workers.get(&worker).is_some_and(|offer| offer.fits(class))
    }

    /// The classes with work that come before or beside `key`: every job in them that may go before a job of `key`.
    pub fn jobs_before<'a>(&'a self, key: &'a ClassKey, job: JobId) -> impl Iterator<Item = JobId> + 'a {
        self.classes.iter().filter(move |(other, _)| other.priority <= key.priority).flat_map(
            move |(other, class)| {
                let end = if other.priority < key.priority { JobId(u64::MAX) } else { job };
                class.jobs.range(..end).copied()
            },
        )
    }

    fn open_class(&mut self, key: &ClassKey) {
        let labels = key.constraint.keys();
        let individual = labels.iter().any(|label| INDIVIDUAL.contains(label));
        let mut class = Class::default();
        if individual {
            let fitting = self.workers.iter().filter(|(_, offer)| offer.fits(key)).map(|(&id, _)| id);
            class.individuals = Some(fitting.collect());
        }
        let mut regroup = false;
        for label in labels {
            let classes = self.keys.entry(label.to_owned()).or_insert_with(|| {
                regroup |= !INDIVIDUAL.contains(&label);
                0
            });
            *classes += 1;
        }
        if regroup {
            self.regroup();
        }
        self.classes.insert(key.clone(), class);
    }

    /// Sorts all workers into kinds anew, since a constraint asks for a label that no other asked for.
    fn regroup(&mut self) {
        self.keys.retain(|_, classes| *classes > 0);
        self.kinds.clear();
        self.free_slots = 0;
        for class in self.classes.values_mut() {
            class.kinds.clear();
        }
        for (worker, offer) in std::mem::take(&mut self.workers) {
            self.enter_kind(worker, &offer);
            self.workers.insert(worker, offer);
        }
    }

    fn kind_of(&self, offer: &Offer) -> KindKey {
        let seen = |label: &str| self.keys.contains_key(label) && !INDIVIDUAL.contains(&label);
        let labels = offer.labels.iter().filter(|(label, _)| seen(label));
        KindKey {
            only_owner: offer.only_owner.clone(),
            labels: labels.map(|(label, value)| (label.clone(), value.clone())).collect(),
        }
    }

    fn enter_kind(&mut self, worker: WorkerId, offer: &Offer) {
        let kind = self.kinds.entry(self.kind_of(offer)).or_default();
        kind.workers += 1;
        if offer.free() > 0 {
            kind.free.insert((Reverse(offer.free()), worker));
            self.free_slots += u64::from(offer.free());
        } else if let Some(rounds) = offer.rounds() {
            kind.full.insert((rounds, worker));
        }
    }

    fn leave_kind(&mut self, worker: WorkerId, offer: &Offer) {
        let key = self.kind_of(offer);
        let kind = self.kinds.get_mut(&key).expect("a worker is in the kind that its labels say");
        kind.workers -= 1;
        kind.free.remove(&(Reverse(offer.free()), worker));
        if let Some(rounds) = offer.rounds() {
            kind.full.remove(&(rounds, worker));
        }
        self.free_slots -= u64::from(offer.free());
        if kind.workers == 0 {
            self.kinds.remove(&key);
            for class in self.classes.values_mut() {
                class.kinds.remove(&key);
            }
        }
    }
}

/// Where a task may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To a slot that is free.
    Free,
    /// To a worker at which fewer than so many wait for each slot.
    Ahead(u32),
}

impl Place {
    /// How good a worker is as this place, the least the best; none, if it is none.
    fn rank(self, offer: &Offer) -> Option<u32> {
        match self {
            Self::Free => Some(u32::MAX - offer.free()).filter(|_| offer.free() > 0),
            Self::Ahead(rounds) => offer.rounds().filter(|&there| there < rounds),
        }
    }

    /// The best worker of a kind.
    fn best_of(self, kind: &Kind) -> Option<(u32, WorkerId)> {
        match self {
            Self::Free => kind.free.first().map(|&(Reverse(free), id)| (u32::MAX - free, id)),
            Self::Ahead(rounds) => kind.full.first().copied().filter(|&(there, _)| there < rounds),
        }
    }
}

/// The worker with most room among those that fit a class.
fn find_worker(
    key: &ClassKey,
    class: &mut Class,
    kinds: &BTreeMap<KindKey, Kind>,
    workers: &BTreeMap<WorkerId, Offer>,
    place: Place,
) -> Option<WorkerId> {
    if let Some(individuals) = &class.individuals {
        let ranked = individuals.iter().filter_map(|&id| Some((place.rank(&workers[&id])?, id)));
        return ranked.min().map(|(_, id)| id);
    }
    let mut best: Option<(u32, WorkerId)> = None;
    for (kind_key, kind) in kinds {
        let Some(emptiest) = place.best_of(kind) else { continue };
        if best.is_some_and(|best| best <= emptiest) {
            continue;
        }
        let fits = match class.kinds.get(kind_key) {
            Some(&fits) => fits,
            None => {
                let owner_fits = kind_key.only_owner.as_ref().is_none_or(|owner| *owner == key.owner);
                let fits = owner_fits && key.constraint.matches(&kind_key.labels);
                class.kinds.insert(kind_key.clone(), fits);
                fits
            }
        };
        if fits {
            best = Some(emptiest);
        }
    }
    best.map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace()
            .map(|pair| {
                pair.split_once('=').map_or((pair.into(), String::new()), |(k, v)| (k.into(), v.into()))
            })
            .collect()
    }

    fn offer(text: &str, slots: u32) -> Option<Offer> {
        Some(Offer { labels: labels(text), only_owner: None, slots, used: 0 })
    }

    fn class(priority: i8, owner: &str, constraint: &str) -> ClassKey {
        ClassKey {
            priority: Reverse(priority),
            owner: owner.into(),
            constraint: Constraint::parse(constraint).unwrap(),
        }
    }

    fn next(scheduler: &mut Scheduler) -> Option<(u64, u64)> {
        scheduler.next(|_| 0).map(|(job, worker)| (job.0, worker.0))
    }

    #[test]
    fn higher_priority_goes_before_age() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), offer("os=linux", 1));
        scheduler.add(&class(0, "ann", ""), JobId(1), 0);
        scheduler.add(&class(5, "ann", ""), JobId(2), 0);

        assert_eq!(next(&mut scheduler), Some((2, 1)));
    }

    #[test]
    fn among_equals_the_owner_with_fewer_slots_goes_first() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), offer("os=linux", 1));
        scheduler.add(&class(0, "ann", ""), JobId(1), 0);
        scheduler.add(&class(0, "bob", ""), JobId(2), 0);

        let busy_ann = scheduler.next(|owner| u64::from(owner == "ann"));

        assert_eq!(busy_ann, Some((JobId(2), WorkerId(1))));
    }

    #[test]
    fn a_job_that_fits_nowhere_holds_nobody_up() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), offer("os=linux", 1));
        scheduler.add(&class(9, "ann", "gpu=h100"), JobId(1), 0);
        scheduler.add(&class(0, "ann", ""), JobId(2), 0);

        assert_eq!(next(&mut scheduler), Some((2, 1)));
    }

    #[test]
    fn the_emptiest_worker_that_fits_is_taken() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), offer("gpu=a100", 2));
        scheduler.offer(WorkerId(2), offer("gpu=a100", 3));
        scheduler.offer(WorkerId(3), offer("os=linux", 9));
        scheduler.add(&class(0, "ann", "gpu"), JobId(1), 0);

        assert_eq!(next(&mut scheduler), Some((1, 2)));
    }

    #[test]
    fn a_worker_is_found_by_its_name() {
        let mut scheduler = Scheduler::default();
        scheduler.add(&class(0, "ann", "name=w2"), JobId(1), 0);
        scheduler.offer(WorkerId(1), offer("name=w1", 1));
        assert_eq!(next(&mut scheduler), None);

        scheduler.offer(WorkerId(2), offer("name=w2", 1));

        assert_eq!(next(&mut scheduler), Some((1, 2)));
    }

    #[test]
    fn a_worker_that_takes_one_owners_jobs_takes_no_others() {
        let mut scheduler = Scheduler::default();
        let only = Offer { labels: Labels::new(), only_owner: Some("ann".into()), slots: 1, used: 0 };
        scheduler.offer(WorkerId(1), Some(only));
        scheduler.add(&class(0, "bob", ""), JobId(1), 0);
        assert_eq!(next(&mut scheduler), None);

        scheduler.add(&class(0, "ann", ""), JobId(2), 0);

        assert_eq!(next(&mut scheduler), Some((2, 1)));
    }

    #[test]
    fn labels_that_nobody_asks_for_make_no_kinds() {
        let mut scheduler = Scheduler::default();
        for n in 0..100 {
            scheduler.offer(WorkerId(n), offer(&format!("name=w{n} rack={n} gpu=a100"), 1));
        }
        scheduler.add(&class(0, "ann", "gpu=a100"), JobId(1), 0);
        assert_eq!(scheduler.kinds.len(), 1);

        scheduler.add(&class(0, "ann", "rack=7"), JobId(2), 0);

        assert_eq!(scheduler.kinds.len(), 100);
        scheduler.remove(&class(0, "ann", "gpu=a100"), JobId(1));
        assert_eq!(next(&mut scheduler), Some((2, 7)));
    }

    /// A worker of two slots that has so many tasks.
    fn busy(used: u32) -> Option<Offer> {
        Some(Offer { labels: labels("os=linux"), only_owner: None, slots: 2, used })
    }

    #[test]
    fn what_takes_long_waits_for_a_free_slot() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), busy(2));
        scheduler.add(&class(0, "ann", ""), JobId(1), 0);

        assert_eq!(next(&mut scheduler), None);
    }

    #[test]
    fn quick_tasks_wait_at_a_worker_as_many_as_its_slots_do_in_time() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), busy(5));
        scheduler.add(&class(0, "ann", ""), JobId(1), 2);
        assert_eq!(next(&mut scheduler), Some((1, 1)));

        scheduler.offer(WorkerId(1), busy(6));

        assert_eq!(next(&mut scheduler), None);
    }

    #[test]
    fn a_free_slot_goes_before_a_place_ahead_of_one() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), busy(2));
        scheduler.offer(WorkerId(2), busy(1));
        scheduler.add(&class(9, "ann", ""), JobId(1), 4);

        assert_eq!(next(&mut scheduler), Some((1, 2)));
    }

    #[test]
    fn the_worker_at_which_least_waits_gets_the_next() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), busy(6));
        scheduler.offer(WorkerId(2), busy(4));
        scheduler.add(&class(0, "ann", ""), JobId(1), 8);

        assert_eq!(next(&mut scheduler), Some((1, 2)));
    }

    #[test]
    fn a_job_whose_tasks_have_become_slow_is_handed_ahead_no_longer() {
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), busy(2));
        scheduler.add(&class(0, "ann", ""), JobId(1), 4);

        scheduler.add(&class(0, "ann", ""), JobId(1), 0);

        assert_eq!(next(&mut scheduler), None);
    }

    #[test]
    fn one_worker_has_no_more_than_the_bound_beyond_its_slots() {
        let full = Offer { slots: 100, used: 100 + limits::PREFETCH_TASKS_MAX, ..busy(0).unwrap() };
        let mut scheduler = Scheduler::default();
        scheduler.offer(WorkerId(1), Some(full));
        scheduler.add(&class(0, "ann", ""), JobId(1), 16);

        assert_eq!(next(&mut scheduler), None);
    }
}
