//! A follower's host: follows the jobs of a client, one after the other, through connections that break, each from where
//! it had come to.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clusterctl::client::follow::{News, Seen};
use clusterctl::core::id::{JobId, TaskId};
use clusterctl::core::range::RangeSet;
use clusterctl::core::view::{TaskEvent, TaskEventKind};
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
    seen: Seen,
    /// Places that it has had among those who follow.
    places: u32,
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
                seen: Seen::default(),
                places: 0,
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
        let Some(present) = take_place(follower) else { return Ok(()) };
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
        let sink =
            Told { follower: Rc::clone(follower), job: present.job, place: present.places, _told: told };
        request.get().set_sink(capnp_rpc::new_client(sink));
        request.get().init_what().set_live(present.live);
        match follower.borrow().plant {
            Plant::FollowerForgetsItsPlace => {}
            _ => present.seen.write(request.get().init_from()),
        }
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
    }
}

/// What is followed now, at another place than before.
fn take_place(follower: &Shared) -> Option<Following> {
    let mut follower = follower.borrow_mut();
    follower.present()?;
    let present = follower.present.as_mut()?;
    present.places += 1;
    let present = present.clone();
    if present.places == 1 {
        let all = present.all.clone();
        let begins =
            Follow::Begins { all, over: RangeSet::default(), active: Vec::new(), gives_output: true };
        follower.tell(present.job, begins);
    }
    Some(present)
}

/// Our end at one place. What comes to it after that was lost is not heard.
struct Told {
    follower: Shared,
    job: JobId,
    place: u32,
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

    /// Takes news in as the program's own follower does, and tells what of it was new.
    fn take(&self, news: News) -> Result<(), capnp::Error> {
        let mut follower = self.follower.borrow_mut();
        let observer = follower.observer;
        let present = follower.present.as_mut();
        let Some(present) = present.filter(|now| (now.job, now.places) == (self.job, self.place)) else {
            return Err(capnp::Error::disconnected("nobody follows any longer".to_owned()));
        };
        let job = self.job;
        let happened = match present.seen.take(news) {
            None | Some(News::Gone { .. }) => return Ok(()),
            Some(News::Bytes { task, attempt, chunk }) => {
                Happened::Given { observer, task: TaskId { job, index: task }, attempt, chunk }
            }
            Some(News::Event(TaskEvent { task, attempt, kind: TaskEventKind::Ended(end), .. })) => {
                let what = Follow::Ended { index: task, attempt, outcome: end.outcome };
                Happened::Followed { observer, job, what }
            }
            Some(News::Event(event)) => Happened::Followed { observer, job, what: Follow::Task(event) },
            Some(News::Done(info)) => {
                // Whatever becomes of the line now.
                follower.followed.push(job);
                follower.present = None;
                Happened::Followed { observer, job, what: Follow::Over(info.counts) }
            }
        };
        tell(&follower.witness, happened);
        Ok(())
    }
}

impl sink::Server for Told {
    async fn write(self: Rc<Self>, params: sink::WriteParams) -> Result<(), capnp::Error> {
        self.dawdle().await;
        let params = params.get()?;
        let chunk = wire::output::read(params.get_chunk()?)?;
        self.take(News::Bytes { task: params.get_task(), attempt: params.get_attempt(), chunk })
    }

    async fn event(self: Rc<Self>, params: sink::EventParams) -> Result<(), capnp::Error> {
        self.dawdle().await;
        self.take(News::Event(wire::task::read_event(params.get()?.get_event()?)?))
    }

    async fn done(
        self: Rc<Self>,
        params: sink::DoneParams,
        _results: sink::DoneResults,
    ) -> Result<(), capnp::Error> {
        self.take(News::Done(Box::new(wire::job::read_info(params.get()?.get_info()?)?)))
    }
}
