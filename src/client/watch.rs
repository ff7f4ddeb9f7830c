//! Staying with a job: its output on ours, its news as sentences, and the keys and signals of whoever stays.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::commands::{cancel, jobs};
use super::connection::Session;
use super::error::Failure;
use super::follow::{FollowWhat, Following, News, write_out};
use super::progress::Progress;
use super::tagger::Tagger;
use super::{Format, Manner, json, render};
use crate::core::id::JobId;
use crate::core::outcome::{Cancel, Outcome};
use crate::core::output::Chunk;
use crate::core::view::{JobInfo, TaskEvent, TaskEventKind, TaskState, Why};
use crate::say::{STDOUT_CLOSED, say, sentence, tell};

/// After so long without a sign a job that waits is told of.
const WAITING_AFTER: Duration = Duration::from_millis(500);
/// And so long after that, and after each time, once more: what it waits for may have changed.
const WAITING_AGAIN: Duration = Duration::from_millis(2500);
/// A cancel that a closed standard output asks for is given so long to reach the pool.
const LAST_CANCEL: Duration = Duration::from_secs(10);
/// The Ctrl-C that gives the prompt back.
const INTERRUPTS_MAX: u32 = 3;

/// How a watching ended.
pub enum Ended {
    /// The job did; with the exit code that stands for it.
    Done(Box<JobInfo>, u8),
    /// Nobody reads our output any longer.
    StdoutClosed,
    /// The person has given up waiting for a cancel to take effect.
    GivenUp,
}

impl Ended {
    /// The exit code of a process that watched.
    pub fn exit_code(&self) -> u8 {
        match self {
            Ended::Done(_, code) => *code,
            Ended::StdoutClosed => STDOUT_CLOSED,
            Ended::GivenUp => 130,
        }
    }
}

/// What bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As they are.
    Plain,
    /// Line by line, with the task's id in front.
    Tagged,
}

/// Staying with a job.
pub struct Watch {
    id: JobId,
    following: Following,
    manner: Manner,
    tagger: Option<Tagger>,
    progress: Option<Progress>,
    waiting: Waiting,
    interrupts: u32,
    cancels: JoinSet<Result<(), Failure>>,
    open_line: bool,
}

/// Whether the job has given a sign of life, and what was said about its waiting.
enum Waiting {
    Untold,
    /// A line that is taken back.
    Transient,
    /// Sentences that stay.
    Told,
    Over,
}

/// What happened, of all that a watching waits for.
enum Event {
    News(News),
    Interrupted,
    Terminated,
    StillWaiting,
    Cancelled(Result<(), Failure>),
}

impl Watch {
    /// Begins to watch a job of so many tasks (none: a plain one).
    pub fn new(id: JobId, what: FollowWhat, tasks: Option<u64>, style: Style, manner: Manner) -> Self {
        Self {
            id,
            following: Following::new(id, what),
            manner,
            tagger: (style == Style::Tagged).then(|| Tagger::new(id)),
            progress: tasks.filter(|_| manner.speaks()).map(|total| Progress::new(id, total)),
            waiting: Waiting::Untold,
            interrupts: 0,
            cancels: JoinSet::new(),
            open_line: false,
        }
    }

    /// Watches to the end with a hand on the job: SIGINT, SIGTERM and a closed standard output cancel it, SIGHUP ends us
    /// alone.
    ///
    /// # Errors
    /// When the job cannot be followed.
    pub async fn to_end(&mut self, session: &mut Session) -> Result<Ended, Failure> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + WAITING_AFTER, WAITING_AGAIN);
        let ended = loop {
            let event = tokio::select! {
                biased;
                _ = interrupt.recv() => Event::Interrupted,
                _ = terminate.recv() => Event::Terminated,
                Some(Ok(done)) = self.cancels.join_next() => Event::Cancelled(done),
                news = self.following.next(session) => Event::News(news?),
                _ = look.tick(), if self.tells_of_waiting() => Event::StillWaiting,
            };
            match event {
                Event::News(news) => {
                    if let Some(ended) = self.show(news)? {
                        break ended;
                    }
                }
                Event::Interrupted => {
                    if !self.interrupted(session) {
                        break Ended::GivenUp;
                    }
                }
                Event::Terminated => self.cancel(session, Cancel::Terminate),
                Event::StillWaiting => self.tell_of_waiting(session).await,
                Event::Cancelled(done) => done?,
            }
        };
        self.clear();
        if matches!(ended, Ended::StdoutClosed) {
            // That nobody reads is no reason to lose the cancel; a pool that is away is.
            let ids = [self.id];
            let last = cancel::cancel_jobs(session, &ids, Cancel::Interrupt);
            let _ = tokio::time::timeout(LAST_CANCEL, last).await;
        }
        Ok(ended)
    }

    /// Watches to the end without a hand on the job: signals end us alone.
    ///
    /// # Errors
    /// When the job cannot be followed.
    pub async fn look_on(&mut self, session: &mut Session) -> Result<Ended, Failure> {
        loop {
            let news = self.following.next(session).await?;
            if let Some(ended) = self.show(news)? {
                self.clear();
                return Ok(ended);
            }
        }
    }

    /// Whether the last byte that was shown did not end its line.
    pub fn ends_inside_a_line(&self) -> bool {
        self.open_line && std::io::stdout().is_terminal()
    }

    fn show(&mut self, news: News) -> Result<Option<Ended>, Failure> {
        if self.manner.format == Format::Ndjson {
            return Ok(self.show_json(news));
        }
        match news {
            News::Bytes { task, chunk, .. } => {
                self.is_alive();
                if self.write(task, &chunk).is_err() {
                    return Ok(Some(Ended::StdoutClosed));
                }
                self.open_line = chunk.bytes.last() != Some(&b'\n');
            }
            News::Gone { refused, .. } => Failure::from(refused).print(self.manner.format),
            News::Done(info) => {
                self.is_alive();
                if self.tagger.as_mut().is_some_and(|tagger| tagger.flush().is_err()) {
                    return Ok(Some(Ended::StdoutClosed));
                }
                let code = self.code(&info);
                return Ok(Some(Ended::Done(info, code)));
            }
            News::Event(event) => self.heed(&event),
        }
        Ok(None)
    }

    fn show_json(&mut self, news: News) -> Option<Ended> {
        match news {
            News::Bytes { task, attempt, chunk } => tell!("{}", json::chunk(task, attempt, &chunk)),
            News::Event(event) => tell!("{}", json::event(&event)),
            News::Gone { task, attempt, position, refused } => {
                tell!("{}", json::gone(task, attempt, position, &refused));
            }
            News::Done(info) => {
                tell!("{}", json::done(&info));
                let code = self.code(&info);
                return Some(Ended::Done(info, code));
            }
        }
        None
    }

    fn write(&mut self, task: u32, chunk: &Chunk) -> std::io::Result<()> {
        let tagger = &mut self.tagger;
        let mut write = || match tagger {
            Some(tagger) => tagger.write(task, chunk),
            None => write_out(chunk),
        };
        match &self.progress {
            Some(progress) => progress.aside(write),
            None => write(),
        }
    }

    fn heed(&mut self, event: &TaskEvent) {
        match &event.kind {
            TaskEventKind::Started => {
                self.is_alive();
                if let Some(progress) = &mut self.progress {
                    progress.started();
                }
            }
            TaskEventKind::Ended(end) => {
                if let Some(progress) = &mut self.progress {
                    progress.ended(end.outcome.is_success());
                }
            }
            TaskEventKind::Queued
            | TaskEventKind::Cancelling(_)
            | TaskEventKind::Unknown(_)
            | TaskEventKind::Returned
            | TaskEventKind::AttemptLost(_) => {}
        }
        if let Some(text) = self.news_of(event).filter(|_| self.manner.speaks()) {
            self.is_alive();
            match &self.progress {
                Some(progress) => progress.aside(|| say!("{text}")),
                None => say!("{text}"),
            }
        }
    }

    /// What a person has to know of an event.
    fn news_of(&self, event: &TaskEvent) -> Option<String> {
        let id = match self.progress {
            Some(_) => format!("{}.{}", self.id, event.task),
            None => self.id.to_string(),
        };
        let worker = event.worker.as_deref().unwrap_or("its worker");
        match &event.kind {
            TaskEventKind::Unknown(elsewhere) => {
                let then = elsewhere.map_or_else(
                    || "waiting for it to return".to_owned(),
                    |after| format!("starts elsewhere in {}s unless {worker} comes back", after.as_secs()),
                );
                Some(format!("{id} unknown: worker {worker} has been silent for 15s; {then}"))
            }
            TaskEventKind::Returned => Some(format!("{id} running again: worker {worker} is back")),
            TaskEventKind::AttemptLost(reason) => {
                let reason = render::plain(reason.as_bytes(), 200);
                Some(format!("{id} lost on {worker} ({reason}); it starts again"))
            }
            TaskEventKind::Queued
            | TaskEventKind::Started
            | TaskEventKind::Cancelling(_)
            | TaskEventKind::Ended(_) => None,
        }
    }

    /// Our own Ctrl-C shows as 130, whatever it took to end the job.
    fn code(&self, info: &JobInfo) -> u8 {
        let outcome = info.task.as_ref().and_then(|task| task.end.as_ref()).map(|end| &end.outcome);
        let cancelled = matches!(outcome, None | Some(Outcome::Cancelled(_)));
        if self.interrupts > 0 && info.spec.array.is_none() && cancelled {
            return 130;
        }
        render::job_exit_code(info)
    }

    /// The first Ctrl-C interrupts the job, the second kills it, the third gives up waiting for that: then `false`.
    fn interrupted(&mut self, session: &Session) -> bool {
        self.interrupts += 1;
        if self.interrupts == INTERRUPTS_MAX {
            if !self.cancels.is_empty() && self.manner.speaks() {
                say!("  the pool has not answered: {} may go on", self.id);
            }
            return false;
        }
        // What has not started is gone at once, and says so by its end.
        let runs = matches!(self.waiting, Waiting::Over);
        if self.interrupts == 1 && runs && self.manner.speaks() && std::io::stderr().is_terminal() {
            say!("  cancelling {} (Ctrl-C again to kill)", self.id);
        }
        self.cancel(session, if self.interrupts == 1 { Cancel::Interrupt } else { Cancel::Kill });
        true
    }

    /// Cancels beside the watching, by a connection of its own: the present one may be what is lost.
    fn cancel(&mut self, session: &Session, how: Cancel) {
        let (mut own, id) = (session.another(), self.id);
        self.cancels.spawn_local(async move {
            // One that is over cannot be cancelled any more, and says so by its ending.
            cancel::cancel_jobs(&mut own, &[id], how).await.map(|_| ())
        });
    }

    fn tells_of_waiting(&self) -> bool {
        matches!(self.waiting, Waiting::Untold | Waiting::Transient)
            && self.manner.speaks()
            && self.progress.is_none()
            && std::io::stderr().is_terminal()
    }

    /// After half a second without a sign: why it does not run.
    async fn tell_of_waiting(&mut self, session: &mut Session) {
        // The pool may be away: then there is nothing to tell.
        let Ok(Ok(why)) = tokio::time::timeout(WAITING_AFTER, jobs::ask_why(session, self.id, 0)).await
        else {
            return;
        };
        if why.state != TaskState::Queued {
            return;
        }
        self.take_back();
        if why.fitting == 0 {
            say!("  {} queued · {}", self.id, unplaceable(&why));
            say!("    waiting for one to join · Ctrl-C cancels");
            self.waiting = Waiting::Told;
        } else {
            sentence(format_args!("  {} queued · {}", self.id, why.text));
            self.waiting = Waiting::Transient;
        }
    }

    /// The job has given a sign: whatever was said about its waiting has been answered.
    fn is_alive(&mut self) {
        self.take_back();
        self.waiting = Waiting::Over;
    }

    fn take_back(&self) {
        if matches!(self.waiting, Waiting::Transient) {
            sentence(format_args!("\r\x1b[2K"));
        }
    }

    fn clear(&mut self) {
        self.take_back();
        if let Some(progress) = &self.progress {
            progress.clear();
        }
    }
}

/// `no worker can run it: gpu=h100 (0 of 2 workers have it; seen: gpu=a100 ×1)`
fn unplaceable(why: &Why) -> String {
    let missing = why.terms.iter().find(|term| term.met == 0);
    match missing.filter(|_| why.workers > 0) {
        None => why.text.clone(),
        Some(term) => format!("{} ({})", why.text, jobs::offered(term, why.workers)),
    }
}
