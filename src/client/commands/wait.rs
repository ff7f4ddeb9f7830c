//! `wait`: until jobs have ended.

use std::time::Duration;

use clap::Args;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::selector::Recent;
use super::super::{Format, Manner, Verbosity, duration, json, render};
use super::{job_info, select};
use crate::core::id::JobId;
use crate::say::{say, tell};
use crate::wire;

/// Jobs that are named when the time is over, and how long the pool has to tell of them.
const NAMED_MAX: usize = 5;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// `wait`.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// Give up after this time
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Jobs, as 42, 1-5,8, last
    #[arg(required = true)]
    pub ids: Vec<String>,
}

/// Waits; the exit code is the job's, or of several whether one of them failed.
///
/// # Errors
/// When there is no such job.
pub async fn wait(
    session: &mut Session,
    args: &WaitArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    let mut open = Vec::new();
    let all = wait_all(session, args, recent, manner, &mut open);
    let Some(timeout) = args.timeout else { return all.await };
    if let Ok(result) = tokio::time::timeout(timeout, all).await {
        return result;
    }
    let mut states = Vec::new();
    // A pool that is away does not keep us; what it has told by then is told.
    let asked = tokio::time::timeout(ANSWER_WITHIN, ask(session, &open, &mut states)).await;
    asked.unwrap_or(Ok(()))?;
    let states = if states.is_empty() { "no answer".to_owned() } else { states.join(", ") };
    say!("after {}: {states}", render::duration(timeout));
    Ok(124)
}

/// How far some of these jobs are, as `42 queued`. Fails if there is no such job.
async fn ask(session: &mut Session, open: &[u64], states: &mut Vec<String>) -> Result<(), Failure> {
    for id in open.iter().take(NAMED_MAX) {
        match job_info(session, JobId(*id)).await {
            Ok(info) => states.push(format!("{id} {}", info.counts.state().as_str())),
            Err(failure) if failure.refusal.code == "no-such-job" => return Err(failure),
            // One that cannot be asked for is left out.
            Err(_) => {}
        }
    }
    if open.len() > NAMED_MAX {
        states.push(format!("and {} more", open.len() - NAMED_MAX));
    }
    Ok(())
}

async fn wait_all(
    session: &mut Session,
    args: &WaitArgs,
    recent: Recent,
    manner: Manner,
    open: &mut Vec<u64>,
) -> Result<u8, Failure> {
    open.extend(select(session, &args.ids, recent).await?.iter().map(|one| one.job.0));
    open.sort_unstable();
    open.dedup();
    let single = open.len() == 1;
    let mut code = 0;
    while !open.is_empty() {
        let pool = session.pool().await?;
        let mut request = pool.wait_request();
        let asked = &open[..open.len().min(1000)];
        let mut ids = request.get().init_ids(wire::text::count(asked));
        for (n, id) in (0..).zip(asked) {
            ids.set(n, *id);
        }
        let answer = match request.send().promise.await {
            Err(error) if error.kind == capnp::ErrorKind::Disconnected => {
                session.disconnect();
                continue;
            }
            other => other?,
        };
        let answer = answer.get()?;
        if let Some(id) = answer.get_unknown()?.iter().next() {
            // Asked for by itself, it is refused in the pool's own words.
            return Err(match job_info(session, JobId(id)).await {
                Err(failure) => failure,
                Ok(_) => Failure::new("no-such-job", format!("no job {id}")),
            });
        }
        for info in answer.get_ended()? {
            let info = wire::job::read_info(info)?;
            open.retain(|id| *id != info.id.0);
            let own = render::job_exit_code(&info);
            code = if single { own } else { code.max(u8::from(own != 0)) };
            match manner.format {
                Format::Human if manner.verbosity == Verbosity::Quiet => tell!("{}", info.id),
                Format::Human if !single => say!("{} {}", info.id, info.counts.state().as_str()),
                Format::Human => {}
                Format::Json | Format::Ndjson => tell!("{}", json::job(&info)),
            }
        }
    }
    Ok(code)
}
