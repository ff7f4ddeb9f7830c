//! Jobs that were left behind: who they are, and the notice when one has ended.

use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::connection::Session;
use super::super::error::Failure;
use super::super::{context, render};
use crate::core::id::JobId;
use crate::core::outcome::Outcome;
use crate::core::time::WallTime;
use crate::core::view::{JobInfo, TaskInfo, TaskState};
use crate::process::clock;
use crate::wire;

/// Notices that are shown at a time; more are only counted.
const NOTICES_MAX: usize = 5;

/// The jobs that this REPL has in the background.
pub(super) struct Background {
    running: Vec<JobId>,
    ended: mpsc::UnboundedReceiver<JobInfo>,
    sender: mpsc::UnboundedSender<JobInfo>,
    /// Cancels that the pool has not answered yet: they go on for as long as this REPL. Of each job, why
    /// none arrived.
    cancels: JoinSet<(JobId, Option<Failure>)>,
}

impl Background {
    pub(super) fn new() -> Self {
        let (sender, ended) = mpsc::unbounded_channel();
        Self { running: Vec::new(), ended, sender, cancels: JoinSet::new() }
    }

    /// Those that run, oldest first.
    pub(super) fn running(&self) -> &[JobId] {
        &self.running
    }

    /// A job goes on without us; a connection of its own tells when it has ended.
    pub(super) fn add(&mut self, session: &Session, id: JobId) {
        self.running.push(id);
        let (mut own, sender) = (session.another(), self.sender.clone());
        tokio::task::spawn_local(async move {
            if let Some(info) = end_of(&mut own, id).await {
                // The REPL may have been left.
                let _ = sender.send(info);
            }
        });
    }

    /// Goes on with cancels of a job that nobody waits for any longer.
    pub(super) fn cancelling(&mut self, id: JobId, mut cancels: JoinSet<Result<(), Failure>>) {
        self.cancels.spawn_local(async move {
            let (mut failure, mut has_arrived) = (None, false);
            while let Some(done) = cancels.join_next().await {
                match done {
                    Ok(Ok(())) => has_arrived = true,
                    Ok(Err(why)) => failure = Some(why),
                    // One that panicked has said so.
                    Err(_) => {}
                }
            }
            // One that arrived is enough.
            (id, failure.filter(|_| !has_arrived))
        });
    }

    /// Waits for the end of some, or for a cancel that came to nothing, and says so. Cancel-safe.
    pub(super) async fn notices(&mut self) -> Vec<String> {
        let first = tokio::select! {
            ended = self.ended.recv() => ended,
            Some(done) = self.cancels.join_next() => {
                let Ok((id, Some(failure))) = done else { return Vec::new() };
                return vec![not_cancelled(id, &failure)];
            }
        };
        let Some(first) = first else { return Vec::new() };
        let mut ended = vec![first];
        while let Ok(more) = self.ended.try_recv() {
            ended.push(more);
        }
        self.running.retain(|id| ended.iter().all(|info| info.id != *id));
        let mut notices: Vec<String> = ended.iter().take(NOTICES_MAX).map(notice).collect();
        if ended.len() > NOTICES_MAX {
            notices.push(format!("… {} more finished (:jobs)", ended.len() - NOTICES_MAX));
        }
        notices
    }

    /// What a person has to know who leaves now.
    pub(super) fn farewell(&self) -> Option<String> {
        let ids: Vec<String> = self.running.iter().map(ToString::to_string).collect();
        match ids.as_slice() {
            [] => None,
            [id] => Some(format!("1 job keeps running: {id}. Follow it with: clusterctl logs -f {id}")),
            [first, ..] => Some(format!(
                "{} jobs keep running: {}. Follow one with: clusterctl logs -f {first}",
                ids.len(),
                ids.join(", ")
            )),
        }
    }
}

async fn end_of(session: &mut Session, id: JobId) -> Option<JobInfo> {
    loop {
        let pool = session.pool().await.ok()?;
        let mut request = pool.wait_request();
        request.get().init_ids(1).set(0, id.0);
        match request.send().promise.await {
            Err(error) if error.kind == capnp::ErrorKind::Disconnected => session.disconnect(),
            Err(_) => return None,
            Ok(answer) => {
                let ended = answer.get().ok()?.get_ended().ok()?;
                if !ended.is_empty() {
                    return wire::job::read_info(ended.get(0)).ok();
                }
            }
        }
    }
}

/// `[7] not cancelled: cannot reach pool "lab": it is not running · :cancel 7`
fn not_cancelled(id: JobId, failure: &Failure) -> String {
    format!("[{id}] not cancelled: {} · :cancel {id}", failure.refusal.message)
}

/// `[7] failed exit 2 in 41.3s on n1 · make -j8 test · :logs 7`
fn notice(info: &JobInfo) -> String {
    let how = match (&info.spec.array, &info.task) {
        (Some(_), _) => {
            let (done, all) = (info.counts.of(TaskState::Done), info.counts.total());
            format!("{} {done}/{all} ok", info.counts.state().as_str())
        }
        (None, Some(task)) => how_it_ended(task),
        (None, None) => info.counts.state().as_str().to_owned(),
    };
    format!("[{}] {how} · {} · :logs {}", info.id, render::script(&info.spec), info.id)
}

/// `failed exit 2 in 41.3s on n1`
fn how_it_ended(task: &TaskInfo) -> String {
    let Some(end) = &task.end else { return "cancelled before it started".to_owned() };
    let how = match &end.outcome {
        Outcome::Exited(0) => "done".to_owned(),
        exited @ Outcome::Exited(_) => format!("failed {}", render::outcome(exited)),
        other => render::outcome(other),
    };
    let place = task.worker.as_deref().map_or(String::new(), |worker| format!(" on {worker}"));
    format!("{how} in {}{place}", render::duration(end.usage.run))
}

/// When this user last left a REPL on a pool, as a file tells.
pub(super) fn left(pool: &str) -> Option<WallTime> {
    let text = std::fs::read_to_string(left_path(pool)?).ok()?;
    text.trim().parse().ok().map(WallTime)
}

/// Notes that this user leaves now.
pub(super) fn leave(pool: &str) {
    use std::os::unix::fs::DirBuilderExt;
    let Some(path) = left_path(pool) else { return };
    let directory = path.parent().map(PathBuf::from).unwrap_or_default();
    // Whoever cannot keep it is not told what has ended meanwhile, and that is all.
    let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let _ = std::fs::write(path, clock::wall().0.to_string());
}

fn left_path(pool: &str) -> Option<PathBuf> {
    Some(context::history_path()?.with_file_name(format!("left-{pool}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cancel_that_came_to_nothing_behind_the_prompt_is_told() {
        let mut background = Background::new();
        let (mut well, mut refused) = (JoinSet::new(), JoinSet::new());
        well.spawn(async { Ok(()) });
        refused.spawn(async { Err(Failure::new("unreachable", "cannot reach pool \"lab\"")) });

        let told = tokio::task::LocalSet::new()
            .run_until(async {
                background.cancelling(JobId(6), well);
                let of_one_that_went_well = background.notices().await;
                background.cancelling(JobId(7), refused);
                [of_one_that_went_well, background.notices().await]
            })
            .await;

        assert_eq!(
            told,
            [vec![], vec!["[7] not cancelled: cannot reach pool \"lab\" · :cancel 7".to_owned()]]
        );
    }
}
