//! systemd, as far as a pool or a worker is made a service of it: where units lie, whether it runs, and asking it.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, bail};

use crate::core::unit::Manager;

/// Where the units of a manager lie that a person has made; none if this user has no home.
pub fn unit_directory(manager: Manager) -> Option<PathBuf> {
    match manager {
        Manager::System => Some("/etc/systemd/system".into()),
        Manager::User => {
            let config = absolute("XDG_CONFIG_HOME");
            let config = config.or_else(|| absolute("HOME").map(|home| home.join(".config")));
            config.map(|config| config.join("systemd/user"))
        }
    }
}

/// Whether the manager runs, as sd_booted(3) finds out; a user's has its socket in that user's own directory.
pub fn is_running(manager: Manager) -> bool {
    match manager {
        Manager::System => Path::new("/run/systemd/system").is_dir(),
        Manager::User => absolute("XDG_RUNTIME_DIR").is_some_and(|own| own.join("systemd").is_dir()),
    }
}

/// Whether a user's services go on when that user has logged out.
pub fn lingers(user: &str) -> bool {
    Path::new("/var/lib/systemd/linger").join(user).exists()
}

/// What a person types to ask for the same.
pub fn command_line(manager: Manager, words: &[&str]) -> String {
    let flag = match manager {
        Manager::System => "",
        Manager::User => " --user",
    };
    format!("systemctl{flag} {}", words.join(" "))
}

/// Asks the manager.
///
/// # Errors
/// When there is no `systemctl`, or it fails; with what it says.
pub fn ask(manager: Manager, words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("systemctl");
    if manager == Manager::User {
        command.arg("--user");
    }
    let line = command_line(manager, words);
    let done = command.args(words).stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("cannot run {line}"))?;
    if !done.status.success() {
        bail!("{line} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// A unit's text, if it is there.
///
/// # Errors
/// When it cannot be read.
pub fn read_unit(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Writes a unit, whole or not at all.
///
/// # Errors
/// When its directory cannot be made or written.
pub fn write_unit(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
