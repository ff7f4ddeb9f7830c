//! `logs`: the output of a job, live or ended.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::follow::{FollowWhat, Following, News, write_out};
use super::super::selector::Recent;
use super::super::{Manner, render};
use super::run::{Ended, Watch};
use super::{job_info, select};
use crate::core::id::JobId;
use crate::core::output::{Chunk, Stream};

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
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Lines of all tasks, with their id in front
    #[arg(long)]
    pub tag: bool,
    /// Only tasks that failed
    #[arg(long)]
    pub failed: bool,
    /// Only this attempt
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// A job, as 42, 42.7, last
    #[arg(default_value = "last")]
    pub id: String,
}

/// Prints output.
///
/// # Errors
/// When there is no such job, or its output is no longer kept.
pub async fn logs(
    session: &mut Session,
    args: &LogsArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    for selected in select(session, std::slice::from_ref(&args.id), recent).await? {
        let info = job_info(session, selected.job).await?;
        let tasks = if args.failed { info.failed.clone() } else { selected.tasks };
        if args.failed && tasks.is_empty() {
            continue;
        }
        let what = FollowWhat {
            tasks,
            live: info.spec.array.is_none() || args.tag,
            attempt: args.attempt,
            until_now: !args.follow,
        };
        let plain = args.tail.is_none() && !args.stdout && !args.stderr;
        if args.follow && plain {
            let mut watch = Watch::new(selected.job, what, args.tag, manner)?;
            // Whoever only looks on never cancels: the first Ctrl-C ends us as it ends everybody.
            return Ok(match watch.only_look(session).await? {
                Ended::Done(info) => render::job_exit_code(&info),
                Ended::StdoutClosed => 141,
                Ended::GivenUp => 130,
            });
        }
        if let Some(code) = print(session, selected.job, what, args).await? {
            return Ok(code);
        }
    }
    Ok(0)
}

async fn print(
    session: &mut Session,
    job: JobId,
    what: FollowWhat,
    args: &LogsArgs,
) -> Result<Option<u8>, Failure> {
    let mut following = Following::new(job, what);
    let mut tagger = Tagger::default();
    let mut kept: Vec<(u32, Chunk)> = Vec::new();
    let mut gone = None;
    loop {
        match following.next(session).await? {
            News::Bytes(task, chunk) => {
                let wanted = match chunk.stream {
                    Stream::Stdout => !args.stderr,
                    Stream::Stderr => !args.stdout,
                };
                if !wanted {
                    continue;
                }
                let written = if args.tail.is_some() {
                    kept.push((task, chunk));
                    Ok(())
                } else if args.tag {
                    tagger.write(job, task, &chunk)
                } else {
                    write_out(&chunk)
                };
                if written.is_err() {
                    return Ok(Some(141));
                }
            }
            News::Gone(_, refused) => gone = Some(refused),
            News::Event(_) => {}
            News::Done(_) => break,
        }
    }
    if let Some(lines) = args.tail {
        let bytes: Vec<u8> = kept.iter().flat_map(|(_, chunk)| chunk.bytes.iter().copied()).collect();
        std::io::stdout().write_all(last_lines(&bytes, lines))?;
    }
    if tagger.flush().is_err() {
        return Ok(Some(141));
    }
    gone.map_or(Ok(None), |refused| Err(refused.into()))
}

impl Watch {
    /// Watches to the end without a hand on the job: Ctrl-C ends us alone.
    ///
    /// # Errors
    /// When the job cannot be followed.
    pub async fn only_look(&mut self, session: &mut Session) -> Result<Ended, Failure> {
        self.look_on(session).await
    }
}

/// The last lines of a text.
fn last_lines(bytes: &[u8], lines: usize) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    match lines.checked_sub(1) {
        None => &[],
        Some(before) => ends.nth(before).map_or(bytes, |at| &bytes[at + 1..]),
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
    let mut bytes = Vec::new();
    loop {
        match following.next(session).await? {
            News::Bytes(_, chunk) if chunk.stream == Stream::Stderr => bytes.extend(chunk.bytes),
            News::Done(_) => break,
            News::Bytes(..) | News::Gone(..) | News::Event(_) => {}
        }
    }
    let tail = last_lines(&bytes, lines);
    Ok(tail
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| render::plain(line, 400))
        .collect())
}

/// Puts a task's id in front of each of its lines: `42.7│`.
#[derive(Debug, Default)]
pub struct Tagger {
    /// What has no end of line yet, by task and stream.
    open: BTreeMap<(u32, Stream), (JobId, Vec<u8>)>,
}

impl Tagger {
    /// Writes the lines that a chunk completes.
    ///
    /// # Errors
    /// When nobody reads our output any longer.
    pub fn write(&mut self, job: JobId, task: u32, chunk: &Chunk) -> std::io::Result<()> {
        let (_, open) = self.open.entry((task, chunk.stream)).or_insert((job, Vec::new()));
        open.extend(&chunk.bytes);
        let Some(end) = open.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = open.split_off(end + 1);
        let whole = std::mem::replace(open, rest);
        print_lines(job, task, chunk.stream, &whole)
    }

    /// Writes what has no end of line.
    ///
    /// # Errors
    /// When nobody reads our output any longer.
    pub fn flush(&mut self) -> std::io::Result<()> {
        for ((task, stream), (job, open)) in std::mem::take(&mut self.open) {
            if !open.is_empty() {
                print_lines(job, task, stream, &open)?;
            }
        }
        Ok(())
    }
}

fn print_lines(job: JobId, task: u32, stream: Stream, lines: &[u8]) -> std::io::Result<()> {
    let mut text = Vec::with_capacity(lines.len() * 2);
    for line in lines.strip_suffix(b"\n").unwrap_or(lines).split(|byte| *byte == b'\n') {
        text.extend(format!("{job}.{task}│").as_bytes());
        text.extend(line);
        text.push(b'\n');
    }
    match stream {
        Stream::Stdout => std::io::stdout().lock().write_all(&text),
        Stream::Stderr => std::io::stderr().lock().write_all(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 1), b"c");
        assert_eq!(last_lines(b"a\n", 9), b"a\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
    }
}
