//! `workers`: who is there.

use clap::{Args, Subcommand};

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::{Format, Manner, render};
use super::{tell_done, tell_list};
use crate::core::view::{WorkerInfo, WorkerState};
use crate::say::{say, tell};
use crate::wire;

/// `workers`.
#[derive(Args, Clone, Debug, Default)]
pub struct WorkersArgs {
    /// What to do; nothing: list them
    #[command(subcommand)]
    pub action: Option<WorkersAction>,
}

/// What can be done with workers.
#[derive(Subcommand, Clone, Debug)]
pub enum WorkersAction {
    /// Show one in full
    Show {
        /// Its name
        name: String,
    },
    /// Forget one for good: what it still has is lost, and its key is not let in again
    #[command(visible_alias = "revoke")]
    Remove {
        /// Its name
        name: String,
    },
}

/// Lists, shows or removes workers.
///
/// # Errors
/// When there is no such worker.
pub async fn workers(session: &mut Session, args: &WorkersArgs, manner: Manner) -> Result<u8, Failure> {
    match &args.action {
        None => show_all(&all(session).await?, manner),
        Some(WorkersAction::Show { name }) => {
            let workers = all(session).await?;
            let worker = workers.iter().find(|worker| worker.name == *name).ok_or_else(|| {
                Failure::new("no-such-worker", format!("no worker \"{name}\"")).hint("clusterctl workers")
            })?;
            match manner.format {
                Format::Human => show_one(worker),
                Format::Json | Format::Ndjson => tell!("{}", json(worker)),
            }
        }
        Some(WorkersAction::Remove { name }) => {
            let admin = session.admin().await?;
            let mut request = admin.remove_worker_request();
            request.get().set_name(name.as_str());
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            if answer.has_refused() {
                return Err(wire::refusal::read(answer.get_refused()?)?.into());
            }
            let lost = answer.get_lost();
            let document = serde_json::json!({ "v": 1, "removed": name.as_str(), "lost": lost });
            tell_done(manner, &format!("removed {name}, with {lost} running"), name.as_str(), document);
        }
    }
    Ok(0)
}

/// All workers, by name.
pub(crate) async fn all(session: &mut Session) -> Result<Vec<WorkerInfo>, Failure> {
    let pool = session.pool().await?;
    let mut workers: Vec<WorkerInfo> = Vec::new();
    loop {
        let mut request = pool.workers_request();
        request.get().set_after(workers.last().map_or("", |last| last.name.as_str()));
        request.get().set_limit(1000);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        for worker in answer.get_workers()? {
            workers.push(wire::worker::read_info(worker)?);
        }
        if !answer.get_more() {
            return Ok(workers);
        }
    }
}

fn show_all(workers: &[WorkerInfo], manner: Manner) {
    let people = |workers: &[WorkerInfo]| {
        if workers.is_empty() {
            tell!("no workers; join one with: clusterctl worker join HOST:PORT --token …");
            return;
        }
        crate::say::result(format_args!("{}", render::workers(workers)));
        let silent: Vec<&str> = workers
            .iter()
            .filter(|worker| worker.state == WorkerState::Silent)
            .map(|worker| worker.name.as_str())
            .collect();
        match silent.as_slice() {
            [] => {}
            [name] => say!("1 worker silent. Forget it with: clusterctl workers remove {name}"),
            [first, ..] => {
                say!("{} workers silent. Forget one with: clusterctl workers remove {first}", silent.len());
            }
        }
    };
    tell_list(manner, workers, |worker| worker.name.clone(), people, json);
}

fn show_one(worker: &WorkerInfo) {
    tell!("worker {}: {}", worker.name, worker.state.as_str());
    tell!("  slots      {} of {} in use", worker.used, worker.slots);
    tell!("  memory     {:.1} GiB", worker.memory_bytes as f64 / f64::from(1 << 30));
    tell!("  joined     {}", render::rfc3339(worker.joined));
    for (key, value) in &worker.labels {
        tell!("  label      {}", render::plain(format!("{key}={value}").as_bytes(), 400));
    }
    if let Some(owner) = &worker.only_owner {
        tell!("  takes      only {owner}'s jobs (--trust-submitters lifts that)");
    }
    if let Some(key) = worker.fingerprint {
        tell!("  key        {key}");
    }
    for task in &worker.tasks {
        tell!("  holds      {task}");
    }
}

fn json(worker: &WorkerInfo) -> serde_json::Value {
    serde_json::json!({
        "v": 1,
        "name": worker.name,
        "state": worker.state.as_str(),
        "slots": worker.slots,
        "used": worker.used,
        "labels": worker.labels,
        "memory_bytes": worker.memory_bytes,
        "seen_s": worker.seen.map(|seen| seen.as_secs_f64()),
        "only_owner": worker.only_owner,
        "joined": render::rfc3339(worker.joined),
    })
}
