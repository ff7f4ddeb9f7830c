//! The agent meets its executor, and says what the pool is to know of both.

use std::path::PathBuf;
use std::time::Duration;

use super::identity::Home;
use super::options::JoinOptions;
use crate::core::attempt::{FromExecutor, Held};
use crate::core::id::Incarnation;
use crate::core::limits;
use crate::core::membership::{Carried, Facts};
use crate::core::time::Timestamp;
use crate::process::executor::ExecutorOptions;
use crate::process::executor_client::{ExecutorLine, connect_or_start};
use crate::process::{JournalOf, facts};

/// An executor that says no welcome so often speaks another language, or does not live.
const MEETINGS_MAX: u32 = 10;
const MEET_AGAIN: Duration = Duration::from_millis(50);

/// Where a worker's executor lies.
pub(super) fn executor_directory(home: &Home) -> PathBuf {
    home.directory().join("executor")
}

/// Meets the executor, or starts one; with what it says that it has.
pub(super) async fn meet_executor(
    options: &JoinOptions,
    home: &Home,
) -> anyhow::Result<(ExecutorLine, Incarnation, Vec<Held>)> {
    let executor = ExecutorOptions {
        directory: executor_directory(home),
        work_directory: options.work_directory.clone(),
        run_as: options.run_as.clone(),
        timing: options.timing,
    };
    for _ in 0..MEETINGS_MAX {
        if let Some(mut line) = connect_or_start(&executor).await?
            && let Some(FromExecutor::Welcome { incarnation, held, .. }) = line.recv().await
        {
            return Ok((line, incarnation, held));
        }
        // Somebody may be ending them; one that is being killed may still let us in.
        tokio::time::sleep(MEET_AGAIN).await;
    }
    anyhow::bail!("the executor speaks another protocol, or ends before it speaks")
}

/// What an executor left that is gone. That an attempt was never started is proven only as long as the machine has not
/// been booted since: a power cut takes a journal's last lines.
pub(super) fn carried_of(journal: &JournalOf, boot: &str) -> Carried {
    let never_started = match journal.boot_id == boot {
        true => journal.never_started.iter().copied().collect(),
        false => Vec::new(),
    };
    Carried { incarnation: journal.incarnation, living: Vec::new(), ended: Vec::new(), never_started }
}

/// What the pool is told of this worker; when the dialling began is the dial's number, which grows with each.
pub(super) fn facts_of(options: &JoinOptions, incarnation: Incarnation, began: Timestamp) -> Facts {
    let mut labels = facts::labels();
    labels.extend(options.labels.clone());
    let (user, uid) = options.jobs_user();
    Facts {
        boot_id: facts::boot_id(),
        incarnation,
        dial: began.0,
        slots: options.slots.min(limits::SLOTS_MAX),
        labels,
        memory_bytes: facts::memory_bytes(),
        uid,
        trust: options.trust,
        user,
        pid: std::process::id(),
        tenure: options.tenure,
    }
}
