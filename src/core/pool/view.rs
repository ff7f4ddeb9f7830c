//! What can be seen of a pool: snapshots of live jobs, workers, the queue, and answers to "why is it waiting?".
//!
//! Nothing here changes a decision. Ended jobs are in the history, which is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::id::{JobId, JobNonce};
use crate::core::limits;
use crate::core::range::RangeSet;
use crate::core::record::{JobEnded, TaskEnded};
use crate::core::time::{Now, WallTime};
use crate::core::view::{
    Counts, JobFilter, JobInfo, TaskEnd, TaskInfo, TaskState, TermCount, Why, WorkerInfo, WorkerState,
};

use super::apply::stands;
use super::batch::{Interest, WatcherId};
use super::job::{Active, Job, Phase};
use super::worker::{Hearing, Worker};
use super::{Pool, Viewer};

/// Live jobs, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobInfo>,
    /// How many more live ones match.
    pub older: u64,
    /// The highest id given out so far.
    pub newest: JobId,
}

/// Workers, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerPage {
    /// The workers.
    pub workers: Vec<WorkerInfo>,
    /// Whether there are more.
    pub more: bool,
}

/// Why a job is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// It has ended, does not exist, or may not be seen.
    #[error("no such live job")]
    NotLive,
    /// So many watch it already.
    #[error("{0} others follow this job already")]
    TooMany(usize),
}

/// Where a watcher begins: what it is told afterwards is what happens after this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchStart {
    /// Names the watching; given back with `unwatch`.
    pub watcher: WatcherId,
    /// Part of the fences of its attempts.
    pub nonce: JobNonce,
    /// The job.
    pub info: JobInfo,
    /// Tasks at workers.
    pub active: Vec<TaskInfo>,
    /// Tasks that ended.
    pub over: RangeSet,
}

/// Numbers of the whole pool, for its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connected workers.
    pub workers: u32,
    /// Silent workers.
    pub silent: u32,
    /// Slots of the connected ones.
    pub slots: u32,
    /// Of these, in use.
    pub used: u32,
    /// Tasks that wait.
    pub queued: u64,
    /// Tasks that start or run.
    pub running: u64,
    /// Tasks of silent workers.
    pub unknown: u64,
    /// The highest job id given out so far.
    pub newest: JobId,
}

impl Pool {
    /// A live job, if the caller may know of it.
    pub(super) fn seen_job(&self, viewer: &Viewer, id: JobId) -> Option<&Job> {
        self.jobs.get(&id).filter(|job| viewer.sees(&job.submission.owner))
    }

    /// The request in a live job.
    pub fn spec(&self, viewer: &Viewer, id: JobId) -> Option<Arc<crate::core::job::JobSpec>> {
        self.seen_job(viewer, id).map(|job| Arc::clone(&job.submission.spec))
    }

    /// Tasks of a live job that ended otherwise than with exit 0.
    pub fn failed(&self, viewer: &Viewer, id: JobId) -> Option<RangeSet> {
        self.seen_job(viewer, id).map(|job| job.failed.clone())
    }

    /// A live job.
    pub fn info(&self, viewer: &Viewer, id: JobId) -> Option<JobInfo> {
        self.seen_job(viewer, id).map(|job| self.info_of(job))
    }

    /// Live jobs below id `before`, newest first. Ended jobs are asked of the history.
    pub fn list(&self, viewer: &Viewer, filter: &JobFilter, before: Option<JobId>, limit: usize) -> JobPage {
        let below = before.unwrap_or(JobId(u64::MAX));
        let mut page = JobPage { newest: self.counters.job, ..JobPage::default() };
        for job in self.jobs.range(..below).rev().map(|(_, job)| job) {
            if !viewer.sees(&job.submission.owner) || !matches_filter(job, filter) {
                continue;
            }
            if page.jobs.len() < limit.min(limits::PAGE_MAX) {
                page.jobs.push(self.info_of(job));
            } else {
                page.older += 1;
            }
        }
        page
    }

    /// Live tasks of a live job, after an index, in order, in this state if one is given. Ended ones are asked of the
    /// history; `None` if the job is not live or not seen.
    pub fn live_tasks(
        &self,
        viewer: &Viewer,
        id: JobId,
        (after, limit): (Option<u32>, usize),
        state: Option<TaskState>,
    ) -> Option<Vec<TaskInfo>> {
        let job = self.seen_job(viewer, id)?;
        let from = after.map_or(Some(0), |after| after.checked_add(1));
        let mut tasks: Vec<TaskInfo> = from
            .into_iter()
            .flat_map(|from| job.active.range(from..))
            .filter(|(_, active)| state.is_none_or(|state| active.state() == state))
            .take(limit)
            .map(|(&index, active)| self.active_info(index, active))
            .collect();
        if state.is_none_or(|state| state == TaskState::Queued) {
            tasks.extend(job.waiting.iter_after(after).take(limit).map(|index| waiting_info(job, index)));
        }
        tasks.sort_by_key(|task| task.index);
        tasks.truncate(limit);
        Some(tasks)
    }

    /// Begins to watch a live job: everything that happens to it.
    pub fn watch(&mut self, viewer: &Viewer, id: JobId) -> Result<WatchStart, WatchError> {
        self.watch_for(viewer, id, Interest::Everything)
    }

    /// Begins to watch for the end of a live job.
    pub fn watch_end(&mut self, viewer: &Viewer, id: JobId) -> Result<WatcherId, WatchError> {
        self.watch_for(viewer, id, Interest::End).map(|start| start.watcher)
    }

    fn watch_for(
        &mut self,
        viewer: &Viewer,
        id: JobId,
        interest: Interest,
    ) -> Result<WatchStart, WatchError> {
        let job = self.seen_job(viewer, id).ok_or(WatchError::NotLive)?;
        let bound = match interest {
            Interest::Everything => limits::FOLLOWERS_PER_JOB_MAX,
            Interest::End => limits::WAITERS_PER_JOB_MAX,
        };
        if job.watchers.values().filter(|other| **other == interest).count() >= bound {
            return Err(WatchError::TooMany(bound));
        }
        let info = self.info_of(job);
        let active = job.active.iter().map(|(&index, active)| self.active_info(index, active)).collect();
        let all = job
            .submission
            .spec
            .array
            .as_ref()
            .map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()));
        let mut over = all.difference(&job.waiting);
        for &index in job.active.keys() {
            over.remove(index);
        }
        let nonce = job.submission.nonce;
        self.last_watcher.0 += 1;
        let watcher = self.last_watcher;
        self.watchers.insert(watcher, id);
        self.jobs.get_mut(&id).expect("the job was just found").watchers.insert(watcher, interest);
        Ok(WatchStart { watcher, nonce, info, active, over })
    }

    /// Ends a watching.
    pub fn unwatch(&mut self, watcher: WatcherId) {
        if let Some(id) = self.watchers.remove(&watcher)
            && let Some(job) = self.jobs.get_mut(&id)
        {
            job.watchers.remove(&watcher);
        }
    }

    /// Why a task is not running. `None` if the job is not live or not seen.
    pub fn why(&self, now: Now, viewer: &Viewer, id: JobId, index: u32) -> Option<Why> {
        let job = self.seen_job(viewer, id)?;
        let workers = self.scheduler.offers().count();
        let fitting =
            self.scheduler.offers().filter(|(worker, _)| self.scheduler.fits(*worker, &job.class)).count();
        let held_up = if fitting == 0 { self.why_none_takes(job) } else { None };
        // Where workers fit and take nothing, what they have is not what is missing.
        let terms = if held_up.is_some() { Vec::new() } else { self.terms_of(job) };
        let ahead = self.ahead_of(job, index);
        let fitting_count = u32::try_from(fitting).unwrap_or(u32::MAX);
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let (state, text) = match job.active.get(&index) {
            Some(active) => (active.state(), self.why_active(now, job, active)),
            None if job.waiting.contains(index) => {
                let text = held_up.unwrap_or_else(|| self.why_waiting(job, ahead, fitting_count, workers));
                (TaskState::Queued, text)
            }
            None => (job.over.state(), "it has ended".to_owned()),
        };
        Some(Why { state, text, ahead, terms, fitting: fitting_count, workers })
    }

    /// Workers after a name, in the order of their names.
    pub fn worker_page(&self, now: Now, viewer: &Viewer, after: &str, limit: usize) -> WorkerPage {
        let limit = limit.clamp(1, limits::PAGE_MAX);
        let mut page = WorkerPage::default();
        for id in
            self.worker_names.range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
        {
            let worker = &self.workers[id.1];
            if !stands(worker.state.validity) {
                continue;
            }
            if page.workers.len() == limit {
                page.more = true;
                break;
            }
            let mut info = worker.info(now.at);
            info.tasks.retain(|task| self.seen_job(viewer, task.job).is_some());
            page.workers.push(info);
        }
        page
    }

    /// Numbers of the whole pool.
    pub fn load(&self) -> Load {
        let mut load = Load { newest: self.counters.job, ..Load::default() };
        for worker in self.workers.values() {
            match worker.shown_state() {
                WorkerState::Ready | WorkerState::Draining | WorkerState::Drained | WorkerState::Full => {
                    load.workers += 1;
                    load.slots += worker.slots();
                    load.used += u32::try_from(worker.active.len()).unwrap_or(u32::MAX);
                }
                WorkerState::Silent => load.silent += 1,
                WorkerState::Away => {}
            }
        }
        for job in self.jobs.values() {
            let counts = job.counts();
            load.queued += counts.of(TaskState::Queued);
            load.running += counts.of(TaskState::Starting) + counts.of(TaskState::Running);
            load.unknown += counts.of(TaskState::Unknown);
        }
        load
    }

    /// The highest job id given out so far; 0 if there is none.
    pub fn newest(&self) -> JobId {
        self.counters.job
    }

    /// Whether there is no job that has not ended.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// An ended job, as the history keeps it.
    pub fn info_of_ended(ended: &JobEnded) -> JobInfo {
        JobInfo {
            id: ended.submission.job,
            owner: ended.submission.owner.clone(),
            spec: Arc::clone(&ended.submission.spec),
            submitted: ended.submission.at,
            started: ended.started,
            ended: Some(ended.ended),
            queued: queued_for(ended.submission.at, ended.started),
            counts: ended.counts,
            task: None,
            failed: ended.failed.iter().copied().take(limits::PAGE_MAX).collect(),
        }
    }

    fn info_of(&self, job: &Job) -> JobInfo {
        let plain = job.submission.spec.array.is_none();
        let task = plain.then(|| match job.active.get(&0) {
            Some(active) => self.active_info(0, active),
            None => waiting_info(job, 0),
        });
        JobInfo {
            id: job.submission.job,
            owner: job.submission.owner.clone(),
            spec: Arc::clone(&job.submission.spec),
            submitted: job.submission.at,
            started: job.started,
            ended: None,
            queued: queued_for(job.submission.at, job.started),
            counts: job.counts(),
            task,
            failed: job.failed.ranges().take(limits::PAGE_MAX).collect(),
        }
    }

    fn active_info(&self, index: u32, active: &Active) -> TaskInfo {
        TaskInfo {
            index,
            state: active.state(),
            attempt: active.attempt.0,
            worker: Some(self.worker_name(active.worker)),
            started: Some(active.at),
            ended: None,
            end: None,
            cancelling: active.cancel.is_some(),
        }
    }

    fn terms_of(&self, job: &Job) -> Vec<TermCount> {
        let offers: Vec<_> = self.scheduler.offers().map(|(_, offer)| offer).collect();
        let count = |term: &crate::core::label::Term| {
            let met = offers.iter().filter(|offer| term.matches(&offer.labels)).count();
            let mut seen: BTreeMap<String, u32> = BTreeMap::new();
            if let Some(key) = term.label() {
                for value in offers.iter().filter_map(|offer| offer.labels.get(key)) {
                    *seen.entry(format!("{key}={value}")).or_default() += 1;
                }
            }
            let mut seen: Vec<_> = seen.into_iter().collect();
            seen.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            seen.truncate(5);
            TermCount { text: term.text(), met: u32::try_from(met).unwrap_or(u32::MAX), seen }
        };
        job.submission.spec.constraint.terms().iter().map(count).collect()
    }

    fn ahead_of(&self, job: &Job, index: u32) -> u64 {
        let before: u64 = self
            .scheduler
            .jobs_before(&job.class, job.submission.job)
            .filter(|id| *id != job.submission.job)
            .filter_map(|id| self.jobs.get(&id))
            .map(|other| other.waiting.len())
            .sum();
        before + job.waiting.intersection(&RangeSet::of(&[(0, index)])).len().saturating_sub(1)
    }

    fn why_waiting(&self, job: &Job, ahead: u64, fitting: u32, workers: u32) -> String {
        let constraint = &job.submission.spec.constraint;
        if workers == 0 {
            return "no worker is connected".to_owned();
        }
        if fitting == 0 {
            let open_to_all = self.scheduler.offers().any(|(_, offer)| offer.only_owner.is_none());
            if !open_to_all && self.scheduler.offers().any(|(_, offer)| constraint.matches(&offer.labels)) {
                return "the workers that fit take only their pool owner's jobs (worker join --trust-submitters)"
                    .to_owned();
            }
            return format!("no worker can run it: {constraint}");
        }
        if !job.may_start() {
            return "as many of its tasks run as it allows at a time".to_owned();
        }
        match ahead {
            0 => "every slot that fits is in use; it is next".to_owned(),
            1 => "every slot that fits is in use; 1 task is ahead".to_owned(),
            n => format!("every slot that fits is in use; {n} tasks are ahead"),
        }
    }

    /// Why workers that fit take nothing, if there are any.
    fn why_none_takes(&self, job: &Job) -> Option<String> {
        let constraint = &job.submission.spec.constraint;
        let mut fitting: Vec<&Worker> = self
            .workers
            .values()
            .filter(|worker| stands(worker.state.validity) && constraint.matches(&worker.labels()))
            .collect();
        // Those that are there come first.
        fitting.sort_by_key(|worker| worker.connection.is_none());
        fitting.into_iter().find_map(|worker| {
            let name = &worker.state.name;
            let is_there = worker.connection.is_some();
            match (worker.shown_state(), &worker.full) {
                (WorkerState::Silent, _) => Some(format!("worker {name}, which fits, is silent")),
                (_, Some(place)) if is_there => Some(format!(
                    "worker {name} has no space in {place}: it takes no more jobs until there is"
                )),
                _ if is_there && worker.state.drain.is_some() => {
                    Some(format!("the workers that fit are drained (clusterctl workers resume {name})"))
                }
                (WorkerState::Draining | WorkerState::Drained, _) => {
                    Some(format!("worker {name}, which fits, is about to leave"))
                }
                (WorkerState::Away, _) if !constraint.terms().is_empty() => {
                    Some(format!("worker {name}, which fits, is not connected"))
                }
                (WorkerState::Away | WorkerState::Ready | WorkerState::Full, _) => None,
            }
        })
    }

    fn why_active(&self, now: Now, job: &Job, active: &Active) -> String {
        let worker = self.workers.get(&active.worker);
        let name = self.worker_name(active.worker);
        let wanted = if active.cancel.is_some() { "cancel wanted, " } else { "" };
        if active.unknown_since.is_some() {
            let silence =
                worker.and_then(|worker| worker.heard).map_or(0, |heard| now.at.since(heard).as_secs());
            let silent = worker.is_some_and(|worker| worker.hearing == Hearing::Silent);
            let state =
                if silent { format!("worker silent for {silence}s") } else { "worker gone".to_owned() };
            let then = if job.may_retry(active) {
                "it starts elsewhere when its lease has run out"
            } else {
                "it goes on if the worker returns; abandon it if it never will"
            };
            return format!("{wanted}{state} ({name}): {then}");
        }
        match active.phase {
            Phase::Sent | Phase::Arrived => {
                format!("{wanted}given to worker {name}, which has not reported its start")
            }
            Phase::Running => format!("{wanted}it is running on {name}"),
        }
    }
}

/// An ended task, as the history keeps it.
pub fn info_of_ended_task(ended: &TaskEnded) -> TaskInfo {
    let end = &ended.end;
    TaskInfo {
        index: end.fence.task.index,
        state: TaskState::of(&end.outcome),
        attempt: end.fence.attempt.0,
        worker: (!ended.worker.is_empty()).then(|| ended.worker.clone()),
        started: Some(ended.started),
        ended: Some(ended.ended),
        end: Some(TaskEnd { outcome: end.outcome.clone(), usage: end.usage, totals: end.totals }),
        cancelling: false,
    }
}

fn waiting_info(job: &Job, index: u32) -> TaskInfo {
    let tried = job.tried.get(&index).map_or(0, |tried| tried.last.0);
    TaskInfo {
        index,
        state: TaskState::Queued,
        attempt: tried,
        worker: None,
        started: None,
        ended: None,
        end: None,
        cancelling: false,
    }
}

fn queued_for(submitted: WallTime, started: Option<WallTime>) -> Option<std::time::Duration> {
    let ms = started?.0.saturating_sub(submitted.0);
    Some(std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

fn matches_filter(job: &Job, filter: &JobFilter) -> bool {
    let spec = &job.submission.spec;
    let counts: Counts = job.counts();
    filter.name.as_ref().is_none_or(|name| spec.name.as_ref().is_some_and(|own| own.as_str() == name))
        && filter.since.is_none_or(|since| job.submission.at >= since)
        && (filter.states.is_empty() || filter.states.iter().any(|&state| counts.state() == state))
}
