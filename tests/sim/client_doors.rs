//! What the pool offers to clients, as `pool::client_service` and `pool::job_service` serve it: live jobs from the pool,
//! ended ones from the history.

use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::id::{JobId, JobNonce, RequestId, TaskId};
use clusterctl::core::job::JobSpec;
use clusterctl::core::label::Constraint;
use clusterctl::core::outcome::Cancel;
use clusterctl::core::pool::{
    CancelError, JobPage, Pool, Submit, SubmitError, Viewer, WatchError, WatchStart, info_of_ended_task,
};
use clusterctl::core::view::{Cancelled, JobFilter, JobInfo, TaskInfo};

use crate::answer::Answer;
use crate::client::{Ask, Client, ClientId, ExchangeId, Submitted, all_if_none};
use crate::history::{Happened, Observer, TaskSight};
use crate::plan::Plant;
use crate::pool_process::PoolProcess;
use crate::wish::is_endless;
use crate::world::{Event, Faults, World, tell};

/// An answer to a client.
pub enum Reply {
    Submitted {
        request: RequestId,
        spec: Arc<JobSpec>,
        result: Result<JobId, SubmitError>,
    },
    Info(JobId, Option<JobInfo>),
    Tasks(JobId, Option<Vec<TaskInfo>>),
    Listed(JobPage),
    Cancelled {
        job: JobId,
        ranges: Vec<(u32, u32)>,
        result: Result<Cancelled, CancelError>,
    },
    Follows(Observer, JobId, Result<WatchStart, WatchError>),
    /// It was looked at, and that is all.
    Done,
}

impl World {
    /// A client's request arrives.
    pub fn pool_asked(&mut self, id: ClientId, exchange: ExchangeId) {
        if self.pool.is_none() {
            return;
        }
        let Client { viewer, exchanges, .. } = &self.clients[id.0];
        let Some(ask) = exchanges.get(&exchange).map(|waits| waits.ask.clone()) else { return };
        let viewer = viewer.clone();
        match ask {
            Ask::Submit { request, spec } => self.pool_is_given(id, exchange, request, spec),
            Ask::Info(job) => self.decide(move |pool, _| {
                Answer::client(id, exchange, Reply::Info(job, pool.info(&viewer, job)))
            }),
            Ask::Tasks(job) => self.decide(move |pool, _| {
                let tasks = pool.live_tasks(&viewer, job, (None, 1000), None);
                Answer::client(id, exchange, Reply::Tasks(job, tasks))
            }),
            Ask::List => self.decide(move |pool, _| {
                let page = pool.list(&viewer, &JobFilter::default(), None, 100);
                Answer::client(id, exchange, Reply::Listed(page))
            }),
            Ask::Why(job, index) => self.decide(move |pool, now| {
                let _ = pool.why(now, &viewer, job, index);
                Answer::client(id, exchange, Reply::Done)
            }),
            Ask::Status => self.decide(move |pool, now| {
                let _ = (
                    pool.load(),
                    pool.worker_page(now, &Viewer::admin("root"), "", 10),
                    pool.is_idle(),
                    pool.tokens(now),
                );
                Answer::client(id, exchange, Reply::Done)
            }),
            Ask::Cancel { job, ranges, how } => self.decide(move |pool, now| {
                let result = pool.cancel(now, &viewer, job, &ranges, how);
                Answer::client(id, exchange, Reply::Cancelled { job, ranges, result })
            }),
            Ask::Abandon { job, ranges } => self.decide(move |pool, now| {
                let _ = pool.abandon(now, &viewer, job, &ranges);
                Answer::client(id, exchange, Reply::Done)
            }),
            Ask::Follow(observer, job) => self.ask_process(move |process, _| {
                let start = process.follower_comes(id, &viewer, observer, job);
                Answer::client(id, exchange, Reply::Follows(observer, job, start))
            }),
        }
    }

    /// Takes a submit: the same request again is the same job, also when that has ended.
    fn pool_is_given(&mut self, id: ClientId, exchange: ExchangeId, request: RequestId, spec: Arc<JobSpec>) {
        let owner = self.clients[id.0].viewer.owner().to_owned();
        let asked = Arc::clone(&spec);
        let reply =
            move |result| Answer::client(id, exchange, Reply::Submitted { request, spec: asked, result });
        let sent = self.request_on_the_way(request);
        if let Some(&job) = self.disk.history.by_request.get(&(owner.clone(), sent)) {
            let known = &self.disk.history.jobs[&job].submission.spec;
            let same = known.digest() == spec.digest();
            let result = if same { Ok(job) } else { Err(SubmitError::RequestReused(job)) };
            return self.give(vec![reply(result)]);
        }
        let nonce = JobNonce(self.random.number());
        let spec = if self.plan.plant == Plant::SpecLosesItsDemands {
            without_demands(&spec)
        } else {
            Arc::clone(&spec)
        };
        let viewer = self.clients[id.0].viewer.clone();
        let submit = Submit { viewer, request: sent, nonce, spec };
        self.decide(move |pool, now| reply(pool.submit(now, submit)));
    }

    /// An answer leaves the pool: from now on what it says was shown. It may still be lost on its way.
    pub fn give_client(&mut self, id: ClientId, exchange: ExchangeId, reply: Reply) {
        let observer = self.clients[id.0].observer;
        let is_lost = self.random.chance(50);
        match reply {
            Reply::Submitted { request, spec, result } => {
                self.show_submitted(id, (request, spec), result, is_lost)
            }
            Reply::Info(job, info) => self.show_info(observer, job, info),
            Reply::Tasks(job, tasks) => self.show_tasks(observer, job, tasks),
            Reply::Listed(page) => {
                for info in page.jobs {
                    self.happened(Happened::JobSeen { observer, job: info.id, counts: info.counts });
                }
            }
            Reply::Cancelled { job, ranges, result } => {
                tell!(self, "cancel of {job} {ranges:?} is answered: {result:?}");
                if result.is_ok() {
                    self.happened(Happened::CancelAccepted { job, ranges: all_if_none(&ranges) });
                }
            }
            Reply::Follows(observer, job, Ok(start)) => self.follower_begins(observer, job, start),
            Reply::Follows(observer, job, Err(WatchError::NotLive)) => {
                self.show_ended_to_follower(id, observer, job);
            }
            Reply::Follows(observer, _, Err(WatchError::TooMany(_))) => {
                self.after(Duration::from_secs(5), Event::FollowsAgain(id, observer));
            }
            Reply::Done => {}
        }
        if !is_lost {
            self.client(id).exchanges.remove(&exchange);
        }
    }

    fn show_submitted(
        &mut self,
        id: ClientId,
        (request, spec): (RequestId, Arc<JobSpec>),
        result: Result<JobId, SubmitError>,
        is_lost: bool,
    ) {
        let owner = self.clients[id.0].viewer.owner().to_owned();
        tell!(self, "{owner}'s submit is answered: {result:?}");
        let Ok(job) = result else { return };
        self.happened(Happened::Accepted { owner, request, job });
        let never_ends = self.faults == Faults::HaveCeased && is_endless(&spec);
        let jobs = &mut self.client(id).jobs;
        if is_lost || jobs.iter().any(|own| own.job == job) {
            return;
        }
        jobs.push(Submitted { request, job, spec });
        if never_ends || self.random.chance(self.plan.tastes.regrets) {
            self.ask(id, Ask::Cancel { job, ranges: Vec::new(), how: Cancel::Terminate });
        }
    }

    fn show_info(&mut self, observer: Observer, job: JobId, live: Option<JobInfo>) {
        let info = live.or_else(|| self.ended_info(job));
        let Some(info) = info else { return self.happened(Happened::Unknown { job }) };
        self.happened(Happened::JobSeen { observer, job, counts: info.counts });
        if let Some(task) = info.task {
            self.show_task(observer, job, &task);
        }
    }

    /// An ended job, with its task if it is a plain one.
    fn ended_info(&self, job: JobId) -> Option<JobInfo> {
        let ended = self.disk.history.jobs.get(&job)?;
        let mut info = Pool::info_of_ended(ended);
        let row = self.disk.history.tasks.get(&TaskId { job, index: 0 });
        info.task = row.filter(|_| info.spec.array.is_none()).map(info_of_ended_task);
        Some(info)
    }

    fn show_tasks(&mut self, observer: Observer, job: JobId, live: Option<Vec<TaskInfo>>) {
        if live.is_none() && !self.disk.history.jobs.contains_key(&job) {
            return self.happened(Happened::Unknown { job });
        }
        let mut tasks = live.unwrap_or_default();
        for row in self.rows_of(job) {
            if !tasks.iter().any(|task| task.index == row.index) {
                tasks.push(row);
            }
        }
        for task in tasks {
            self.show_task(observer, job, &task);
        }
    }

    /// Ended tasks that had an attempt.
    pub fn rows_of(&self, job: JobId) -> Vec<TaskInfo> {
        let all = TaskId { job, index: 0 }..=TaskId { job, index: u32::MAX };
        self.disk.history.tasks.range(all).map(|(_, ended)| info_of_ended_task(ended)).collect()
    }

    /// Somebody is shown a task.
    pub fn show_task(&mut self, observer: Observer, job: JobId, info: &TaskInfo) {
        let sight = TaskSight {
            task: TaskId { job, index: info.index },
            attempt: info.attempt,
            state: info.state,
            outcome: info.end.as_ref().map(|end| end.outcome.clone()),
        };
        self.happened(Happened::TaskSeen { observer, sight });
    }

    /// Somebody looks at everything, once the run is over: whatever was acknowledged must be there.
    pub fn look_at_everything(&mut self) {
        let looker = Observer(999);
        for client in 0..self.clients.len() {
            let Client { viewer, jobs, .. } = &self.clients[client];
            let (viewer, jobs) = (viewer.clone(), jobs.clone());
            for Submitted { job, .. } in jobs {
                let live = self.pool.as_ref().and_then(|PoolProcess { pool, .. }| pool.info(&viewer, job));
                let tasks = self
                    .pool
                    .as_ref()
                    .and_then(|process| process.pool.live_tasks(&viewer, job, (None, 1000), None));
                self.show_info(looker, job, live);
                self.show_tasks(looker, job, tasks);
            }
        }
    }
}

/// The same job for whoever comes.
fn without_demands(spec: &JobSpec) -> Arc<JobSpec> {
    let mut spec = spec.clone();
    spec.constraint = Constraint::default();
    spec.priority = 0;
    if let Some(array) = &mut spec.array {
        array.at_once = None;
    }
    Arc::new(spec)
}
