//! `pool backup` and `pool check`: a pool's state is copied, or looked through, whether the pool runs or not. Both read the
//! state itself, so they are for the pool's own user on its machine.

use std::path::{Path, PathBuf};

use super::super::connection::{Session, Target};
use super::super::error::Failure;
use super::super::{Manner, private_pool};
use super::tell_done;
use crate::store::backup::back_up;
use crate::store::check::{Use, check};
use crate::store::lock::StateLock;
use crate::store::{StoreError, sqlite};

/// Copies a pool's state into a directory.
///
/// # Errors
/// When the pool is elsewhere, or the copy cannot be made.
pub fn backup(session: &Session, to: &Path, manner: Manner) -> Result<u8, Failure> {
    let state = state_of(session)?;
    let copied = back_up(&state, to).map_err(|error| failure(&error, "no backup was made"))?;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let place = std::path::absolute(to)?.display().to_string();
    let sentence = format!(
        "backed up to {place}: {} of records, {} of output\n  to restore: stop the pool, move {} away, put a copy of the backup in its place, start it",
        mib(copied.database_bytes),
        mib(copied.output_bytes),
        state.display()
    );
    let document = serde_json::json!({
        "backup": place, "state": state.display().to_string(), "database_bytes": copied.database_bytes,
        "output_bytes": copied.output_bytes,
    });
    tell_done(manner, &sentence, &place, document);
    Ok(0)
}

/// Looks through a pool's state; 1 if something in it is damaged.
///
/// # Errors
/// When the pool is elsewhere, or its state cannot be read at all.
pub fn look_through(session: &Session, manner: Manner) -> Result<u8, Failure> {
    let state = state_of(session)?;
    let used = if StateLock::is_held(&state) { Use::Served } else { Use::Idle };
    let found = check(&state, used).map_err(|error| failure(&error, "nothing could be checked"))?;
    let mut sentence = format!(
        "{}: {} records, {} jobs and {} tasks in the history, {} audit entries, {:.1} MiB of output; \
         that of {} tasks has the hashes that their workers told",
        state.display(),
        found.entries,
        found.jobs,
        found.tasks,
        found.audit,
        found.output_bytes as f64 / f64::from(1 << 20),
        found.verified
    );
    if found.problems.is_empty() {
        sentence += "\n  all in order";
    }
    for problem in &found.problems {
        sentence += &format!("\n  damaged: {problem}");
    }
    if used == Use::Served {
        sentence += "\n  its pool runs, so the raw write-ahead log was left alone; stop it to have that looked at, too";
    }
    let document = serde_json::json!({
        "state": state.display().to_string(), "entries": found.entries, "jobs": found.jobs, "tasks": found.tasks,
        "audit": found.audit, "output_bytes": found.output_bytes, "verified": found.verified, "problems": found.problems,
    });
    tell_done(manner, &sentence, &state.display().to_string(), document);
    Ok(u8::from(!found.problems.is_empty()))
}

fn state_of(session: &Session) -> Result<PathBuf, Failure> {
    let state = match session.target() {
        Target::Private => private_pool::state_directory(session.root()),
        Target::Local(_, state) => state.clone(),
        Target::Remote(name, _) => {
            let text = format!("pool \"{name}\" is on another machine, or another user's: do this there");
            return Err(Failure::new("usage", text));
        }
    };
    if !state.join(sqlite::FILE).exists() {
        return Err(Failure::new("no-such-pool", format!("there is no pool's state in {}", state.display()))
            .hint("clusterctl pool status"));
    }
    Ok(state)
}

fn failure(error: &StoreError, what: &str) -> Failure {
    Failure::new("store", format!("{what}: {error}"))
}
