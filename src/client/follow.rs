//! Following a job: its bytes to our standard output and error, its events to whoever shows them, through any number of
//! lost connections.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;

use tokio::sync::mpsc;

use super::connection::Session;
use super::error::Failure;
use crate::core::id::JobId;
use crate::core::output::{Chunk, Stream};
use crate::core::range::RangeSet;
use crate::core::refusal::Refusal;
use crate::core::view::{JobInfo, TaskEvent, TaskEventKind};
use crate::schema::pool_capnp::sink;
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

/// What has been seen, so that a new connection goes on there.
#[derive(Debug, Default)]
struct Seen {
    tasks: RangeSet,
    partly: BTreeMap<u32, (u32, u64)>,
}

/// A following that outlives connections.
pub struct Following {
    job: JobId,
    what: FollowWhat,
    seen: Rc<RefCell<Seen>>,
    news: mpsc::Receiver<(u64, News)>,
    sender: mpsc::Sender<(u64, News)>,
    place: Option<crate::schema::pool_capnp::following::Client>,
    gone: Option<tokio::sync::watch::Receiver<bool>>,
    /// Counts connections: what came by an earlier one is not taken any longer.
    round: u64,
}

/// Chunks that may wait to be written.
const NEWS_MAX: usize = 16;

impl Following {
    /// Follows a job.
    pub fn new(job: JobId, what: FollowWhat) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        Self { job, what, seen: Rc::default(), news, sender, place: None, gone: None, round: 0 }
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
            if self.place.is_none() {
                self.begin(session).await?;
            }
            let gone = self.gone.as_mut().expect("a place belongs to a connection");
            let news = tokio::select! {
                biased;
                Some((round, news)) = self.news.recv() => if round == self.round { Some(news) } else { continue },
                _ = gone.wait_for(|gone| *gone) => None,
            };
            match news {
                Some(news) => {
                    self.note(&news);
                    return Ok(news);
                }
                None => {
                    self.place = None;
                    session.disconnect();
                }
            }
        }
    }

    async fn begin(&mut self, session: &mut Session) -> Result<(), Failure> {
        loop {
            let pool = session.pool().await?;
            self.gone = session.gone();
            self.round += 1;
            let mut request = pool.job_request();
            request.get().set_id(self.job.0);
            let answer = request.send();
            let mut request = answer.pipeline.get_handle().follow_request();
            let sink = SinkService { round: self.round, news: self.sender.clone() };
            request.get().set_sink(capnp_rpc::new_client(sink));
            self.write_what(request.get().init_what());
            self.write_from(request.get().init_from());
            let following = request.send();
            match answer.promise.await {
                Ok(answer) => {
                    let answer = answer.get()?;
                    if answer.has_refused() {
                        return Err(wire::refusal::read(answer.get_refused()?)?.into());
                    }
                }
                Err(error) if error.kind == capnp::ErrorKind::Disconnected => {
                    session.disconnect();
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            match following.promise.await {
                Ok(answer) => {
                    let answer = answer.get()?;
                    if answer.has_refused() {
                        return Err(wire::refusal::read(answer.get_refused()?)?.into());
                    }
                    self.place = Some(answer.get_following()?);
                    return Ok(());
                }
                Err(error) if error.kind == capnp::ErrorKind::Disconnected => session.disconnect(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write_what(&self, mut to: crate::schema::pool_capnp::follow_what::Builder<'_>) {
        to.set_live(self.what.live);
        to.set_until_now(self.what.until_now);
        to.set_attempt(self.what.attempt.unwrap_or(0));
        wire::fence::write_ranges(&self.what.tasks, to.init_tasks(wire::text::count(&self.what.tasks)));
    }

    fn write_from(&self, mut to: crate::schema::pool_capnp::resume::Builder<'_>) {
        let seen = self.seen.borrow();
        let ranges: Vec<_> = seen.tasks.ranges().collect();
        wire::fence::write_ranges(&ranges, to.reborrow().init_tasks(wire::text::count(&ranges)));
        let mut list = to.init_partly(u32::try_from(seen.partly.len()).unwrap_or(0));
        for (n, (task, (attempt, position))) in (0..).zip(&seen.partly) {
            let mut one = list.reborrow().get(n);
            one.set_task(*task);
            one.set_attempt(*attempt);
            one.set_position(*position);
        }
    }

    fn note(&self, news: &News) {
        let mut seen = self.seen.borrow_mut();
        match news {
            News::Bytes { task, attempt, chunk } => {
                seen.partly.insert(*task, (*attempt, chunk.end()));
            }
            News::Gone { task, attempt, position, .. } => {
                seen.partly.insert(*task, (*attempt, *position));
            }
            News::Event(event) => match &event.kind {
                TaskEventKind::Ended(_) => {
                    seen.tasks.insert(event.task);
                    seen.partly.remove(&event.task);
                }
                TaskEventKind::AttemptLost(_) => {
                    seen.partly.insert(event.task, (event.attempt + 1, 0));
                }
                _ => {}
            },
            News::Done(_) => {}
        }
    }
}

/// Our end: the pool calls it, and waits while we write.
struct SinkService {
    round: u64,
    news: mpsc::Sender<(u64, News)>,
}

impl SinkService {
    async fn tell(&self, news: News) -> Result<(), capnp::Error> {
        let gone = |_| capnp::Error::disconnected("nobody follows any longer".to_owned());
        self.news.send((self.round, news)).await.map_err(gone)
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
}

/// Writes a chunk to our own stream of the same name, as it is.
///
/// # Errors
/// When nobody reads that any longer.
pub fn write_out(chunk: &Chunk) -> std::io::Result<()> {
    match chunk.stream {
        Stream::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&chunk.bytes)?;
            stdout.flush()
        }
        Stream::Stderr => std::io::stderr().lock().write_all(&chunk.bytes),
    }
}
