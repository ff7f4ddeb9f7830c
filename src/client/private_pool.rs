//! The private pool: a background process of this user on this machine, started when somebody needs it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::Failure;
use super::render;
use crate::core::refusal::os_words;
use crate::store::place::{StateRoot, private_pool_name};

/// The pool's log, in its state directory.
pub const LOG: &str = "log";

/// The state directory of this user's private pool.
pub fn state_directory(root: &StateRoot) -> PathBuf {
    root.pool(&private_pool_name())
}

/// Starts the private pool, and waits until it answers. Of two who start it one wins, for both.
///
/// # Errors
/// When it does not start; with the last line of its log.
pub fn start(root: &StateRoot) -> Result<(), Failure> {
    let state = state_directory(root);
    make_private(&state)?;
    let log_path = state.join(LOG);
    let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path)?;
    // The very program that runs now, whatever has been installed since.
    let mut process = Command::new("/proc/self/exe")
        .arg0("clusterctl")
        .args(["pool", "serve", "--background", "--state"])
        .arg(root.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let mut said = String::new();
    if let Some(stdout) = &mut process.stdout {
        stdout.read_to_string(&mut said)?;
    }
    // It outlives us, or ends before us: then nobody else would reap it.
    std::thread::Builder::new().name("reaper".into()).spawn(move || drop(process.wait()))?;
    if said.starts_with("ready") {
        return Ok(());
    }
    let log = fs::read_to_string(&log_path).unwrap_or_default();
    let last = log.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let last = last.unwrap_or("it left no word").to_owned();
    Err(Failure::new("private-pool", "the private pool did not start")
        .fact("it says", last)
        .fact("log", log_path.display()))
}

fn make_private(directory: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        Failure::new("io", format!("cannot make {}: {}", directory.display(), os_words(&error)))
            .hint("--state DIR")
    })
}

/// What newcomers must know of the private pool.
pub fn banner(slots: u32) -> String {
    let slots = if slots == 0 { crate::process::facts::cpus() } else { slots };
    let slots = render::some(slots.into(), "slot");
    format!("private pool on this machine: {slots} · join others with: clusterctl pool serve")
}
