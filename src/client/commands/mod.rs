//! One verb a file: its arguments beside what it does. The REPL's meta-commands are the same ones.

pub mod audit;
pub mod cancel;
pub mod clients;
pub mod context;
pub mod doctor;
pub mod identity;
pub mod jobs;
pub mod logs;
pub mod pool;
pub mod run;
pub mod token;
mod trust;
pub mod upkeep;
pub mod wait;
pub mod workers;

use super::connection::Session;
use super::error::{Failure, check_refused};
use super::selector::{Recent, Selected, parse};
use super::{Format, Manner, Verbosity};
use crate::core::id::JobId;
use crate::core::view::{JobFilter, JobInfo};
use crate::say::tell;
use crate::schema::pool_capnp::job;
use crate::wire;

/// The capability to a job.
pub(super) async fn job_handle(session: &mut Session, id: JobId) -> Result<job::Client, Failure> {
    let pool = session.pool().await?;
    let mut request = pool.job_request();
    request.get().set_id(id.0);
    let answer = request.send().promise.await?;
    let answer = answer.get()?;
    check_refused(answer.has_refused(), answer.get_refused())?;
    Ok(answer.get_handle()?)
}

/// What is seen of a job.
pub(super) async fn job_info(session: &mut Session, id: JobId) -> Result<JobInfo, Failure> {
    let handle = job_handle(session, id).await?;
    let answer = handle.info_request().send().promise.await?;
    Ok(wire::job::read_info(answer.get()?.get_info()?)?)
}

/// Jobs, newest first, and how many older ones were left out.
pub(super) async fn list(
    session: &mut Session,
    filter: &JobFilter,
    limit: u32,
) -> Result<(Vec<JobInfo>, u64), Failure> {
    let pool = session.pool().await?;
    let (mut jobs, mut before) = (Vec::new(), 0);
    loop {
        let mut request = pool.jobs_request();
        wire::job::write_filter(filter, request.get().init_filter());
        request.get().set_before(before);
        request.get().set_limit((limit - u32::try_from(jobs.len()).unwrap_or(limit)).min(1000));
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        let page = answer.get_jobs()?;
        for info in page {
            jobs.push(wire::job::read_info(info)?);
        }
        let enough = page.is_empty() || jobs.len() >= limit as usize || answer.get_older() == 0;
        if enough {
            return Ok((jobs, answer.get_older()));
        }
        before = jobs.last().map_or(0, |job| job.id.0);
    }
}

/// Tells what a command has done: a sentence for people, what it was about when quiet, a document for scripts.
pub fn tell_done(manner: Manner, sentence: &str, about: &str, mut document: serde_json::Value) {
    match (manner.format, manner.verbosity) {
        (Format::Human, Verbosity::Normal) => tell!("{sentence}"),
        (Format::Human, Verbosity::Quiet) => tell!("{about}"),
        (Format::Json | Format::Ndjson, _) => {
            document["v"] = 1.into();
            tell!("{document}");
        }
    }
}

/// Tells a list: for people a table, or what to do if there is nothing, for the quiet names alone, for scripts documents.
pub(super) fn tell_list<T>(
    manner: Manner,
    items: &[T],
    name: impl Fn(&T) -> String,
    people: impl FnOnce(&[T]),
    json: impl Fn(&T) -> serde_json::Value,
) {
    match (manner.format, manner.verbosity) {
        (Format::Human, Verbosity::Quiet) => items.iter().for_each(|item| tell!("{}", name(item))),
        (Format::Human, Verbosity::Normal) => people(items),
        (Format::Json, _) => tell!("{}", serde_json::Value::from(items.iter().map(json).collect::<Vec<_>>())),
        (Format::Ndjson, _) => items.iter().for_each(|item| tell!("{}", json(item))),
    }
}

/// Tells the id of a job that was submitted.
pub fn tell_id(id: JobId, manner: Manner) {
    let text = id.to_string();
    tell_done(manner, &text, &text, serde_json::json!({ "v": 1, "id": id.0 }));
}

/// Reads ids as people type them, `last` being the newest that there is.
pub(super) async fn select(
    session: &mut Session,
    words: &[String],
    known: Recent,
) -> Result<Vec<Selected>, Failure> {
    let needs_newest =
        words.iter().any(|word| word.contains("last") || word.contains("%%") || word.contains("%-"));
    let mut recent = known;
    if recent.last.is_none() && needs_newest {
        let (jobs, _) = list(session, &JobFilter { all: true, ..JobFilter::default() }, 2).await?;
        recent = Recent { last: jobs.first().map(|job| job.id), before: jobs.get(1).map(|job| job.id) };
    }
    let mut selected = Vec::new();
    for word in words {
        selected.extend(parse(word, recent)?);
    }
    Ok(selected)
}
