//! Sending a job's events and output to somebody who follows it: first what has happened, then what happens.
//!
//! Events come from the pool's loop, bytes from the output store, each at its own pace; a follower that falls behind
//! loses its place among the events and begins again from the pool's state, where it was.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::StreamExt;
use futures::future::{AbortHandle, Abortable};
use futures::stream::FuturesUnordered;

use super::ended::never_started;
use super::refused::no_such_job;
use super::shared::Local;
use super::watching::Watching;
use crate::core::id::{AttemptNumber, Fence, JobId, JobNonce, TaskId};
use crate::core::limits;
use crate::core::outcome::{Cancel, Outcome, Usage};
use crate::core::output::OutputTotals;
use crate::core::pool::{JobEvent, Viewer, WatchError, WatchStart};
use crate::core::range::RangeSet;
use crate::core::record::{JobEnded, TaskEnded};
use crate::core::refusal::Refusal;
use crate::core::view::{JobInfo, TaskEnd, TaskEvent, TaskEventKind, TaskInfo, TaskState};
use crate::net::gate::GateState;
use crate::schema::pool_capnp::{job, sink};
use crate::store::output::OutputRead;
use crate::store::output_thread::{Changes, OutputHandle};
use crate::wire;

/// Bytes read from the output store at a time.
const READ_BYTES: usize = 256 << 10;
/// Partly seen tasks that a follower may come back with.
const PARTLY_MAX: usize = 4096;

/// A following, as it was asked for and as far as it has come.
pub(super) struct Follower {
    local: Local,
    gate: GateState,
    viewer: Viewer,
    job: JobId,
    sink: sink::Client,
    wanted: Option<RangeSet>,
    live: bool,
    attempt: Option<u32>,
    until_now: bool,
    /// Tasks that were seen to their end.
    seen: RangeSet,
    /// How far the others were seen: attempt and position.
    partly: BTreeMap<u32, (u32, u64)>,
}

impl Follower {
    pub(super) fn read(
        local: Local,
        gate: GateState,
        viewer: Viewer,
        job: JobId,
        params: job::follow_params::Reader<'_>,
    ) -> Result<Self, capnp::Error> {
        let (what, from) = (params.get_what()?, params.get_from()?);
        let tasks = wire::fence::read_ranges(what.get_tasks()?, limits::ARRAY_RANGES_MAX)?;
        let partly = from.get_partly()?;
        wire::text::check_len(partly.len(), "the list of positions", PARTLY_MAX)?;
        Ok(Self {
            local,
            gate,
            viewer,
            job,
            sink: params.get_sink()?,
            wanted: (!tasks.is_empty()).then(|| RangeSet::of(&tasks)),
            live: what.get_live(),
            attempt: Some(what.get_attempt()).filter(|attempt| *attempt > 0),
            until_now: what.get_until_now(),
            seen: RangeSet::of(&wire::fence::read_ranges(from.get_tasks()?, 1 << 20)?),
            partly: partly
                .iter()
                .map(|one| (one.get_task(), (one.get_attempt(), one.get_position())))
                .collect(),
        })
    }

    /// Takes a place among those who follow the job.
    pub(super) async fn begin(self) -> Result<Result<Begun, Refusal>, capnp::Error> {
        let shared = &self.local.shared;
        match Watching::everything(shared, self.viewer.clone(), self.job).await? {
            Ok(live) => Ok(Ok(Begun { follower: self, live: Some(live) })),
            Err(WatchError::NotLive) => match self.ended()? {
                Some(_) => Ok(Ok(Begun { follower: self, live: None })),
                None => {
                    let newest = shared.pool.update(|pool, _| pool.newest()).await?;
                    Ok(Err(no_such_job(self.job, newest)))
                }
            },
            Err(error @ WatchError::TooMany(_)) => {
                let hint = format!("clusterctl wait {}", self.job);
                Ok(Err(Refusal::new("too-many-followers", error).hint(hint)))
            }
        }
    }

    fn ended(&self) -> Result<Option<JobEnded>, capnp::Error> {
        self.local.ended_job(&self.viewer, self.job)
    }

    fn wants(&self, index: u32) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.contains(index)) && !self.seen.contains(index)
    }

    /// Follows a live job; whether it came to the end of what was asked for.
    async fn send_live(&mut self, mut watching: Watching, start: WatchStart) -> Result<bool, capnp::Error> {
        let nonce = start.nonce;
        self.send_over(&start.over, nonce).await?;
        let mut open = Open::default();
        for task in start.active {
            if self.wants(task.index) {
                self.send_active(nonce, task, &mut open).await?;
            }
        }
        if self.until_now {
            return self.done(&start.info).await.map(|()| true);
        }
        loop {
            let event = tokio::select! {
                // What the job does is little, and its output is much.
                biased;
                event = watching.next() => Event::Job(event),
                Some(task) = open.changed() => Event::Output(task),
            };
            match event {
                Event::Output(fence) => self.send_output(fence).await?,
                // It was too slow: begin again where it is.
                Event::Job(None) => return Ok(false),
                Event::Job(Some(JobEvent::Over(mut info))) => {
                    self.local.add_task(&mut info)?;
                    return self.done(&info).await.map(|()| true);
                }
                Event::Job(Some(JobEvent::Ended(ended))) => {
                    open.close(ended.end.fence.task.index);
                    self.send_task(&ended).await?;
                }
                Event::Job(Some(JobEvent::Cancelled(ranges, how))) => {
                    self.send_cancelled(&ranges, how).await?
                }
                Event::Job(Some(JobEvent::Task(event))) if self.wants(event.task) => {
                    self.send_event(nonce, &event, &mut open).await?;
                }
                Event::Job(Some(JobEvent::Task(_))) => {}
            }
        }
    }

    /// Sends what is known of a task at a worker.
    async fn send_active(
        &mut self,
        nonce: JobNonce,
        task: TaskInfo,
        open: &mut Open,
    ) -> Result<(), capnp::Error> {
        let kind = match task.state {
            TaskState::Running => TaskEventKind::Started,
            TaskState::Unknown => TaskEventKind::Unknown(None),
            TaskState::Queued
            | TaskState::Starting
            | TaskState::Done
            | TaskState::Failed
            | TaskState::Cancelled
            | TaskState::Lost => TaskEventKind::Queued,
        };
        let fence = self.fence(nonce, task.index, task.attempt);
        let TaskInfo { index, attempt, worker, .. } = task;
        self.event(&TaskEvent { task: index, attempt, worker, kind }).await?;
        if self.live || self.until_now {
            self.send_earlier(fence).await?;
            self.send_output(self.wanted_attempt(fence)).await?;
        }
        if self.live {
            self.follow_output(fence, open);
        }
        Ok(())
    }

    async fn send_event(
        &mut self,
        nonce: JobNonce,
        event: &TaskEvent,
        open: &mut Open,
    ) -> Result<(), capnp::Error> {
        let fence = self.fence(nonce, event.task, event.attempt);
        if matches!(event.kind, TaskEventKind::AttemptLost(_)) {
            self.send_output(self.wanted_attempt(fence)).await?;
            open.close(event.task);
        }
        self.event(event).await?;
        if self.live && matches!(event.kind, TaskEventKind::Started) {
            self.follow_output(fence, open);
        }
        Ok(())
    }

    /// From now on output of an attempt is sent as it comes, unless only another one is wanted.
    fn follow_output(&self, fence: Fence, open: &mut Open) {
        if self.wanted_attempt(fence) == fence {
            open.open(fence, &self.local.shared.output);
        }
    }

    /// The attempt of its task that is wanted instead of this one, if only one is.
    fn wanted_attempt(&self, fence: Fence) -> Fence {
        Fence { attempt: AttemptNumber(self.attempt.unwrap_or(fence.attempt.0)), ..fence }
    }

    /// Sends a job that has ended.
    async fn send_ended(&mut self) -> Result<(), capnp::Error> {
        let Some(ended) = self.ended()? else {
            return Err(capnp::Error::failed("this job is no longer known".to_owned()));
        };
        let array = ended.submission.spec.array.as_ref();
        let all = array.map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()));
        self.send_over(&all, ended.submission.nonce).await?;
        let info = self.local.info_of_ended(&ended)?;
        self.done(&info).await
    }

    /// Sends tasks that have ended, in the order of their indices.
    async fn send_over(&mut self, over: &RangeSet, nonce: JobNonce) -> Result<(), capnp::Error> {
        let mut left: RangeSet = match &self.wanted {
            Some(wanted) => over.intersection(wanted).difference(&self.seen),
            None => over.difference(&self.seen),
        };
        let mut after = left.first().and_then(|first| first.checked_sub(1));
        while !left.is_empty() {
            let job = self.job;
            let rows = self.local.history(|history| history.tasks(job, (after, limits::PAGE_MAX), None))?;
            let Some(last) = rows.last() else { break };
            after = Some(last.task.index);
            for row in rows {
                if left.remove(row.task.index) {
                    let ended = wire::record::decode_task(&row.body)?;
                    debug_assert_eq!(ended.end.fence.nonce, nonce, "a job's tasks have its nonce");
                    self.send_task(&ended).await?;
                }
            }
        }
        // What has no row never had an attempt.
        let never: Vec<(u32, u32)> = left.ranges().collect();
        self.send_cancelled(&never, Cancel::Terminate).await
    }

    async fn send_cancelled(&mut self, ranges: &[(u32, u32)], how: Cancel) -> Result<(), capnp::Error> {
        for &(first, last) in ranges {
            for index in first..=last {
                if !self.wants(index) {
                    continue;
                }
                self.seen.insert(index);
                let info = never_started(index);
                let end = TaskEnd {
                    outcome: Outcome::Cancelled(how),
                    usage: Usage::default(),
                    totals: OutputTotals::default(),
                };
                let kind = TaskEventKind::Ended(end);
                self.event(&TaskEvent { task: index, attempt: info.attempt, worker: None, kind }).await?;
            }
        }
        Ok(())
    }

    /// Sends what is left of a task that has ended.
    async fn send_task(&mut self, ended: &TaskEnded) -> Result<(), capnp::Error> {
        let end = &ended.end;
        let index = end.fence.task.index;
        if !self.wants(index) {
            return Ok(());
        }
        let last = self.wanted_attempt(end.fence);
        self.send_earlier(last).await?;
        self.send_output(last).await?;
        if last == end.fence {
            let from = self.position(last);
            for chunk in &end.tail {
                if let Some(chunk) = chunk.clone().from_position(from) {
                    self.write(last, &chunk).await?;
                }
            }
            // Of an end that is missing nothing else tells.
            if self.position(last) < end.totals.end() {
                self.gone(last, end.totals.end()).await?;
            }
        }
        self.seen.insert(index);
        self.partly.remove(&index);
        let kind = TaskEventKind::Ended(TaskEnd {
            outcome: end.outcome.clone(),
            usage: end.usage,
            totals: end.totals,
        });
        let worker = (!ended.worker.is_empty()).then(|| ended.worker.clone());
        self.event(&TaskEvent { task: index, attempt: end.fence.attempt.0, worker, kind }).await
    }

    /// Sends the attempts before this one, unless a certain one is wanted or they were seen.
    async fn send_earlier(&mut self, fence: Fence) -> Result<(), capnp::Error> {
        if self.attempt.is_some() {
            return Ok(());
        }
        let seen = self.partly.get(&fence.task.index).map_or(1, |(attempt, _)| *attempt);
        for attempt in seen..fence.attempt.0 {
            self.send_output(Fence { attempt: AttemptNumber(attempt), ..fence }).await?;
        }
        Ok(())
    }

    /// Sends durable output of an attempt from where the follower is.
    async fn send_output(&mut self, fence: Fence) -> Result<(), capnp::Error> {
        loop {
            let from = self.position(fence);
            let read = self.local.shared.output.reader().read(fence, from, READ_BYTES);
            match read.map_err(|error| capnp::Error::failed(error.to_string()))? {
                OutputRead::Nothing => return Ok(()),
                OutputRead::Gone(kept_from) => self.gone(fence, kept_from).await?,
                OutputRead::Chunks(chunks) => {
                    for chunk in chunks {
                        self.write(fence, &chunk).await?;
                    }
                }
            }
        }
    }

    /// Says that output from where the follower is up to a position is not there any more.
    async fn gone(&mut self, fence: Fence, kept_from: u64) -> Result<(), capnp::Error> {
        self.gate.turn_to_call().await;
        let mut request = self.sink.gone_request();
        let mut gone = request.get();
        gone.set_task(fence.task.index);
        gone.set_attempt(fence.attempt.0);
        gone.set_position(kept_from);
        let text = format!("the output of job {} is no longer kept", self.job);
        let (_, limit) = self.local.shared.output.reader().usage();
        let gib = limit as f64 / f64::from(1 << 30);
        let limit = format!("{gib:.1} GiB of output (pool serve --output-limit), less on a full disk");
        let refused = Refusal::new("output-gone", text).fact("limit", limit);
        wire::refusal::write(&refused, gone.init_refused());
        request.send().await?;
        self.partly.insert(fence.task.index, (fence.attempt.0, kept_from));
        Ok(())
    }

    fn position(&self, fence: Fence) -> u64 {
        match self.partly.get(&fence.task.index) {
            Some(&(attempt, position)) if attempt == fence.attempt.0 => position,
            _ => 0,
        }
    }

    fn fence(&self, nonce: JobNonce, index: u32, attempt: u32) -> Fence {
        Fence { nonce, task: TaskId { job: self.job, index }, attempt: AttemptNumber(attempt) }
    }

    async fn write(&mut self, fence: Fence, chunk: &crate::core::output::Chunk) -> Result<(), capnp::Error> {
        self.gate.turn_to_call().await;
        let mut request = self.sink.write_request();
        let mut params = request.get();
        params.set_task(fence.task.index);
        params.set_attempt(fence.attempt.0);
        wire::output::write(chunk, params.init_chunk());
        request.send().await?;
        self.partly.insert(fence.task.index, (fence.attempt.0, chunk.end()));
        Ok(())
    }

    async fn event(&self, event: &TaskEvent) -> Result<(), capnp::Error> {
        self.gate.turn_to_call().await;
        let mut request = self.sink.event_request();
        wire::task::write_event(event, request.get().init_event());
        request.send().await
    }

    async fn done(&self, info: &JobInfo) -> Result<(), capnp::Error> {
        self.gate.turn_to_call().await;
        let mut request = self.sink.done_request();
        wire::job::write_info(info, request.get().init_info());
        request.send().promise.await?;
        Ok(())
    }
}

/// A follower with its place.
pub(super) struct Begun {
    follower: Follower,
    /// None for a job that has ended.
    live: Option<(Watching, WatchStart)>,
}

impl Begun {
    /// Sends all there is to send. When that cannot be done, the follower is told why, if it is still there.
    pub(super) async fn run(self) {
        let sink = self.follower.sink.clone();
        let Err(error) = self.send().await else { return };
        tracing::debug!(%error, "a following ended");
        let mut request = sink.failed_request();
        let code = if error.kind == capnp::ErrorKind::Overloaded { "too-many-followers" } else { "internal" };
        wire::refusal::write(&Refusal::new(code, error.extra), request.get().init_refused());
        let _ = request.send().promise.await;
    }

    async fn send(self) -> Result<(), capnp::Error> {
        let Self { mut follower, mut live } = self;
        while let Some((watching, start)) = live.take() {
            if follower.send_live(watching, start).await? {
                return Ok(());
            }
            match Watching::everything(&follower.local.shared, follower.viewer.clone(), follower.job).await? {
                Ok(again) => live = Some(again),
                Err(WatchError::NotLive) => {}
                // Somebody took the place that it has just lost.
                Err(error @ WatchError::TooMany(_)) => {
                    return Err(capnp::Error::overloaded(error.to_string()));
                }
            }
        }
        follower.send_ended().await
    }
}

/// Attempts whose output is sent as it comes.
#[derive(Default)]
struct Open {
    changes: FuturesUnordered<Change>,
    by_task: BTreeMap<u32, (Fence, AbortHandle)>,
}

/// Waits for output of an attempt.
type Change = Abortable<Pin<Box<dyn Future<Output = (Fence, Changes)>>>>;

impl Open {
    fn open(&mut self, fence: Fence, output: &OutputHandle) {
        if self.by_task.get(&fence.task.index).is_some_and(|(open, _)| *open == fence) {
            return;
        }
        self.close(fence.task.index);
        let mut changes = output.subscribe(fence);
        // What is there already counts as a change.
        changes.mark_changed();
        self.wait_for(fence, changes);
    }

    fn close(&mut self, task: u32) {
        if let Some((_, handle)) = self.by_task.remove(&task) {
            handle.abort();
        }
    }

    fn wait_for(&mut self, fence: Fence, mut changes: Changes) {
        let change: Pin<Box<dyn Future<Output = _>>> = Box::pin(async move {
            changes.changed().await;
            (fence, changes)
        });
        let (change, handle) = futures::future::abortable(change);
        self.by_task.insert(fence.task.index, (fence, handle));
        self.changes.push(change);
    }

    /// The next attempt with output; `None` while there is none to wait for. Cancel-safe.
    async fn changed(&mut self) -> Option<Fence> {
        loop {
            // One that was closed meanwhile is passed over.
            if let Ok((fence, changes)) = self.changes.next().await? {
                self.wait_for(fence, changes);
                return Some(fence);
            }
        }
    }
}

/// What happened, of all that a follower waits for.
enum Event {
    Output(Fence),
    Job(Option<JobEvent>),
}
