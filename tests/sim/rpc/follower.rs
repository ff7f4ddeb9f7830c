//! A follower's host: follows the jobs of a client, one after the other, through connections that break, each from where
//! it had come to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::id::{JobId, TaskId};
use clusterctl::core::range::RangeSet;
use clusterctl::core::view::TaskEventKind;
use clusterctl::schema::pool_capnp::sink;
use clusterctl::wire;
use tokio::sync::mpsc;

use super::client::{self, connect, within};
use super::pool::{Witness, tell};
use crate::history::{Follow, Happened, Observer};
use crate::plan::Plant;
use crate::random::Random;

/// When nothing comes for so long, it asks whether the pool is there.
const ASK_AFTER: Duration = Duration::from_secs(10);

/// What a follower has seen; it outlives its connections.
pub struct Follower {
    observer: Observer,
    random: Random,
    plant: Plant,
    witness: Witness,
    client: client::Shared,
    followed: Vec<JobId>,
    present: Option<Following>,
}

#[derive(Clone, Debug)]
struct Following {
    job: JobId,
    all: RangeSet,
    live: bool,
    /// Told to have ended.
    over: RangeSet,
    /// Of tasks that were not, the attempt of which there was output, and how far.
    partly: BTreeMap<u32, (u32, u64)>,
    is_over: bool,
}

pub type Shared = Rc<RefCell<Follower>>;

impl Follower {
    pub fn new(number: u64, random: Random, plant: Plant, client: client::Shared, witness: Witness) -> Self {
        let (observer, followed) = (Observer(number), Vec::new());
        Self { observer, random, plant, witness, client, followed, present: None }
    }

    /// Whether it has seen the end of all that its client submitted.
    pub fn is_done(&self) -> bool {
        self.present.is_none() && self.client.borrow().jobs().all(|(job, _)| self.followed.contains(&job))
    }

    /// What it waits for, for people.
    pub fn waits_for(&self) -> String {
        format!("{} followed to their end, now {:?}", self.followed.len(), self.present)
    }

    /// What is followed now: the newest job that was not, if there is one.
    fn present(&mut self) -> Option<Following> {
        if self.present.is_none() {
            let client = self.client.borrow();
            let next = client.jobs().filter(|(job, _)| !self.followed.contains(job)).last();
            self.present = next.map(|(job, all)| Following {
                job,
                all,
                live: self.random.chance(700),
                over: RangeSet::default(),
                partly: BTreeMap::new(),
                is_over: false,
            });
        }
        self.present.clone()
    }

    fn tell(&self, job: JobId, what: Follow) {
        tell(&self.witness, Happened::Followed { observer: self.observer, job, what });
    }
}

/// The body of a follower's host.
pub async fn follow(follower: Shared) -> turmoil::Result {
    loop {
        // What breaks is gone on with over another connection.
        let _ = attend(&follower).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Follows over one connection, as long as that lasts and there is something to follow.
async fn attend(follower: &Shared) -> Result<(), capnp::Error> {
    let Some(_) = follower.borrow_mut().present() else { return Ok(()) };
    let (pool, mut broken) = connect().await?;
    loop {
        let Some(mut present) = follower.borrow_mut().present() else { return Ok(()) };
        if follower.borrow().plant == Plant::FollowerForgetsItsPlace {
            present.partly.clear();
        }
        let mut request = pool.job_request();
        request.get().set_id(present.job.0);
        let answer = within(request.send().promise).await?;
        if answer.get()?.has_refused() {
            let witness = Arc::clone(&follower.borrow().witness);
            tell(&witness, Happened::Unknown { job: present.job });
            return Err(capnp::Error::failed("an acknowledged job is not known".to_owned()));
        }
        let (told, mut ends) = mpsc::channel(1);
        let mut request = answer.get()?.get_handle()?.follow_request();
        let sink = Told { follower: Rc::clone(follower), job: present.job, _told: told };
        request.get().set_sink(capnp_rpc::new_client(sink));
        request.get().init_what().set_live(present.live);
        let mut from = request.get().init_from();
        let over: Vec<_> = present.over.ranges().collect();
        wire::fence::write_ranges(&over, from.reborrow().init_tasks(wire::text::count(&over)));
        let mut partly = from.init_partly(u32::try_from(present.partly.len()).unwrap());
        for (n, (task, (attempt, position))) in (0..).zip(&present.partly) {
            let mut one = partly.reborrow().get(n);
            one.set_task(*task);
            one.set_attempt(*attempt);
            one.set_position(*position);
        }
        let begins =
            Follow::Begins { all: present.all.clone(), over: present.over.clone(), active: Vec::new() };
        follower.borrow().tell(present.job, begins);
        let following = within(request.send().promise).await?;
        let _place = following.get()?.get_following()?;
        loop {
            // The pool drops our end when it has told all. A line that is cut without a word shows when we ask.
            tokio::select! {
                biased;
                _ = ends.recv() => break,
                _ = &mut broken => return Ok(()),
                () = tokio::time::sleep(ASK_AFTER) => {}
            }
            let mut request = pool.job_request();
            request.get().set_id(present.job.0);
            within(request.send().promise).await?;
        }
        let mut follower = follower.borrow_mut();
        if follower.present.as_ref().is_some_and(|present| present.is_over) {
            follower.followed.push(present.job);
            follower.present = None;
        }
    }
}

/// Our end. Of a place that was lost something may still come: it is of no job that is followed any longer.
struct Told {
    follower: Shared,
    job: JobId,
    _told: mpsc::Sender<()>,
}

impl Told {
    /// Now and then it takes a while to read.
    async fn dawdle(&self) {
        let wait = {
            let random = &mut self.follower.borrow_mut().random;
            if random.chance(50) { random.millis(1, 3000) } else { Duration::ZERO }
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl sink::Server for Told {
    async fn write(self: Rc<Self>, params: sink::WriteParams) -> Result<(), capnp::Error> {
        self.dawdle().await;
        let params = params.get()?;
        let (index, attempt) = (params.get_task(), params.get_attempt());
        let chunk = wire::output::read(params.get_chunk()?)?;
        let mut follower = self.follower.borrow_mut();
        let (observer, task) = (follower.observer, TaskId { job: self.job, index });
        if let Some(present) = &mut follower.present {
            present.partly.insert(index, (attempt, chunk.end()));
        }
        tell(&follower.witness, Happened::Given { observer, task, attempt, chunk });
        Ok(())
    }

    async fn event(self: Rc<Self>, params: sink::EventParams) -> Result<(), capnp::Error> {
        self.dawdle().await;
        let event = wire::task::read_event(params.get()?.get_event()?)?;
        let mut follower = self.follower.borrow_mut();
        if let Some(present) = &mut follower.present {
            match &event.kind {
                TaskEventKind::Ended(_) => {
                    present.over.insert(event.task);
                    present.partly.remove(&event.task);
                }
                TaskEventKind::AttemptLost(_) => {
                    present.partly.insert(event.task, (event.attempt + 1, 0));
                }
                _ => {}
            }
        }
        let what = match event.kind {
            TaskEventKind::Ended(end) => {
                Follow::Ended { index: event.task, attempt: event.attempt, outcome: end.outcome }
            }
            _ => Follow::Task(event),
        };
        follower.tell(self.job, what);
        Ok(())
    }

    async fn done(
        self: Rc<Self>,
        params: sink::DoneParams,
        _results: sink::DoneResults,
    ) -> Result<(), capnp::Error> {
        let info = wire::job::read_info(params.get()?.get_info()?)?;
        let mut follower = self.follower.borrow_mut();
        if let Some(present) = &mut follower.present {
            present.is_over = true;
        }
        follower.tell(self.job, Follow::Over(info.counts));
        Ok(())
    }
}
