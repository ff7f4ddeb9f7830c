//! Staying with a job: its output on ours, its news as sentences, and the keys and signals of whoever stays.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::Duration;

use tokio::task::JoinSet;

use super::commands::{cancel, jobs};
use super::connection::Session;
use super::error::Failure;
use super::follow::{FollowWhat, Following, News};
use super::hand::{Hand, INTERRUPTS_MAX, Sign};
use super::progress::Progress;
use super::tagger::{Tagger, Tasks};
use super::{Format, Manner, json, out, render};
use crate::core::id::JobId;
use crate::core::job::{Array, JobSpec};
use crate::core::outcome::{Cancel, Outcome};
use crate::core::output::Chunk;
use crate::core::refusal::os_words;
use crate::core::view::{JobInfo, TaskEvent, TaskEventKind, TaskState, Why};
use crate::say::{STDOUT_CLOSED, say, sentence, tell};

/// After so long without a sign a job that waits is told of.
const WAITING_AFTER: Duration = Duration::from_millis(500);
/// And so long after that, and after each time, once more: what it waits for may have changed.
const WAITING_AGAIN: Duration = Duration::from_millis(2500);
/// Where standard error is no terminal, one line that stays says that no worker can run it, after so long;
const UNPLACEABLE_TOLD_AFTER: Duration = Duration::from_secs(3);
/// and that all are busy, or the like, after so long.
const WAITING_TOLD_AFTER: Duration = Duration::from_secs(30);
/// A cancel that a closed standard output asks for is given so long to reach the pool.
const LAST_CANCEL: Duration = Duration::from_secs(10);

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

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    id: JobId,
    /// Its first task's index.
    first: u32,
    /// Of an array, how many.
    tasks: Option<u64>,
    /// How many attempts a task has.
    attempts: u64,
}

impl Subject {
    /// A job of this spec.
    pub fn of(id: JobId, spec: &JobSpec) -> Self {
        let first = spec.array.as_ref().map_or(0, |array| array.ranges()[0].0);
        Self { id, first, tasks: spec.array.as_ref().map(Array::len), attempts: u64::from(spec.retries) + 1 }
    }

    /// Which job.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether its tasks are told from each other.
    pub fn tasks(&self) -> Tasks {
        if self.tasks.is_some() { Tasks::Many } else { Tasks::One }
    }
}

/// Staying with a job.
pub struct Watch {
    subject: Subject,
    following: Following,
    manner: Manner,
    tagger: Option<Tagger>,
    progress: Option<Progress>,
    waiting: Waiting,
    /// What was lost and has not started again.
    lost: BTreeMap<u32, String>,
    workers: BTreeSet<String>,
    interrupts: u32,
    cancels: JoinSet<Result<(), Failure>>,
    has_shown_bytes: bool,
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
    Hand(Sign),
    StillWaiting,
    Cancelled(Result<(), Failure>),
}

impl Watch {
    /// Begins to watch.
    pub fn new(subject: Subject, what: FollowWhat, style: Style, manner: Manner) -> Self {
        let progress = subject.tasks.filter(|_| manner.speaks());
        let progress = progress.map(|total| Progress::new(subject.id, total));
        Self { progress, ..Self::without_progress(subject, what, style, manner) }
    }

    /// Begins to watch a job that somebody else runs.
    pub fn without_progress(subject: Subject, what: FollowWhat, style: Style, manner: Manner) -> Self {
        let id = subject.id;
        Self {
            subject,
            following: Following::new(id, what),
            manner,
            tagger: (style == Style::Tagged).then(|| Tagger::new(id, subject.tasks())),
            progress: None,
            waiting: Waiting::Untold,
            lost: BTreeMap::new(),
            workers: BTreeSet::new(),
            interrupts: 0,
            cancels: JoinSet::new(),
            has_shown_bytes: false,
            open_line: false,
        }
    }

    /// Watches to the end with a hand on the job: SIGINT, SIGTERM and a closed standard output cancel it, SIGHUP ends us
    /// alone.
    ///
    /// # Errors
    /// When the job cannot be followed.
    pub async fn to_end(&mut self, session: &mut Session, hand: &mut Hand) -> Result<Ended, Failure> {
        let began = tokio::time::Instant::now();
        let mut look = tokio::time::interval_at(began + WAITING_AFTER, WAITING_AGAIN);
        let ended = loop {
            let event = tokio::select! {
                biased;
                sign = hand.next() => Event::Hand(sign),
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
                Event::Hand(Sign::Interrupt) => {
                    if !self.interrupted(session) {
                        break Ended::GivenUp;
                    }
                }
                Event::Hand(Sign::Terminate) => self.cancel(session, Cancel::Terminate),
                Event::StillWaiting => self.tell_of_waiting(session, began.elapsed()).await,
                Event::Cancelled(done) => done?,
            }
        };
        self.clear();
        if matches!(ended, Ended::StdoutClosed) {
            // That nobody reads is no reason to lose the cancel; a pool that is away is.
            let ids = [self.subject.id];
            let last = cancel::cancel_jobs(session, &ids, Cancel::Interrupt);
            let _ = tokio::time::timeout(LAST_CANCEL, last).await;
        }
        Ok(ended)
    }

    /// Watches to the end without a hand on the job: an interrupt ends us alone.
    ///
    /// # Errors
    /// When the job cannot be followed.
    pub async fn look_on(&mut self, session: &mut Session) -> Result<Ended, Failure> {
        let mut hand = Hand::take()?;
        let ended = loop {
            let news = tokio::select! {
                news = self.following.next(session) => news?,
                _ = hand.next() => break Ended::GivenUp,
            };
            if let Some(ended) = self.show(news)? {
                break ended;
            }
        };
        self.clear();
        Ok(ended)
    }

    /// How many workers the job has been at.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What was asked of the pool, and not answered yet: whoever goes on may wait for it in our place.
    pub fn cancels(&mut self) -> JoinSet<Result<(), Failure>> {
        std::mem::take(&mut self.cancels)
    }

    /// Whether there was any output.
    pub fn has_shown_bytes(&self) -> bool {
        self.has_shown_bytes
    }

    /// Whether the last byte that was shown did not end its line.
    pub fn ends_inside_a_line(&self) -> bool {
        self.open_line && std::io::stdout().is_terminal()
    }

    fn show(&mut self, news: News) -> Result<Option<Ended>, Failure> {
        self.has_shown_bytes |= matches!(news, News::Bytes { .. });
        if self.manner.format == Format::Ndjson {
            return Ok(self.show_json(news));
        }
        match news {
            News::Bytes { task, chunk, .. } => {
                self.is_alive();
                if let Some(ended) = self.write(task, &chunk)? {
                    return Ok(Some(ended));
                }
                self.open_line = chunk.bytes.last() != Some(&b'\n');
            }
            News::Gone { refused, .. } => Failure::from(refused).print(self.manner.format),
            News::Done(info) => {
                self.is_alive();
                let flushed = self.tagger.as_mut().map_or(Ok(()), Tagger::flush);
                if let Some(ended) = unless_closed(flushed)? {
                    return Ok(Some(ended));
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

    fn write(&mut self, task: u32, chunk: &Chunk) -> Result<Option<Ended>, Failure> {
        let tagger = &mut self.tagger;
        let mut write = || match tagger {
            Some(tagger) => tagger.write(task, chunk),
            None => out::write(chunk.stream, &chunk.bytes),
        };
        unless_closed(match &self.progress {
            Some(progress) => progress.aside(write),
            None => write(),
        })
    }

    fn heed(&mut self, event: &TaskEvent) {
        match &event.kind {
            TaskEventKind::Started => {
                self.is_alive();
                self.workers.extend(event.worker.clone());
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
    fn news_of(&mut self, event: &TaskEvent) -> Option<String> {
        let id = match self.subject.tasks {
            Some(_) => format!("{}.{}", self.subject.id, event.task),
            None => self.subject.id.to_string(),
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
                // Told when it has started again, with where.
                let reason = render::plain(reason.as_bytes(), 200);
                self.lost.insert(event.task, format!("{id} lost on {worker} ({reason})"));
                None
            }
            TaskEventKind::Started => self.lost.remove(&event.task).map(|lost| {
                let (attempt, attempts) = (event.attempt, self.subject.attempts);
                format!("{lost}; started again on {worker} (attempt {attempt} of {attempts})")
            }),
            TaskEventKind::Queued | TaskEventKind::Cancelling(_) | TaskEventKind::Ended(_) => None,
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
            if self.manner.speaks() {
                if self.cancels.is_empty() {
                    say!("  {} is cancelled, and ends when its worker hears of it", self.subject.id);
                } else {
                    say!("  the pool has not answered: {} may go on", self.subject.id);
                }
            }
            return false;
        }
        // What has not started is gone at once, and says so by its end.
        let runs = matches!(self.waiting, Waiting::Over);
        if runs && self.manner.speaks() && std::io::stderr().is_terminal() {
            match self.interrupts {
                1 => say!("  cancelling {} (Ctrl-C again to kill)", self.subject.id),
                // Where its worker is silent that may never be heard.
                _ => say!("  killing {} (Ctrl-C again to leave it)", self.subject.id),
            }
        }
        self.cancel(session, if self.interrupts == 1 { Cancel::Interrupt } else { Cancel::Kill });
        true
    }

    /// Cancels beside the watching, by a connection of its own: the present one may be what is lost.
    fn cancel(&mut self, session: &Session, how: Cancel) {
        let (mut own, id) = (session.another(), self.subject.id);
        self.cancels.spawn_local(async move {
            let results = cancel::cancel_jobs(&mut own, &[id], how).await?;
            let refused = results.into_iter().find_map(|(_, refused)| refused);
            // One that is over cannot be cancelled any more, and says so by its ending.
            refused.filter(|refused| refused.code != "not-running").map_or(Ok(()), |why| Err(why.into()))
        });
    }

    fn tells_of_waiting(&self) -> bool {
        matches!(self.waiting, Waiting::Untold | Waiting::Transient)
            && self.manner.speaks()
            && self.progress.is_none()
    }

    /// After half a second without a sign: why it does not run. What is no terminal is told later, and once.
    async fn tell_of_waiting(&mut self, session: &mut Session, waited: Duration) {
        let is_terminal = std::io::stderr().is_terminal();
        if !is_terminal && waited < UNPLACEABLE_TOLD_AFTER {
            return;
        }
        // The pool may be away: then there is nothing to tell.
        let Ok(Ok(why)) =
            tokio::time::timeout(WAITING_AFTER, jobs::ask_why(session, self.subject.id, self.subject.first))
                .await
        else {
            return;
        };
        if why.state != TaskState::Queued {
            return;
        }
        if !is_terminal {
            if let Some(reason) = lasting(&why, waited) {
                say!("{} queued · {reason}", self.subject.id);
                self.waiting = Waiting::Told;
            }
            return;
        }
        self.take_back();
        if why.fitting == 0 {
            say!("  {} queued · {}", self.subject.id, unplaceable(&why));
            say!("    waiting for one to join · Ctrl-C cancels");
            self.waiting = Waiting::Told;
        } else {
            sentence(format_args!("  {} queued · {}", self.subject.id, why.text));
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

/// Why a job goes on to wait, if that is worth a line that stays.
fn lasting(why: &Why, waited: Duration) -> Option<String> {
    if why.fitting == 0 {
        return (waited >= UNPLACEABLE_TOLD_AFTER).then(|| unplaceable(why));
    }
    (waited >= WAITING_TOLD_AFTER).then(|| why.text.clone())
}

/// A reader that has gone ends a watching; anything else that goes wrong with our own output is an error.
///
/// # Errors
/// When our output cannot be written, although somebody reads it.
pub fn unless_closed(written: std::io::Result<()>) -> Result<Option<Ended>, Failure> {
    match written {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Some(Ended::StdoutClosed)),
        Err(error) => Err(Failure::new("io", format!("cannot write output: {}", os_words(&error)))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_hears_soon_that_nobody_can_run_it_and_late_that_all_are_busy() {
        let busy = Why {
            state: TaskState::Queued,
            text: "3 ahead".into(),
            ahead: 3,
            terms: Vec::new(),
            fitting: 1,
            workers: 1,
        };
        let nobody = Why { text: "no worker is connected".into(), fitting: 0, workers: 0, ..busy.clone() };
        let after = |why, seconds| lasting(why, Duration::from_secs(seconds));

        assert_eq!([after(&nobody, 2), after(&busy, 29)], [None, None]);
        assert_eq!(after(&nobody, 3).as_deref(), Some("no worker is connected"));
        assert_eq!(after(&busy, 30).as_deref(), Some("3 ahead"));
    }
}
