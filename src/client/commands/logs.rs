//! `logs`: the output of a job, live or ended.

use clap::Args;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::follow::{FollowWhat, Following, News};
use super::super::selector::{Recent, Selected};
use super::super::tagger::Tagger;
use super::super::tail::Tail;
use super::super::watch::{Ended, Style, Subject, Watch, unless_closed};
use super::super::{Format, Manner, out, render};
use super::jobs::{for_tasks, no_such_task};
use super::{job_info, select};
use crate::core::id::JobId;
use crate::core::outcome::Outcome;
use crate::core::output::{Chunk, Stream};
use crate::core::view::JobInfo;
use crate::say::say;

/// `logs`.
#[derive(Args, Clone, Debug, Default)]
pub struct LogsArgs {
    /// Go on as it grows, until the job ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only standard output
    #[arg(long, conflicts_with = "stderr")]
    pub stdout: bool,
    /// Only standard error
    #[arg(long)]
    pub stderr: bool,
    /// Only the last lines, and with -f what comes after them
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Lines with the id of their job or task in front
    #[arg(long)]
    pub tag: bool,
    /// Only tasks that failed
    #[arg(long)]
    pub failed: bool,
    /// Only this attempt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
    /// A job, as 42, 42.7, last
    #[arg(default_value = "last")]
    pub id: String,
}

impl LogsArgs {
    /// Whether something is left out.
    fn picks(&self) -> bool {
        self.tail.is_some() || self.stdout || self.stderr
    }

    fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => !self.stderr,
            Stream::Stderr => !self.stdout,
        }
    }
}

/// Prints output.
///
/// # Errors
/// When there is no such job.
pub async fn logs(
    session: &mut Session,
    args: &LogsArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    for selected in select(session, std::slice::from_ref(&args.id), recent).await? {
        let info = job_info(session, selected.job).await?;
        let attempt = args.attempt.filter(|_| info.ended.is_some() || !args.follow);
        // An array as a whole may have a million tasks: it is looked through only if nothing came of it.
        let is_looked_through =
            info.spec.array.is_some() && selected.tasks.is_empty() && info.started.is_some();
        if let Some(attempt) = attempt.filter(|_| !is_looked_through) {
            check_attempt(session, &selected, &info, attempt).await?;
        }
        let tasks = if args.failed { info.failed.clone() } else { selected.tasks.clone() };
        if args.failed && tasks.is_empty() {
            continue;
        }
        let live = info.spec.array.is_none() || args.tag;
        let what = FollowWhat { tasks, live, attempt: args.attempt, until_now: !args.follow };
        let style = if args.tag { Style::Tagged } else { Style::Plain };
        let subject = Subject::of(selected.job, &info.spec);
        let (ended, has_come) = if args.picks() && manner.format != Format::Ndjson {
            let mut printer = Printer::new(subject, args);
            (pick(session, (subject, what), args, &mut printer).await?, printer.has_come)
        } else {
            let mut watch = Watch::without_progress(subject, what, style, manner);
            (watch.look_on(session).await?, watch.has_shown_bytes())
        };
        match ended {
            Ended::Done(info, _) => {
                tell_if_lost(&info);
                if let Some(attempt) = attempt.filter(|_| is_looked_through && !has_come) {
                    check_attempt(session, &selected, &info, attempt).await?;
                }
            }
            Ended::StdoutClosed | Ended::GivenUp => return Ok(ended.exit_code()),
        }
    }
    Ok(0)
}

/// Fails if none of these tasks has had that attempt.
async fn check_attempt(
    session: &mut Session,
    selected: &Selected,
    info: &JobInfo,
    attempt: u32,
) -> Result<(), Failure> {
    let all = || vec![(0, u32::MAX)];
    let tasks = if selected.tasks.is_empty() { all() } else { selected.tasks.clone() };
    if !tasks.iter().any(|(first, last)| info.spec.has_task_in(*first, *last)) {
        return Err(no_such_task(selected.job));
    }
    let mut newest = 0;
    if info.started.is_some() {
        let looked_at = Selected { job: selected.job, tasks };
        for_tasks(session, &looked_at, |task| newest = newest.max(task.attempt)).await?;
    }
    if attempt <= newest {
        return Ok(());
    }
    let there = match newest {
        0 if info.ended.is_some() => "it never started".to_owned(),
        0 => "it has not started".to_owned(),
        1 => "there is attempt 1 alone".to_owned(),
        newest => format!("there are attempts 1 to {newest}"),
    };
    Err(Failure::new("no-such-attempt", format!("{selected} has had no attempt {attempt}: {there}")))
}

/// Whoever reads output of a job that was lost is told that it is its beginning.
fn tell_if_lost(info: &JobInfo) {
    let end = info.task.as_ref().and_then(|task| task.end.as_ref());
    if let Some(Outcome::Lost(reason)) = end.map(|end| &end.outcome) {
        say!("{} lost: {reason}", info.id);
    }
}

/// Prints one of the streams, or the last lines and then what comes.
async fn pick(
    session: &mut Session,
    (subject, what): (Subject, FollowWhat),
    args: &LogsArgs,
    printer: &mut Printer,
) -> Result<Ended, Failure> {
    let mut following =
        Following::new(subject.id(), FollowWhat { until_now: what.until_now || args.tail.is_some(), ..what });
    let mut tail = args.tail.map(Tail::new);
    loop {
        let news = following.next(session).await?;
        printer.has_come |= matches!(news, News::Bytes { .. });
        let written = match news {
            News::Bytes { chunk, .. } if !args.wants(chunk.stream) => Ok(()),
            News::Bytes { task, chunk, .. } => match &mut tail {
                None => printer.write(task, &chunk),
                Some(tail) => {
                    tail.push(task, chunk);
                    Ok(())
                }
            },
            News::Gone { refused, .. } => {
                Failure::from(refused).print(Format::Human);
                Ok(())
            }
            News::Event(_) => Ok(()),
            News::Done(info) => {
                let last = tail.take().map_or_else(Vec::new, Tail::finish);
                let written = last.iter().try_for_each(|(task, chunk)| printer.write(*task, chunk));
                if let Some(ended) = unless_closed(written.and_then(|()| printer.flush()))? {
                    return Ok(ended);
                }
                if info.ended.is_some() || !args.follow {
                    return Ok(Ended::Done(info, 0));
                }
                following.go_on();
                Ok(())
            }
        };
        if let Some(ended) = unless_closed(written)? {
            return Ok(ended);
        }
    }
}

/// Where bytes go.
struct Printer {
    tagger: Option<Tagger>,
    /// Whether there were bytes at all, of those that are left out too.
    has_come: bool,
}

impl Printer {
    fn new(subject: Subject, args: &LogsArgs) -> Self {
        Self { tagger: args.tag.then(|| Tagger::new(subject.id(), subject.tasks())), has_come: false }
    }

    fn write(&mut self, task: u32, chunk: &Chunk) -> std::io::Result<()> {
        match &mut self.tagger {
            Some(tagger) => tagger.write(task, chunk),
            None => out::write(chunk.stream, &chunk.bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.tagger.as_mut().map_or(Ok(()), Tagger::flush)
    }
}

/// The last lines of a task's standard error, fit for a terminal.
pub(super) async fn tail_of_stderr(
    session: &mut Session,
    job: JobId,
    task: u32,
    lines: usize,
) -> Result<Vec<String>, Failure> {
    let what = FollowWhat { tasks: vec![(task, task)], until_now: true, ..FollowWhat::default() };
    let mut following = Following::new(job, what);
    let mut tail = Tail::new(lines);
    loop {
        match following.next(session).await? {
            News::Bytes { task, chunk, .. } if chunk.stream == Stream::Stderr => tail.push(task, chunk),
            News::Done(_) => break,
            News::Bytes { .. } | News::Gone { .. } | News::Event(_) => {}
        }
    }
    let bytes: Vec<u8> = tail.finish().into_iter().flat_map(|(_, chunk)| chunk.bytes).collect();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(|line| render::plain(line, 400)).collect())
}
