//! `logs`: the output of a job, live or ended.

use std::io::Write;

use clap::Args;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::follow::{FollowWhat, Following, News, write_out};
use super::super::selector::Recent;
use super::super::tagger::Tagger;
use super::super::watch::{Style, Watch};
use super::super::{Format, Manner, render};
use super::{job_info, select};
use crate::core::id::JobId;
use crate::core::output::{Chunk, Stream};
use crate::say::STDOUT_CLOSED;

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
        let all = args.tail.is_none() && !args.stdout && !args.stderr;
        let code = if all && (args.follow || manner.format == Format::Ndjson) {
            let style = if args.tag { Style::Tagged } else { Style::Plain };
            let ended = Watch::new(selected.job, what, None, style, manner).look_on(session).await?;
            if args.follow { ended.exit_code() } else { 0 }
        } else {
            print(session, selected.job, what, args).await?
        };
        if code != 0 {
            return Ok(code);
        }
    }
    Ok(0)
}

async fn print(session: &mut Session, job: JobId, what: FollowWhat, args: &LogsArgs) -> Result<u8, Failure> {
    let mut following = Following::new(job, what);
    let mut tagger = Tagger::new(job);
    let mut kept: Vec<(u32, Chunk)> = Vec::new();
    let mut gone = None;
    loop {
        match following.next(session).await? {
            News::Bytes { task, chunk, .. } => {
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
                    tagger.write(task, &chunk)
                } else {
                    write_out(&chunk)
                };
                if written.is_err() {
                    return Ok(STDOUT_CLOSED);
                }
            }
            News::Gone { refused, .. } => gone = Some(refused),
            News::Event(_) => {}
            News::Done(_) => break,
        }
    }
    if let Some(lines) = args.tail {
        let bytes: Vec<u8> = kept.iter().flat_map(|(_, chunk)| chunk.bytes.iter().copied()).collect();
        std::io::stdout().write_all(last_lines(&bytes, lines))?;
    }
    if tagger.flush().is_err() {
        return Ok(STDOUT_CLOSED);
    }
    gone.map_or(Ok(0), |refused| Err(refused.into()))
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
            News::Bytes { chunk, .. } if chunk.stream == Stream::Stderr => bytes.extend(chunk.bytes),
            News::Done(_) => break,
            News::Bytes { .. } | News::Gone { .. } | News::Event(_) => {}
        }
    }
    let tail = last_lines(&bytes, lines);
    Ok(tail
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| render::plain(line, 400))
        .collect())
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
