//! `jobs`, `show` and `why`: looking at jobs.

use std::time::Duration;

use clap::Args;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::selector::{Recent, Selected};
use super::super::{Format, Manner, Verbosity, duration, json, render};
use super::{job_handle, job_info, list, select};
use crate::core::id::JobId;
use crate::core::job::JobSpec;
use crate::core::time::WallTime;
use crate::core::view::{JobFilter, JobInfo, TaskInfo, TaskState, TermCount, Why};
use crate::process::clock;
use crate::say::{say, tell};
use crate::wire;

/// Jobs that are listed unless somebody says how many.
const JOBS_SHOWN: u32 = 100;

/// `jobs`.
#[derive(Args, Clone, Debug, Default)]
pub struct JobsArgs {
    /// Every job, not only live ones and those of the last hour
    #[arg(short, long)]
    pub all: bool,
    /// Only jobs in these states, as failed or queued,running
    #[arg(long = "state", value_name = "STATES", value_delimiter = ',', value_parser = parse_state)]
    pub states: Vec<TaskState>,
    /// Only jobs of this name
    #[arg(long)]
    pub name: Option<String>,
    /// Only jobs submitted within this time, as 1h
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub since: Option<Duration>,
    /// At most so many; 100 if not given, and with --all any number
    #[arg(short = 'n', long)]
    pub limit: Option<u32>,
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

fn parse_state(word: &str) -> Result<TaskState, String> {
    let known = TaskState::ALL.into_iter().find(|state| state.as_str() == word);
    known
        .ok_or_else(|| TaskState::ALL.map(TaskState::as_str).join(", "))
        .map_err(|all| format!("one of {all}"))
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
    let limit = args.limit.unwrap_or(if args.all { u32::MAX } else { JOBS_SHOWN });
    let (jobs, older) = list(session, &filter, limit).await?;
    match (manner.format, manner.verbosity) {
        (Format::Human, Verbosity::Quiet) => jobs.iter().rev().for_each(|job| tell!("{}", job.id)),
        (Format::Human, Verbosity::Normal) => {
            if jobs.is_empty() {
                tell!("no jobs");
            } else {
                crate::say::result(format_args!("{}", render::jobs(&jobs, now)));
            }
            if older > 0 {
                say!("{} hidden (--all)", render::some(older, "older job"));
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

/// Shows jobs or tasks in full.
///
/// # Errors
/// When there is no such job.
pub async fn show(
    session: &mut Session,
    args: &ShowArgs,
    recent: Recent,
    manner: Manner,
) -> Result<u8, Failure> {
    let mut documents = Vec::new();
    for selected in select(session, &args.ids, recent).await? {
        let mut info = job_info(session, selected.job).await?;
        info.spec = std::sync::Arc::new(job_spec(session, selected.job).await?);
        match (manner.format, selected.tasks.is_empty()) {
            (Format::Human, true) => show_job(session, &info).await?,
            (Format::Human, false) => {
                for task in tasks_of(session, &selected).await? {
                    show_task(info.id, &task);
                }
            }
            (Format::Json | Format::Ndjson, true) => documents.push(json::job(&info)),
            (Format::Json | Format::Ndjson, false) => {
                let tasks = tasks_of(session, &selected).await?;
                documents.extend(tasks.iter().map(|task| json::task(info.id, task)));
            }
        }
    }
    match (manner.format, documents.as_slice()) {
        (Format::Human, _) => {}
        (Format::Json, [document]) => tell!("{document}"),
        (Format::Json, _) => tell!("{}", serde_json::Value::from(documents)),
        (Format::Ndjson, documents) => documents.iter().for_each(|document| tell!("{document}")),
    }
    Ok(0)
}

async fn job_spec(session: &mut Session, id: JobId) -> Result<JobSpec, Failure> {
    let handle = job_handle(session, id).await?;
    let answer = handle.spec_request().send().promise.await?;
    Ok(wire::job::read(answer.get()?.get_spec()?)?)
}

/// The tasks that were named.
async fn tasks_of(session: &mut Session, selected: &Selected) -> Result<Vec<TaskInfo>, Failure> {
    let mut tasks = Vec::new();
    for_tasks(session, selected, |task| tasks.push(task)).await?;
    if tasks.is_empty() { Err(no_such_task(selected.job)) } else { Ok(tasks) }
}

/// Looks at the tasks that were named; nothing is kept of one that was cancelled while it waited.
pub(super) async fn for_tasks(
    session: &mut Session,
    selected: &Selected,
    mut look: impl FnMut(TaskInfo),
) -> Result<(), Failure> {
    let handle = job_handle(session, selected.job).await?;
    for &(first, last) in &selected.tasks {
        let mut after = first.checked_sub(1);
        loop {
            let mut request = handle.tasks_request();
            request.get().set_from_start(after.is_none());
            request.get().set_after(after.unwrap_or(0));
            request.get().set_limit(last.saturating_sub(after.unwrap_or(0)).clamp(1, 1000));
            request.get().set_any_state(true);
            let answer = request.send().promise.await?;
            let page = answer.get()?.get_tasks()?;
            for task in page {
                let task = wire::task::read_info(task)?;
                after = Some(task.index);
                if task.index <= last {
                    look(task);
                }
            }
            if page.is_empty() || !answer.get()?.get_more() || after.is_some_and(|after| after >= last) {
                break;
            }
        }
    }
    Ok(())
}

pub(super) fn no_such_task(job: JobId) -> Failure {
    Failure::new("no-such-job", format!("job {job} has no such task"))
}

async fn show_job(session: &mut Session, info: &JobInfo) -> Result<(), Failure> {
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
    if let Some(timeout) = info.spec.timeout {
        tell!("  timeout    {}", render::duration(timeout));
    }
    if info.spec.retries > 0 {
        tell!("  retries    {}", info.spec.retries);
    }
    if let Some(array) = &info.spec.array {
        let counts = TaskState::ALL.iter().filter(|&&state| info.counts.of(state) > 0);
        let counts: Vec<String> =
            counts.map(|&state| format!("{} {}", info.counts.of(state), state.as_str())).collect();
        tell!("  array      {array}: {}", counts.join(", "));
    }
    if let Some(task) = &info.task {
        if info.spec.array.is_some() {
            tell!("  failed     {}.{}", info.id, task.index);
        }
        show_attempt(task);
    }
    if matches!(state, TaskState::Queued | TaskState::Unknown) {
        let task = first_waiting(session, info.id).await?;
        tell!("  waiting    {}", ask_why(session, info.id, task).await?.text);
    }
    let script = String::from_utf8_lossy(&info.spec.script);
    for (n, line) in script.lines().enumerate() {
        let head = if n == 0 { "script" } else { "" };
        tell!("  {head:<10} {}", render::plain_line(line.as_bytes()));
    }
    Ok(())
}

fn show_task(job: JobId, task: &TaskInfo) {
    tell!("task {job}.{}: {}", task.index, task.state.as_str());
    if let Some(started) = task.started {
        tell!("  started    {}", render::rfc3339(started));
    }
    show_attempt(task);
}

fn show_attempt(task: &TaskInfo) {
    if task.attempt > 0 {
        tell!("  attempt    {} on {}", task.attempt, task.worker.as_deref().unwrap_or("-"));
    }
    let Some(end) = &task.end else { return };
    let (usage, totals) = (&end.usage, &end.totals);
    tell!("  ended      {}", render::outcome(&end.outcome));
    if usage.run.is_zero() && totals.end() == 0 {
        // Nobody was there to count, or nothing ran.
        return;
    }
    let (run, cpu) = (render::duration(usage.run), render::duration(usage.cpu_user + usage.cpu_system));
    let peak = usage.peak_memory_bytes as f64 / f64::from(1 << 20);
    tell!("  used       {run} run, {cpu} cpu, {peak:.1} MiB peak");
    tell!("  output     {} bytes stdout, {} bytes stderr", totals.stdout_bytes, totals.stderr_bytes);
    if totals.dropped_bytes > 0 {
        tell!("  dropped    {} bytes beyond what is kept of an attempt", totals.dropped_bytes);
    }
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
        let (task, why) = match selected.tasks.as_slice() {
            [] => {
                let task = first_waiting(session, selected.job).await?;
                (task, ask_why(session, selected.job, task).await?)
            }
            [(first, last)] if first == last => (*first, why_of_task(session, &selected, *first).await?),
            _ => return Err(Failure::new("usage", format!("\"{}\" is not one task", args.id))),
        };
        match manner.format {
            Format::Human => crate::say::result(format_args!("{}", why_text(&selected, &why))),
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

/// The same of one task, that may be over when its job is not, or has ended otherwise.
async fn why_of_task(session: &mut Session, selected: &Selected, index: u32) -> Result<Why, Failure> {
    let why = ask_why(session, selected.job, index).await?;
    let mut task = None;
    for_tasks(session, selected, |found| task = Some(found)).await?;
    // Nothing is kept of one that was cancelled while it waited, but that it belongs to the job.
    if task.is_none() && !job_info(session, selected.job).await?.spec.has_task_in(index, index) {
        return Err(no_such_task(selected.job));
    }
    let over = |state, text| Why { state, text, terms: Vec::new(), ..why.clone() };
    Ok(match task.map(|task| (task.state, task.end)) {
        None => over(TaskState::Cancelled, "it was cancelled before it started".to_owned()),
        Some((state, Some(end))) => over(state, format!("it has ended: {}", render::outcome(&end.outcome))),
        Some((_, None)) => why,
    })
}

/// The first task that waits; of an array that may be any.
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

fn why_text(about: &Selected, why: &Why) -> String {
    use std::fmt::Write;
    let mut text = format!("{about} {}: {}\n", why.state.as_str(), why.text);
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
