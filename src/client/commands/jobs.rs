//! `jobs`, `show` and `why`: looking at jobs.

use std::time::Duration;

use clap::Args;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::selector::Recent;
use super::super::{Format, Manner, Verbosity, json, render};
use super::{job_handle, job_info, list, select};
use crate::core::id::JobId;
use crate::core::time::WallTime;
use crate::core::view::{JobFilter, JobInfo, TaskState, TermCount, Why};
use crate::process::clock;
use crate::say::{say, tell};
use crate::wire;

/// `jobs`.
#[derive(Args, Clone, Debug, Default)]
pub struct JobsArgs {
    /// Every job, not only live ones and those of the last hour
    #[arg(short, long)]
    pub all: bool,
    /// Only jobs in these states; `--state failed` says the same
    #[arg(skip)]
    pub states: Vec<TaskState>,
    /// Only jobs of this name
    #[arg(long)]
    pub name: Option<String>,
    /// Only jobs submitted within this time, as 1h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<Duration>,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 100)]
    pub limit: u32,
}

/// `show`.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Jobs, as 42, 42.7, last
    #[arg(default_value = "last")]
    pub ids: Vec<String>,
}

/// `why`.
#[derive(Args, Clone, Debug)]
pub struct WhyArgs {
    /// A job, as 42, 42.7, last
    #[arg(default_value = "last")]
    pub id: String,
}

/// States as they are typed, with commas between them; none if one of the words is no state.
pub fn parse_states(text: &str) -> Option<Vec<TaskState>> {
    text.split(',').map(|word| TaskState::ALL.into_iter().find(|state| state.as_str() == word)).collect()
}

fn parse_since(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("\"{text}\" is no time; write 1h or 90m"))?;
    Duration::try_from(signed).map_err(|_| "a time cannot be negative".to_owned())
}

/// Lists jobs.
///
/// # Errors
/// When the pool cannot be asked.
pub async fn jobs(session: &mut Session, args: &JobsArgs, manner: Manner) -> Result<u8, Failure> {
    let now = clock::wall();
    let since =
        args.since.map(|since| WallTime(now.0 - i64::try_from(since.as_millis()).unwrap_or(i64::MAX)));
    let filter = JobFilter { all: args.all, states: args.states.clone(), name: args.name.clone(), since };
    let (jobs, older, _) = list(session, &filter, args.limit).await?;
    match (manner.format, manner.verbosity) {
        (Format::Human, Verbosity::Quiet) => jobs.iter().rev().for_each(|job| tell!("{}", job.id)),
        (Format::Human, Verbosity::Normal) => {
            if jobs.is_empty() {
                tell!("no jobs");
            } else {
                crate::say::result(format_args!("{}", render::jobs(&jobs, now)));
            }
            if older > 0 {
                say!("{older} older jobs hidden (--all)");
            }
        }
        (Format::Json, _) => {
            let all: Vec<_> = jobs.iter().rev().map(json::job).collect();
            tell!("{}", serde_json::Value::from(all));
        }
        (Format::Ndjson, _) => jobs.iter().rev().for_each(|job| tell!("{}", json::job(job))),
    }
    Ok(0)
}

/// Shows jobs in full.
///
/// # Errors
/// When there is no such job.
pub async fn show(
    session: &mut Session,
    args: &ShowArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    for selected in select(session, &args.ids, recent).await? {
        let info = job_info(session, selected.job).await?;
        match manner.format {
            Format::Json | Format::Ndjson => tell!("{}", json::job(&info)),
            Format::Human => show_one(session, &info).await?,
        }
    }
    Ok(0)
}

async fn show_one(session: &mut Session, info: &JobInfo) -> Result<(), Failure> {
    let state = info.counts.state();
    let name = info.spec.name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
    tell!("job {}{name}: {}", info.id, state.as_str());
    tell!("  owner      {}", info.owner);
    tell!("  submitted  {}", render::rfc3339(info.submitted));
    if let Some(queued) = info.queued {
        tell!("  queued     {}", render::duration(queued));
    }
    if !info.spec.constraint.is_any() {
        tell!("  where      {}", info.spec.constraint);
    }
    if let Some(array) = &info.spec.array {
        let counts = TaskState::ALL.iter().filter(|&&state| info.counts.of(state) > 0);
        let counts: Vec<String> =
            counts.map(|&state| format!("{} {}", info.counts.of(state), state.as_str())).collect();
        tell!("  array      {array}: {}", counts.join(", "));
    }
    if let Some(task) = &info.task {
        let worker = task.worker.as_deref().unwrap_or("-");
        tell!("  attempt    {} on {worker}", task.attempt);
        if let Some(end) = &task.end {
            let cpu = end.usage.cpu_user + end.usage.cpu_system;
            tell!("  ended      {}", render::outcome(&end.outcome));
            tell!(
                "  used       {} run, {} cpu, {:.1} MiB peak",
                render::duration(end.usage.run),
                render::duration(cpu),
                end.usage.peak_memory_bytes as f64 / f64::from(1 << 20)
            );
            tell!(
                "  output     {} bytes stdout, {} bytes stderr",
                end.totals.stdout_bytes,
                end.totals.stderr_bytes
            );
        }
    }
    if matches!(state, TaskState::Queued | TaskState::Unknown) {
        tell!("  waiting    {}", ask_why(session, info.id, 0).await?.text);
    }
    tell!("  script     {}", render::plain(&info.spec.script, 400));
    Ok(())
}

/// Says why a task is not running.
///
/// # Errors
/// When there is no such job.
pub async fn why(
    session: &mut Session,
    args: &WhyArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    for selected in select(session, std::slice::from_ref(&args.id), recent).await? {
        let task = selected.tasks.first().map_or(0, |(first, _)| *first);
        let task = if selected.tasks.is_empty() { first_waiting(session, selected.job).await? } else { task };
        let why = ask_why(session, selected.job, task).await?;
        match manner.format {
            Format::Human => crate::say::result(format_args!("{}", why_text(selected.job, &why))),
            Format::Json | Format::Ndjson => tell!(
                "{}",
                serde_json::json!({
                    "v": 1, "id": selected.job.0, "task": task, "state": why.state.as_str(), "why": why.text,
                    "ahead": why.ahead, "fitting": why.fitting, "workers": why.workers,
                    "terms": why.terms.iter().map(|term| serde_json::json!({
                        "term": term.text, "met": term.met,
                        "seen": term.seen.iter().map(|(label, count)| serde_json::json!({"label": label, "workers": count})).collect::<Vec<_>>(),
                    })).collect::<Vec<_>>(),
                })
            ),
        }
    }
    Ok(0)
}

/// Of an array, the first task that waits.
async fn first_waiting(session: &mut Session, id: JobId) -> Result<u32, Failure> {
    let handle = job_handle(session, id).await?;
    let mut request = handle.tasks_request();
    request.get().set_from_start(true);
    request.get().set_limit(1);
    request.get().set_state(wire::task::write_state(TaskState::Queued));
    let answer = request.send().promise.await?;
    let tasks = answer.get()?.get_tasks()?;
    Ok(if tasks.is_empty() { 0 } else { tasks.get(0).get_index() })
}

fn why_text(id: JobId, why: &Why) -> String {
    use std::fmt::Write;
    let mut text = format!("{id} {}: {}\n", why.state.as_str(), why.text);
    if why.state != TaskState::Queued {
        return text;
    }
    for term in why.terms.iter().filter(|term| term.met < why.workers) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {}: {}", term.text, offered(term, why.workers));
    }
    text
}

/// How many of the workers meet a term, and what they offer instead: `0 of 2 workers have it; seen: gpu=a100 ×1`.
pub fn offered(term: &TermCount, workers: u32) -> String {
    let seen: Vec<String> = term.seen.iter().map(|(label, count)| format!("{label} ×{count}")).collect();
    let seen = if seen.is_empty() { "nothing of the kind".to_owned() } else { seen.join(", ") };
    format!("{} of {workers} workers have it; seen: {seen}", term.met)
}

/// Asks the pool why a task is not running.
///
/// # Errors
/// When there is no such job.
pub async fn ask_why(session: &mut Session, id: JobId, task: u32) -> Result<Why, Failure> {
    let handle = job_handle(session, id).await?;
    let mut request = handle.why_request();
    request.get().set_task(task);
    let answer = request.send().promise.await?;
    Ok(wire::why::read(answer.get()?.get_why()?)?)
}
