//! `pool install` and `worker install`: a systemd unit that starts what `pool serve` or `worker join` would, of the
//! system for root and of the user for anybody else; and the way out.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::Args;

use super::join::{self, JoinArgs};
use super::serve::{ServeArgs, find_root};
use super::unit::{Kind, Scope, Unit};
use super::{Global, internal};
use crate::client::Manner;
use crate::client::commands::tell_done;
use crate::client::error::Failure;
use crate::core::id::Name;
use crate::process::facts;
use crate::say::tell;

/// There while systemd manages the machine, as sd_booted(3) says.
const BOOTED: &str = "/run/systemd/system";

/// Where units are written.
#[derive(Args, Debug)]
pub(super) struct UnitArgs {
    /// Print the unit, and change nothing
    #[arg(long)]
    print: bool,
    /// Where the unit is written, and systemd is not told; /etc/systemd/system for root, ~/.config/systemd/user else
    #[arg(long, value_name = "DIR")]
    unit_dir: Option<PathBuf>,
}

/// `pool install`.
#[derive(Args, Debug)]
pub(super) struct PoolInstallArgs {
    #[command(flatten)]
    unit: UnitArgs,
    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

/// `worker install`.
#[derive(Args, Debug)]
pub(super) struct WorkerInstallArgs {
    #[command(flatten)]
    unit: UnitArgs,
    #[command(flatten)]
    pub(super) join: JoinArgs,
}

/// `pool uninstall` and `worker uninstall`.
#[derive(Args, Debug)]
pub(super) struct UninstallArgs {
    /// Its name; of the private pool none
    name: Option<Name>,
    /// Where the unit lies, if systemd was not told of it
    #[arg(long, value_name = "DIR")]
    unit_dir: Option<PathBuf>,
}

/// Writes the unit of a pool, and has it started.
pub(super) fn pool(global: &Global, args: &PoolInstallArgs, manner: Manner) -> Result<u8, Failure> {
    let place = Place::new(args.unit.unit_dir.as_ref())?;
    let root = find_root(global)?;
    let name = args.serve.name();
    let shown = name.map_or_else(|| "of this machine".to_owned(), |name| name.to_string());
    let mut command = program(&["pool", "serve"])?;
    command.extend(args.serve.arguments());
    command.extend(["--state".into(), root.path().into()]);
    let unit = Unit {
        description: format!("clusterctl pool {shown}"),
        command,
        kind: Kind::Pool,
        scope: place.scope,
    };
    install(&place, &unit, &unit_name(Kind::Pool, name), args.unit.print, manner)
}

/// Lets the worker in, writes its unit, and has it started. The token is spent here, and is in no file.
pub(super) async fn worker(global: &Global, args: &WorkerInstallArgs, manner: Manner) -> Result<u8, Failure> {
    join::wipe_token(args.join.token());
    let place = Place::new(args.unit.unit_dir.as_ref())?;
    let root = find_root(global)?;
    let name = match (&args.unit.print, args.join.name()) {
        (true, Some(name)) => name.clone(),
        (true, None) => Name::from_any(&facts::hostname()),
        (false, _) => join::enrol(global, &args.join).await?,
    };
    let mut command = program(&["worker", "join"])?;
    command.extend(args.join.arguments());
    command.extend(["--name".into(), name.as_str().into(), "--state".into(), root.path().into()]);
    if let Some(proxy) = &global.proxy {
        command.extend(["--proxy".into(), proxy.into()]);
    }
    let description = format!("clusterctl worker {name} of {}", args.join.address());
    let unit = Unit { description, command, kind: Kind::Worker, scope: place.scope };
    install(&place, &unit, &unit_name(Kind::Worker, Some(&name)), args.unit.print, manner)
}

/// Stops what a unit started, and removes the unit. State stays, and so do jobs.
pub(super) fn uninstall(kind: Kind, args: &UninstallArgs, manner: Manner) -> Result<u8, Failure> {
    let place = Place::new(args.unit_dir.as_ref())?;
    let default = Name::from_any(&facts::hostname());
    let name = match kind {
        Kind::Pool => args.name.as_ref(),
        Kind::Worker => Some(args.name.as_ref().unwrap_or(&default)),
    };
    let unit = unit_name(kind, name);
    let path = place.directory.join(&unit);
    if !path.exists() {
        return Err(Failure::new("no-unit", format!("there is no unit {}", path.display())));
    }
    place.systemctl(&["disable", "--now", &unit])?;
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display())).map_err(internal)?;
    place.systemctl(&["daemon-reload"])?;
    let sentence = format!("removed {}; its state stays", path.display());
    tell_done(manner, &sentence, &unit, serde_json::json!({ "unit": unit, "path": path }));
    Ok(0)
}

fn install(place: &Place, unit: &Unit, name: &str, print: bool, manner: Manner) -> Result<u8, Failure> {
    let text = unit.text();
    if print {
        tell!("{}", text.trim_end());
        return Ok(0);
    }
    let path = place.directory.join(name);
    let before = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.with_context(|| format!("cannot read {}", path.display())).map_err(internal)?),
    };
    let of_another = |before: &String| !before.contains(&format!("Description={}\n", unit.description));
    if before.as_ref().is_some_and(of_another) {
        let refused = Failure::new("unit-exists", format!("{} is of another pool", path.display()));
        return Err(refused.hint("choose another --name, or uninstall that one first"));
    }
    let changed = before.as_ref() != Some(&text);
    if changed {
        let write = || -> anyhow::Result<()> {
            fs::create_dir_all(&place.directory)?;
            let mut file = tempfile::NamedTempFile::new_in(&place.directory)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            io::Write::flush(&mut file)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode)?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display())).map_err(internal)?;
    }
    place.systemctl(&["daemon-reload"])?;
    place.systemctl(&["enable", name])?;
    place.systemctl(&[if changed { "restart" } else { "start" }, name])?;
    let done = match (before.is_some(), changed) {
        (false, _) => "wrote",
        (true, true) => "changed",
        (true, false) => "nothing to change in",
    };
    let mut sentence = format!("{done} {}", path.display());
    sentence += &match place.told {
        Told::Yes => format!("\n  it runs: {} status {name}", place.manager()),
        Told::No => format!("\n  to start it: {} enable --now {name}", place.manager()),
    };
    if place.scope == Scope::User {
        sentence += "\n  to keep it when you log out: loginctl enable-linger";
    }
    let document = serde_json::json!({ "unit": name, "path": path, "changed": changed });
    tell_done(manner, &sentence, name, document);
    Ok(0)
}

/// Where units go, and who is told.
struct Place {
    directory: PathBuf,
    scope: Scope,
    told: Told,
}

/// Whether systemd is told of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Yes,
    /// It does not run, or the unit is not where it looks.
    No,
}

impl Place {
    fn new(given: Option<&PathBuf>) -> Result<Self, Failure> {
        let scope = if facts::uid() == 0 { Scope::System } else { Scope::User };
        let told = if given.is_none() && Path::new(BOOTED).exists() { Told::Yes } else { Told::No };
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let directory = match (given, scope) {
            (Some(directory), _) => std::path::absolute(directory)?,
            (None, Scope::System) => PathBuf::from("/etc/systemd/system"),
            (None, Scope::User) => variable("XDG_CONFIG_HOME")
                .or_else(|| variable("HOME").map(|home| home.join(".config")))
                .ok_or_else(|| Failure::new("no-home", "no home directory for this user"))?
                .join("systemd/user"),
        };
        Ok(Self { directory, scope, told })
    }

    fn manager(&self) -> &'static str {
        match self.scope {
            Scope::System => "systemctl",
            Scope::User => "systemctl --user",
        }
    }

    /// Tells systemd, if it is there.
    fn systemctl(&self, args: &[&str]) -> Result<(), Failure> {
        if self.told == Told::No {
            return Ok(());
        }
        let mut command = Command::new("systemctl");
        command.args((self.scope == Scope::User).then_some("--user")).args(args);
        let done = command.output().context("cannot run systemctl").map_err(internal)?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let words = format!("{} {}: {}", self.manager(), args.join(" "), said.trim());
        Err(Failure::new("systemd", words))
    }
}

fn unit_name(kind: Kind, name: Option<&Name>) -> String {
    match (kind, name) {
        (Kind::Pool, None) => "clusterctl-pool.service".to_owned(),
        (Kind::Pool, Some(name)) => format!("clusterctl-pool-{name}.service"),
        (Kind::Worker, name) => format!("clusterctl-worker-{}.service", name.map_or("", Name::as_str)),
    }
}

/// This program, by its path, and a command of it.
fn program(words: &[&str]) -> Result<Vec<OsString>, Failure> {
    let own = std::env::current_exe().context("cannot find this program").map_err(internal)?;
    Ok(std::iter::once(own.into_os_string()).chain(words.iter().map(OsString::from)).collect())
}
