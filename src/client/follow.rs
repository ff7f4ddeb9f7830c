//! Following a job: its bytes to our standard output and error, its events to whoever shows them, through any number of
//! lost connections.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::connection::Session;
use super::error::Failure;
use crate::core::id::JobId;
use crate::core::output::Chunk;
use crate::core::range::RangeSet;
use crate::core::refusal::Refusal;
use crate::core::view::{JobInfo, TaskEvent, TaskEventKind};
use crate::schema::pool_capnp::{follow_what, following, resume, sink};
use crate::wire;

/// What is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowWhat {
    /// Which tasks; none: all.
    pub tasks: Vec<(u32, u32)>,
    /// Output as it comes, instead of each task's whole at its end.
    pub live: bool,
    /// Only this attempt.
    pub attempt: Option<u32>,
    /// Only what there is by now.
    pub until_now: bool,
}

/// What a follower is told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Bytes of a task.
    Bytes {
        /// Its index.
        task: u32,
        /// Which of its attempts wrote them.
        attempt: u32,
        /// The bytes.
        chunk: Chunk,
    },
    /// Something happened to a task.
    Event(TaskEvent),
    /// Bytes of a task are no longer kept.
    Gone {
        /// Its index.
        task: u32,
        /// Which of its attempts wrote them.
        attempt: u32,
        /// What is kept begins here.
        position: u64,
        /// Why.
        refused: Refusal,
    },
    /// All there was to follow.
    Done(Box<JobInfo>),
}

/// What a follower has seen, so that a new connection goes on there and nothing is told twice.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    tasks: RangeSet,
    partly: BTreeMap<u32, (u32, u64)>,
    told: BTreeMap<u32, Told>,
}

/// What was told of a task's newest attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    attempt: u32,
    queued: bool,
    started: bool,
    /// Its worker is silent.
    unknown: bool,
}

/// A following that outlives connections.
pub struct Following {
    job: JobId,
    what: FollowWhat,
    seen: Seen,
    place: Option<Place>,
    /// How often a place was lost, and not a connection, since there was news.
    broken: u32,
}

/// A place among those who follow, by one connection.
struct Place {
    news: mpsc::Receiver<Result<News, Refusal>>,
    gone: watch::Receiver<bool>,
    /// Gives the place back when it is dropped.
    _following: following::Client,
}

/// Chunks that may wait to be written.
const NEWS_MAX: usize = 16;
/// A pool that breaks off so often without a word and without news is not asked again.
const BROKEN_MAX: u32 = 3;
/// When a place is lost with its connection, that shows within this time.
const GONE_WITHIN: Duration = Duration::from_secs(1);

impl Following {
    /// Follows a job.
    pub fn new(job: JobId, what: FollowWhat) -> Self {
        Self { job, what, seen: Seen::default(), place: None, broken: 0 }
    }

    /// After a following that ended with what there was, goes on with what comes.
    pub fn go_on(&mut self) {
        self.what.until_now = false;
        self.place = None;
    }

    /// The next thing that happens. Cancel-safe once it is connected.
    ///
    /// # Errors
    /// When the job is not known, or the pool refuses.
    pub async fn next(&mut self, session: &mut Session) -> Result<News, Failure> {
        loop {
            // Given back only when it is lost: whoever waits here may be called away at any time.
            let place = match &mut self.place {
                Some(place) => place,
                none => none.insert(begin(self.job, &self.what, &self.seen, session).await?),
            };
            let news = tokio::select! {
                biased;
                news = place.news.recv() => news,
                _ = place.gone.wait_for(|gone| *gone) => None,
            };
            match news {
                Some(news) => {
                    let news = news?;
                    self.broken = 0;
                    if let Some(news) = self.seen.take(news) {
                        return Ok(news);
                    }
                }
                None => self.lost(session).await?,
            }
        }
    }

    /// The place is lost, most likely with its connection.
    async fn lost(&mut self, session: &mut Session) -> Result<(), Failure> {
        let Some(mut place) = self.place.take() else { return Ok(()) };
        let gone = place.gone.wait_for(|gone| *gone);
        if tokio::time::timeout(GONE_WITHIN, gone).await.is_ok() {
            session.disconnect();
            return Ok(());
        }
        self.broken += 1;
        if self.broken < BROKEN_MAX {
            return Ok(());
        }
        Err(Failure::new("internal", format!("the pool breaks off telling of job {}", self.job)))
    }
}

/// Takes a place, and another if the connection is lost meanwhile.
async fn begin(job: JobId, what: &FollowWhat, seen: &Seen, session: &mut Session) -> Result<Place, Failure> {
    loop {
        match try_begin(job, what, seen, session).await {
            Ok(place) => return place,
            Err(error) if error.kind == capnp::ErrorKind::Disconnected => session.disconnect(),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn try_begin(
    job: JobId,
    what: &FollowWhat,
    seen: &Seen,
    session: &mut Session,
) -> Result<Result<Place, Failure>, capnp::Error> {
    let pool = match session.pool().await {
        Ok(pool) => pool,
        Err(failure) => return Ok(Err(failure)),
    };
    let gone = session.gone().expect("the pool was just reached");
    let (sender, news) = mpsc::channel(NEWS_MAX);
    let mut request = pool.job_request();
    request.get().set_id(job.0);
    let found = request.send();
    let mut request = found.pipeline.get_handle().follow_request();
    request.get().set_sink(capnp_rpc::new_client(SinkService(sender)));
    what.write(request.get().init_what());
    seen.write(request.get().init_from());
    let following = request.send();
    let found = found.promise.await?;
    let found = found.get()?;
    if found.has_refused() {
        return Ok(Err(wire::refusal::read(found.get_refused()?)?.into()));
    }
    let following = following.promise.await?;
    let following = following.get()?;
    if following.has_refused() {
        return Ok(Err(wire::refusal::read(following.get_refused()?)?.into()));
    }
    Ok(Ok(Place { news, gone, _following: following.get_following()? }))
}

impl FollowWhat {
    fn write(&self, mut to: follow_what::Builder<'_>) {
        to.set_live(self.live);
        to.set_until_now(self.until_now);
        to.set_attempt(self.attempt.unwrap_or(0));
        wire::fence::write_ranges(&self.tasks, to.init_tasks(wire::text::count(&self.tasks)));
    }
}

impl Seen {
    /// Takes news in; what of it was not told before.
    pub fn take(&mut self, news: News) -> Option<News> {
        let news = self.sift(news)?;
        self.note(&news);
        Some(news)
    }

    /// Says it to the pool, which goes on behind it.
    pub fn write(&self, mut to: resume::Builder<'_>) {
        let ranges: Vec<_> = self.tasks.ranges().collect();
        wire::fence::write_ranges(&ranges, to.reborrow().init_tasks(wire::text::count(&ranges)));
        let mut list = to.init_partly(u32::try_from(self.partly.len()).unwrap_or(0));
        for (n, (task, (attempt, position))) in (0..).zip(&self.partly) {
            let mut one = list.reborrow().get(n);
            one.set_task(*task);
            one.set_attempt(*attempt);
            one.set_position(*position);
        }
    }

    /// Leaves out what was told before: a new place begins with how things stand, and a new pool hears from workers what
    /// runs there.
    fn sift(&mut self, news: News) -> Option<News> {
        let News::Event(mut event) = news else { return Some(news) };
        let told = self.told.entry(event.task).or_default();
        if told.attempt != event.attempt {
            *told = Told { attempt: event.attempt, ..Told::default() };
        }
        let is_new = match event.kind {
            TaskEventKind::Queued => !told.started && !std::mem::replace(&mut told.queued, true),
            TaskEventKind::Unknown(_) => !std::mem::replace(&mut told.unknown, true),
            TaskEventKind::Returned => std::mem::take(&mut told.unknown),
            TaskEventKind::Started => {
                let was_unknown = std::mem::take(&mut told.unknown);
                let is_first = !std::mem::replace(&mut told.started, true);
                if !is_first {
                    event.kind = TaskEventKind::Returned;
                }
                is_first || was_unknown
            }
            TaskEventKind::AttemptLost(_) | TaskEventKind::Ended(_) => {
                self.told.remove(&event.task);
                true
            }
            TaskEventKind::Cancelling(_) => true,
        };
        is_new.then_some(News::Event(event))
    }

    fn note(&mut self, news: &News) {
        match news {
            News::Bytes { task, attempt, chunk } => {
                self.partly.insert(*task, (*attempt, chunk.end()));
            }
            News::Gone { task, attempt, position, .. } => {
                self.partly.insert(*task, (*attempt, *position));
            }
            News::Event(event) => match &event.kind {
                TaskEventKind::Ended(_) => {
                    self.tasks.insert(event.task);
                    self.partly.remove(&event.task);
                }
                TaskEventKind::AttemptLost(_) => {
                    self.partly.insert(event.task, (event.attempt + 1, 0));
                }
                _ => {}
            },
            News::Done(_) => {}
        }
    }
}

/// Our end: the pool calls it, and waits while we write. When the pool drops it, the news end.
struct SinkService(mpsc::Sender<Result<News, Refusal>>);

impl SinkService {
    async fn tell(&self, news: News) -> Result<(), capnp::Error> {
        self.give(Ok(news)).await
    }

    async fn give(&self, news: Result<News, Refusal>) -> Result<(), capnp::Error> {
        let gone = |_| capnp::Error::disconnected("nobody follows any longer".to_owned());
        self.0.send(news).await.map_err(gone)
    }
}

impl sink::Server for SinkService {
    async fn write(self: Rc<Self>, params: sink::WriteParams) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let chunk = wire::output::read(params.get_chunk()?)?;
        self.tell(News::Bytes { task: params.get_task(), attempt: params.get_attempt(), chunk }).await
    }

    async fn event(self: Rc<Self>, params: sink::EventParams) -> Result<(), capnp::Error> {
        let event = wire::task::read_event(params.get()?.get_event()?)?;
        self.tell(News::Event(event)).await
    }

    async fn gone(self: Rc<Self>, params: sink::GoneParams) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let refused = wire::refusal::read(params.get_refused()?)?;
        let (task, attempt, position) = (params.get_task(), params.get_attempt(), params.get_position());
        self.tell(News::Gone { task, attempt, position, refused }).await
    }

    async fn done(
        self: Rc<Self>,
        params: sink::DoneParams,
        _results: sink::DoneResults,
    ) -> Result<(), capnp::Error> {
        let info = wire::job::read_info(params.get()?.get_info()?)?;
        self.tell(News::Done(Box::new(info))).await
    }

    async fn failed(
        self: Rc<Self>,
        params: sink::FailedParams,
        _results: sink::FailedResults,
    ) -> Result<(), capnp::Error> {
        self.give(Err(wire::refusal::read(params.get()?.get_refused()?)?)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(attempt: u32, kind: TaskEventKind) -> News {
        News::Event(TaskEvent { task: 3, attempt, worker: None, kind })
    }

    fn kinds(told: &[(u32, TaskEventKind)]) -> Vec<(u32, TaskEventKind)> {
        let mut seen = Seen::default();
        let sifted = told.iter().filter_map(|(attempt, kind)| seen.sift(event(*attempt, kind.clone())));
        let kind = |news| match news {
            News::Event(event) => (event.attempt, event.kind),
            other => panic!("{other:?}"),
        };
        sifted.map(kind).collect()
    }

    #[test]
    fn what_a_new_place_or_a_new_pool_repeats_is_told_once() {
        use TaskEventKind::{Queued, Started};

        let told = [(0, Queued), (1, Queued), (1, Started), (1, Started), (1, Queued), (1, Started)];

        assert_eq!(kinds(&told), [(0, Queued), (1, Queued), (1, Started)]);
    }

    #[test]
    fn who_was_unknown_and_is_there_again_has_returned_and_has_not_started_twice() {
        use TaskEventKind::{Returned, Started, Unknown};

        let told = [
            (1, Started),
            (1, Unknown(None)),
            (1, Unknown(None)),
            (1, Started),
            (1, Unknown(None)),
            (1, Returned),
        ];

        let wanted = [(1, Started), (1, Unknown(None)), (1, Returned), (1, Unknown(None)), (1, Returned)];
        assert_eq!(kinds(&told), wanted);
    }

    #[test]
    fn a_start_is_told_whatever_was_said_of_its_worker_before() {
        use TaskEventKind::{Queued, Returned, Started, Unknown};

        let back = [(1, Queued), (1, Unknown(None)), (1, Returned), (1, Started)];
        let at_once = [(1, Queued), (1, Unknown(None)), (1, Started)];

        assert_eq!(kinds(&back), back);
        assert_eq!(kinds(&at_once), at_once);
    }

    #[test]
    fn the_next_attempt_is_told_like_the_first() {
        use TaskEventKind::{AttemptLost, Queued, Started};

        let told = [(1, Started), (1, AttemptLost(String::new())), (1, Queued), (2, Started)];

        assert_eq!(kinds(&told), told);
    }
}
