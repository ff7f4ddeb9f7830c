//! The capability to one job, live or ended.

use std::rc::Rc;

use super::follow::Follower;
use super::held::Held;
use super::refused::{cancel_refusal, no_such_job};
use super::shared::{Local, Shared};
use super::submitting::{read_request, submit};
use super::watching::Watching;
use crate::core::id::JobId;
use crate::core::job::{Array, JobSpec};
use crate::core::limits;
use crate::core::outcome::Cancel;
use crate::core::pool::{Viewer, WatchError, info_of_ended_task};
use crate::core::range::RangeSet;
use crate::core::refusal::Refusal;
use crate::core::view::{JobInfo, TaskState, Why};
use crate::process::clock;
use crate::schema::pool_capnp::{cancel_result, following, job};
use crate::wire;

/// One job, for somebody who may see it.
#[derive(Clone)]
pub(super) struct JobService {
    local: Local,
    viewer: Viewer,
    held: Held,
    id: JobId,
}

impl JobService {
    pub(super) fn new(local: Local, viewer: Viewer, held: Held, id: JobId) -> Self {
        Self { local, viewer, held, id }
    }

    pub(super) fn id(&self) -> JobId {
        self.id
    }

    fn shared(&self) -> &Shared {
        &self.local.shared
    }

    /// The job as it is, live or ended; `None` if the viewer may not see it.
    pub(super) async fn info(&self) -> Result<Option<JobInfo>, capnp::Error> {
        let (viewer, id) = (self.viewer.clone(), self.id);
        if let Some(info) = self.shared().pool.update(move |pool, _| pool.info(&viewer, id)).await? {
            return Ok(Some(info));
        }
        let ended = self.local.ended_job(&self.viewer, self.id)?;
        ended.map(|ended| self.local.info_of_ended(&ended)).transpose()
    }

    /// Waits until the job has ended, or something about it has to be asked again.
    pub(super) async fn over(&self) -> Result<(), capnp::Error> {
        match Watching::end(self.shared(), self.viewer.clone(), self.id).await? {
            Ok(mut watching) => drop(watching.next().await),
            Err(WatchError::NotLive) => {}
            Err(WatchError::TooMany(_)) => tokio::time::sleep(self.shared().timing.wait_call / 4).await,
        }
        Ok(())
    }

    pub(super) async fn cancel_into(
        &self,
        tasks: Vec<(u32, u32)>,
        how: Cancel,
        mut to: cancel_result::Builder<'_>,
    ) -> Result<(), capnp::Error> {
        let (viewer, id) = (self.viewer.clone(), self.id);
        to.set_job(id.0);
        let (done, newest) = self
            .shared()
            .pool
            .update(move |pool, now| (pool.cancel(now, &viewer, id, &tasks, how), pool.newest()))
            .await?;
        match done {
            Ok(done) => {
                to.set_cancelled(done.cancelled);
                to.set_cancelling(done.cancelling);
            }
            Err(error) => {
                let info = self.info().await?;
                wire::refusal::write(&cancel_refusal(error, id, info.as_ref(), newest), to.init_refused());
            }
        }
        Ok(())
    }

    /// The whole request, of a live or an ended job.
    async fn whole_spec(&self) -> Result<Option<JobSpec>, capnp::Error> {
        let (viewer, id) = (self.viewer.clone(), self.id);
        if let Some(spec) = self.shared().pool.update(move |pool, _| pool.spec(&viewer, id)).await? {
            return Ok(Some((*spec).clone()));
        }
        let ended = self.local.ended_job(&self.viewer, self.id)?;
        Ok(ended.map(|ended| (*ended.submission.spec).clone()))
    }

    async fn failed(&self) -> Result<RangeSet, capnp::Error> {
        let (viewer, id) = (self.viewer.clone(), self.id);
        if let Some(failed) = self.shared().pool.update(move |pool, _| pool.failed(&viewer, id)).await? {
            return Ok(failed);
        }
        let ended = self.local.ended_job(&self.viewer, self.id)?;
        Ok(ended.map(|ended| RangeSet::of(&ended.failed)).unwrap_or_default())
    }

    /// The spec of a job that does this one again.
    async fn again(&self, only_failed: bool) -> Result<Result<JobSpec, Refusal>, capnp::Error> {
        let Some(mut spec) = self.whole_spec().await? else {
            return Ok(Err(no_such_job(self.id, JobId(0))));
        };
        if !spec.secrets.is_empty() {
            let text = format!("job {} has secrets, which are kept for it alone", self.id);
            return Ok(Err(Refusal::new("has-secrets", text).hint("submit it again, with --secret-env")));
        }
        if only_failed {
            let failed = self.failed().await?;
            if failed.is_empty() {
                let text = format!("no task of job {} has failed", self.id);
                return Ok(Err(Refusal::new("nothing-failed", text)));
            }
            if let Some(array) = &spec.array {
                match Array::new(failed.ranges().collect(), array.at_once) {
                    Ok(array) => spec.array = Some(array),
                    Err(why) => return Ok(Err(Refusal::new("bad-array", why))),
                }
            }
        }
        Ok(Ok(spec))
    }
}

impl job::Server for JobService {
    async fn info(
        self: Rc<Self>,
        _params: job::InfoParams,
        mut results: job::InfoResults,
    ) -> Result<(), capnp::Error> {
        let info = JobService::info(&self).await?;
        let info = info.ok_or_else(|| capnp::Error::failed("this job is no longer known".to_owned()))?;
        wire::job::write_info(&info, results.get().init_info());
        Ok(())
    }

    async fn spec(
        self: Rc<Self>,
        _params: job::SpecParams,
        mut results: job::SpecResults,
    ) -> Result<(), capnp::Error> {
        let _turn = self.held.gate.turn_to_answer().await;
        let spec = self.whole_spec().await?;
        let spec = spec.ok_or_else(|| capnp::Error::failed("this job is no longer known".to_owned()))?;
        wire::job::write(&spec.without_secrets(), results.get().init_spec());
        Ok(())
    }

    async fn tasks(
        self: Rc<Self>,
        params: job::TasksParams,
        mut results: job::TasksResults,
    ) -> Result<(), capnp::Error> {
        let _turn = self.held.gate.turn_to_answer().await;
        let params = params.get()?;
        let after = (!params.get_from_start()).then(|| params.get_after());
        let limit = wire::text::page(params.get_limit());
        let wanted =
            if params.get_any_state() { None } else { Some(wire::task::read_state(params.get_state()?)) };
        let (viewer, id) = (self.viewer.clone(), self.id);
        let page = (after, limit + 1);
        let live =
            self.shared().pool.update(move |pool, _| pool.live_tasks(&viewer, id, page, wanted)).await?;
        let ended = self.local.history(|history| history.tasks(id, page, wanted))?;
        let mut tasks = live.unwrap_or_default();
        for row in ended {
            tasks.push(info_of_ended_task(&wire::record::decode_task(&row.body)?));
        }
        tasks.sort_by_key(|task| task.index);
        tasks.dedup_by_key(|task| task.index);
        let shown = limit.min(wire::task::fitting(&tasks));
        let more = tasks.len() > shown;
        tasks.truncate(shown);
        results.get().set_more(more);
        wire::task::write_infos(&tasks, results.get().init_tasks(wire::text::count(&tasks)));
        Ok(())
    }

    async fn why(
        self: Rc<Self>,
        params: job::WhyParams,
        mut results: job::WhyResults,
    ) -> Result<(), capnp::Error> {
        let index = params.get()?.get_task();
        let (viewer, id) = (self.viewer.clone(), self.id);
        let why = self.shared().pool.update(move |pool, now| pool.why(now, &viewer, id, index)).await?;
        let why = match why {
            Some(why) => why,
            None => {
                let info = JobService::info(&self).await?;
                let state = info.as_ref().map_or(TaskState::Done, |info| info.counts.state());
                let when = info.and_then(|info| info.ended).map_or(String::new(), |at| at.ago(clock::wall()));
                let text = format!("it ended {when}").trim_end().to_owned();
                Why { state, text, ahead: 0, terms: Vec::new(), fitting: 0, workers: 0 }
            }
        };
        wire::why::write(&why, results.get().init_why());
        Ok(())
    }

    async fn cancel(
        self: Rc<Self>,
        params: job::CancelParams,
        mut results: job::CancelResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let how = wire::outcome::read_cancel(params.get_how()?);
        let tasks = wire::fence::read_ranges(params.get_tasks()?, limits::ARRAY_RANGES_MAX)?;
        self.cancel_into(tasks, how, results.get().init_result()).await
    }

    async fn abandon(
        self: Rc<Self>,
        params: job::AbandonParams,
        mut results: job::AbandonResults,
    ) -> Result<(), capnp::Error> {
        let tasks = wire::fence::read_ranges(params.get()?.get_tasks()?, limits::ARRAY_RANGES_MAX)?;
        let (viewer, id) = (self.viewer.clone(), self.id);
        match self.shared().pool.update(move |pool, now| pool.abandon(now, &viewer, id, &tasks)).await? {
            Ok(abandoned) => {
                let ranges: Vec<_> = abandoned.ranges().take(limits::PAGE_MAX).collect();
                wire::fence::write_ranges(&ranges, results.get().init_abandoned(wire::text::count(&ranges)));
            }
            Err(_) => {
                let text = format!("job {id} is not unknown, nothing to abandon");
                let refused = Refusal::new("not-unknown", text).hint(format!("clusterctl why {id}"));
                wire::refusal::write(&refused, results.get().init_refused());
            }
        }
        Ok(())
    }

    async fn retry(
        self: Rc<Self>,
        params: job::RetryParams,
        mut results: job::RetryResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let request = read_request(params.get_request())?;
        let accepted = match self.again(params.get_only_failed()).await? {
            Ok(spec) => submit(&self.local, &self.viewer, request, spec).await?,
            Err(refused) => Err(refused),
        };
        match accepted {
            Ok(id) => {
                results.get().set_job(id.0);
                let service = JobService::new(self.local.clone(), self.viewer.clone(), self.held.clone(), id);
                results.get().set_handle(capnp_rpc::new_client(service));
            }
            Err(refused) => wire::refusal::write(&refused, results.get().init_refused()),
        }
        Ok(())
    }

    async fn follow(
        self: Rc<Self>,
        params: job::FollowParams,
        mut results: job::FollowResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let Some(permit) = self.held.following() else {
            let most = limits::FOLLOWINGS_PER_CONNECTION_MAX;
            let text = format!("a connection follows at most {most} jobs at a time");
            wire::refusal::write(&Refusal::new("too-many-followers", text), results.get().init_refused());
            return Ok(());
        };
        let (viewer, gate) = (self.viewer.clone(), self.held.gate.clone());
        let follower = Follower::read(self.local.clone(), gate, viewer, self.id, params)?;
        let begun = match follower.begin().await? {
            Ok(begun) => begun,
            Err(refused) => {
                wire::refusal::write(&refused, results.get().init_refused());
                return Ok(());
            }
        };
        let task = tokio::task::spawn_local(async move {
            let _permit = permit;
            begun.run().await;
        });
        results.get().set_following(capnp_rpc::new_client(Following(task)));
        Ok(())
    }
}

/// A follower's place: dropping it ends the following.
struct Following(tokio::task::JoinHandle<()>);

impl following::Server for Following {}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}
