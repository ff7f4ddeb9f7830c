//! `workers`: who is there.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::connection::Session;
use super::super::error::{Failure, check_refused};
use super::super::{Format, Manner, duration, render};
use super::{tell_done, tell_list};
use crate::core::membership::Tenure;
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
    /// Give workers nothing new, until they are resumed; what they have goes on
    #[command(
        after_help = "Examples:\n  clusterctl workers drain n1\n  clusterctl workers drain n1 n2 --deadline 1h\n  clusterctl workers drain --all"
    )]
    Drain {
        /// Their names
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All that there are now
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// End what is left after this time: TERM, and KILL after 10 s
        #[arg(long, value_name = "TIME", value_parser = duration::parse)]
        deadline: Option<Duration>,
    },
    /// Give workers tasks again that were drained
    Resume {
        /// Their names
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// All that there are
        #[arg(long, conflicts_with = "names")]
        all: bool,
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
        Some(WorkersAction::Drain { names, all, deadline }) => {
            let names = meant(session, names, *all).await?;
            drain(session, &names, *deadline, manner).await?;
        }
        Some(WorkersAction::Resume { names, all }) => {
            let names = meant(session, names, *all).await?;
            resume(session, &names, manner).await?;
        }
        Some(WorkersAction::Remove { name }) => {
            let admin = session.admin().await?;
            let mut request = admin.remove_worker_request();
            request.get().set_name(name.as_str());
            let answer = request.send().promise.await?;
            let answer = answer.get()?;
            check_refused(answer.has_refused(), answer.get_refused())?;
            let lost = answer.get_lost();
            let document = serde_json::json!({ "v": 1, "removed": name.as_str(), "lost": lost });
            tell_done(manner, &format!("removed {name}, with {lost} running"), name.as_str(), document);
        }
    }
    Ok(0)
}

async fn drain(
    session: &mut Session,
    names: &[String],
    deadline: Option<Duration>,
    manner: Manner,
) -> Result<(), Failure> {
    let admin = session.admin().await?;
    for name in names {
        let mut request = admin.drain_worker_request();
        request.get().set_name(name.as_str());
        request.get().set_deadline(deadline.is_some());
        request.get().set_deadline_ms(wire::text::millis(deadline));
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check_refused(answer.has_refused(), answer.get_refused())?;
        let running = answer.get_running();
        let left = match (running, deadline) {
            (0, _) => "it has nothing".to_owned(),
            (n, None) => format!("{n} go on there"),
            (n, Some(time)) => format!("{n} go on there, for {} at most", render::duration(time)),
        };
        let document = serde_json::json!({ "drained": name, "running": running });
        tell_done(manner, &format!("{name} gets nothing new; {left}"), name, document);
    }
    Ok(())
}

async fn resume(session: &mut Session, names: &[String], manner: Manner) -> Result<(), Failure> {
    let admin = session.admin().await?;
    for name in names {
        let mut request = admin.resume_worker_request();
        request.get().set_name(name.as_str());
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check_refused(answer.has_refused(), answer.get_refused())?;
        let document = serde_json::json!({ "resumed": name });
        tell_done(manner, &format!("{name} gets tasks again"), name, document);
    }
    Ok(())
}

/// The workers that are meant.
async fn meant(session: &mut Session, names: &[String], every: bool) -> Result<Vec<String>, Failure> {
    match every {
        true => Ok(all(session).await?.into_iter().map(|worker| worker.name).collect()),
        false => Ok(names.to_vec()),
    }
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
            .filter(|worker| worker.state == WorkerState::Silent && worker.tenure == Tenure::Lasting)
            // What it may still run would be lost.
            .filter(|worker| worker.tasks.is_empty())
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
    if worker.tenure == Tenure::Ephemeral {
        tell!("  ephemeral  forgotten 10 minutes after it has gone");
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
        "ephemeral": worker.tenure == Tenure::Ephemeral,
        "joined": render::rfc3339(worker.joined),
    })
}
