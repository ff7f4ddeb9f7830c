//! `--run-as`: a program that root started goes on as another user, for good.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use nix::unistd::{self, Uid, User};

/// Starts this program again, with the same words, as the named user with that user's groups and home; returns if this
/// process is that user's already. A state directory that does not exist yet is made, and is that user's.
///
/// # Errors
/// When there is no such user, this process is not root's, or the user cannot run this program.
pub fn run_as(name: &str, state: Option<&Path>) -> anyhow::Result<()> {
    let Some(user) = User::from_name(name)? else { bail!("there is no user \"{name}\" on this machine") };
    if user.uid == Uid::current() {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        bail!("only root can run jobs as \"{name}\"");
    }
    if let Some(state) = state.filter(|state| !state.exists()) {
        fs::DirBuilder::new().mode(0o700).create(state).with_context(|| format!("{}", state.display()))?;
        unistd::chown(state, Some(user.uid), Some(user.gid))?;
    }
    let groups_of = std::ffi::CString::new(name)?;
    unistd::initgroups(&groups_of, user.gid)?;
    unistd::setgid(user.gid)?;
    unistd::setuid(user.uid)?;
    let mut words = std::env::args_os();
    let error = Command::new("/proc/self/exe")
        .arg0(words.next().unwrap_or_default())
        .args(words)
        .env("HOME", &user.dir)
        .env("USER", name)
        .env("LOGNAME", name)
        .env("SHELL", &user.shell)
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .exec();
    Err(error).with_context(|| format!("\"{name}\" cannot run {}", env!("CARGO_PKG_NAME")))
}
