//! `cancel`, `abandon` and `retry`: deciding about jobs.

use std::io::{BufRead, IsTerminal};

use clap::Args;

use super::super::Manner;
use super::super::connection::{Session, request_id};
use super::super::error::{Failure, check_refused};
use super::super::selector::{Recent, Selected};
use super::{job_handle, list, select, tell_done};
use crate::core::id::JobId;
use crate::core::outcome::Cancel;
use crate::core::refusal::Refusal;
use crate::core::view::{JobFilter, TaskState};
use crate::wire;

/// `cancel`.
#[derive(Args, Clone, Debug, Default)]
pub struct CancelArgs {
    /// All live jobs of this name
    #[arg(long)]
    pub name: Option<String>,
    /// All live jobs
    #[arg(long)]
    pub all: bool,
    /// Kill at once instead of TERM and KILL after 10 s
    #[arg(long)]
    pub kill: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Jobs, as 42, 42.7, 1-5,8, last
    #[arg(required_unless_present_any = ["name", "all"])]
    pub ids: Vec<String>,
}

/// `abandon`.
#[derive(Args, Clone, Debug)]
pub struct AbandonArgs {
    /// Jobs whose unknown attempts are given up, as 42, 42.7
    #[arg(required = true)]
    pub ids: Vec<String>,
}

/// `retry`.
#[derive(Args, Clone, Debug, Default)]
pub struct RetryArgs {
    /// Only the failed tasks of this job
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    pub failed_of: Option<String>,
    /// A job, as 42, last
    #[arg(required_unless_present = "failed_of")]
    pub id: Option<String>,
}

/// Cancels whole jobs; what came of each. A connection that is lost is made again: a cancel may be repeated.
///
/// # Errors
/// When the pool cannot be asked.
pub async fn cancel_jobs(
    session: &mut Session,
    ids: &[JobId],
    how: Cancel,
) -> Result<Vec<(JobId, Option<Refusal>)>, Failure> {
    loop {
        let pool = session.pool().await?;
        let mut request = pool.cancel_request();
        request.get().set_how(wire::outcome::write_cancel(how));
        let mut list = request.get().init_ids(wire::text::count(ids));
        for (n, id) in (0..).zip(ids) {
            list.set(n, id.0);
        }
        let answer = match request.send().promise.await {
            Err(error) if error.kind == capnp::ErrorKind::Disconnected => {
                session.disconnect();
                continue;
            }
            other => other?,
        };
        let mut results = Vec::new();
        for result in answer.get()?.get_results()? {
            let refused =
                result.has_refused().then(|| wire::refusal::read(result.get_refused()?)).transpose()?;
            results.push((JobId(result.get_job()), refused));
        }
        return Ok(results);
    }
}

/// Cancels what was named.
///
/// # Errors
/// When there is no such job, or it has ended already.
pub async fn cancel(
    session: &mut Session,
    args: &CancelArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    let by_property = args.all || args.name.is_some();
    let selected = if by_property {
        let live = [TaskState::Queued, TaskState::Starting, TaskState::Running, TaskState::Unknown];
        let filter = JobFilter { all: true, states: live.to_vec(), name: args.name.clone(), since: None };
        let (jobs, _) = list(session, &filter, u32::MAX).await?;
        jobs.iter().map(|job| Selected { job: job.id, tasks: Vec::new() }).collect()
    } else {
        select(session, &args.ids, recent).await?
    };
    if by_property && selected.len() > 1 && !args.yes && !confirm(selected.len())? {
        return Ok(1);
    }
    let how = if args.kill { Cancel::Kill } else { Cancel::Terminate };
    let (mut done, mut failed) = (Vec::new(), None);
    for one in &selected {
        let refused = if one.tasks.is_empty() {
            cancel_jobs(session, &[one.job], how).await?.pop().and_then(|(_, refused)| refused)
        } else {
            cancel_tasks(session, one, how).await?
        };
        match refused {
            None => done.push(one.to_string()),
            Some(refused) => failed = Some(refused),
        }
    }
    if !done.is_empty() {
        let document = serde_json::json!({ "v": 1, "cancelled": done });
        tell_done(manner, &format!("cancelled {}", done.join(", ")), &done.join("\n"), document);
    }
    failed.map_or(Ok(0), |refused| Err(refused.into()))
}

async fn cancel_tasks(
    session: &mut Session,
    one: &Selected,
    how: Cancel,
) -> Result<Option<Refusal>, Failure> {
    let handle = job_handle(session, one.job).await?;
    let mut request = handle.cancel_request();
    request.get().set_how(wire::outcome::write_cancel(how));
    wire::fence::write_ranges(&one.tasks, request.get().init_tasks(wire::text::count(&one.tasks)));
    let answer = request.send().promise.await?;
    let result = answer.get()?.get_result()?;
    Ok(result.has_refused().then(|| wire::refusal::read(result.get_refused()?)).transpose()?)
}

/// Asks on a terminal; elsewhere somebody must have said --yes.
fn confirm(count: usize) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("usage", format!("this would cancel {count} jobs")).hint("--yes"));
    }
    crate::say::sentence(format_args!("cancel {count} jobs? [y/N] "));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Gives up unknown attempts.
///
/// # Errors
/// When there is no such job, or none of it is unknown.
pub async fn abandon(
    session: &mut Session,
    args: &AbandonArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    let mut done = Vec::new();
    for one in select(session, &args.ids, recent).await? {
        let handle = job_handle(session, one.job).await?;
        let mut request = handle.abandon_request();
        wire::fence::write_ranges(&one.tasks, request.get().init_tasks(wire::text::count(&one.tasks)));
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check_refused(answer.has_refused(), answer.get_refused())?;
        done.push(one.to_string());
    }
    let document = serde_json::json!({ "v": 1, "abandoned": done });
    tell_done(manner, &format!("abandoned {}", done.join(", ")), &done.join("\n"), document);
    Ok(0)
}

/// Submits a job again; the new id is announced as soon as it is known.
///
/// # Errors
/// When there is no such job, or no task of it failed.
pub async fn retry(
    session: &mut Session,
    args: &RetryArgs,
    recent: Recent,
    mut announce: impl FnMut(JobId),
) -> Result<(), Failure> {
    let only_failed = args.failed_of.is_some();
    let word = args.failed_of.clone().or_else(|| args.id.clone()).unwrap_or_default();
    for one in select(session, &[word], recent).await? {
        if !one.tasks.is_empty() {
            let text = format!("tasks of {} cannot be retried one by one", one.job);
            return Err(Failure::new("usage", text)
                .hint(format!("clusterctl retry {0}, or --failed-of {0} for those that failed", one.job)));
        }
        let handle = job_handle(session, one.job).await?;
        let mut request = handle.retry_request();
        request.get().set_request(&request_id()?);
        request.get().set_only_failed(only_failed);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check_refused(answer.has_refused(), answer.get_refused())?;
        announce(JobId(answer.get_job()));
    }
    Ok(())
}
