//! `pool install`, `worker install` and the ways back: services of systemd, the machine's or a user's own.
//!
//! A worker is let in when it is installed, so that neither a token nor another secret lies in its unit.

use std::path::PathBuf;

use clap::Args;

use super::join::JoinArgs;
use super::serve::{ServeArgs, find_root};
use super::{Global, block_on, internal};
use crate::client::Manner;
use crate::client::commands::tell_done;
use crate::client::error::Failure;
use crate::core::id::Name;
use crate::core::unit::{Manager, Served, Unit, description_of};
use crate::process::{facts, systemd};
use crate::say::{say, tell};

/// Variables that say what is between a worker and its pool; a service has none of its installer's.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"];

/// Which unit, and what becomes of it.
#[derive(Args, Debug)]
struct UnitArgs {
    /// A service of this user's own; root's are the machine's if not given
    #[arg(long)]
    user: bool,
    /// Show the unit, and change nothing
    #[arg(long)]
    print: bool,
}

/// `pool install`.
#[derive(Args, Debug)]
pub(super) struct PoolInstallArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    unit: UnitArgs,
}

/// `worker install`.
#[derive(Args, Debug)]
pub(super) struct WorkerInstallArgs {
    #[command(flatten)]
    join: JoinArgs,
    #[command(flatten)]
    unit: UnitArgs,
}

/// `pool uninstall` and `worker uninstall`.
#[derive(Args, Debug)]
pub(super) struct UninstallArgs {
    /// As it was given when it was installed
    #[arg(long)]
    name: Option<Name>,
    /// The service of this user's own
    #[arg(long)]
    user: bool,
}

/// Makes a pool a service.
pub(super) fn pool(global: &Global, args: &PoolInstallArgs, manner: Manner) -> Result<u8, Failure> {
    let global = args.serve.place.over(global);
    let root = text_of(find_root(&global)?.path().to_owned())?;
    args.serve.check_listening()?;
    let name = args.serve.name();
    let unit = Unit {
        served: Served::Pool,
        manager: manager(args.unit.user),
        description: name.map_or("clusterctl pool".to_owned(), |name| format!("clusterctl pool {name}")),
        command: command(args.serve.unit_words()?, &root)?,
        environment: Vec::new(),
    };
    install(&unit, name, args.unit.print, manner)
}

/// Lets a worker in, and makes it a service.
pub(super) fn worker(global: &Global, args: &WorkerInstallArgs, manner: Manner) -> Result<u8, Failure> {
    super::join::wipe_token(args.join.token());
    let global = args.join.place.over(global);
    let root = text_of(find_root(&global)?.path().to_owned())?;
    let environment = proxies(global.proxy.as_deref())?;
    let unit = |pool: &str, own: &str| -> Result<Unit, Failure> {
        Ok(Unit {
            served: Served::Worker,
            manager: manager(args.unit.user),
            description: format!("clusterctl worker for {pool}"),
            command: command(args.join.unit_words(pool, own)?, &root)?,
            environment: environment.clone(),
        })
    };
    let name = args.join.name();
    let (pool, default) = block_on(args.join.place_and_name(&global))?;
    let planned = unit(&pool, &default)?;
    if args.unit.print {
        return install(&planned, name, true, manner);
    }
    // Before a token is spent for what cannot be installed.
    let path = unit_path(&planned, name)?;
    if let Some(present) = systemd::read_unit(&path)?
        && description_of(&present).as_ref() != Some(&planned.description)
    {
        let what = description_of(&present).unwrap_or_else(|| "something else".to_owned());
        return Err(Failure::new("unit-in-use", format!("{} is for {what}", path.display()))
            .hint("--name NAME for another worker on this machine, or clusterctl worker uninstall"));
    }
    planned.text().map_err(|bad| Failure::new("usage", bad))?;
    let own = block_on(args.join.admit(&global))?;
    install(&unit(&pool, &own)?, name, false, manner)
}

/// Ends a service and removes its unit; what it kept stays.
pub(super) fn uninstall(served: Served, args: &UninstallArgs, manner: Manner) -> Result<u8, Failure> {
    let manager = manager(args.user);
    let service = service(served, args.name.as_ref());
    let path = directory(manager)?.join(&service);
    if systemd::read_unit(&path)?.is_none() {
        let failure = Failure::new("no-such-unit", format!("{service} is not installed"));
        return Err(Failure { exit: 3, ..failure.fact("unit", path.display()) });
    }
    let running = systemd::is_running(manager);
    if running {
        systemd::ask(manager, &["disable", "--now", &service]).map_err(internal)?;
    }
    std::fs::remove_file(&path)?;
    if running {
        systemd::ask(manager, &["daemon-reload"]).map_err(internal)?;
    }
    let stays = match served {
        Served::Pool => "its state stays, and jobs at workers go on",
        Served::Worker => "its state stays, and what it runs goes on until a worker joins there again",
    };
    let document = serde_json::json!({ "unit": service, "path": path.display().to_string() });
    tell_done(manner, &format!("removed {service}: {stays}"), &service, document);
    Ok(0)
}

/// Writes a unit if it is not there as it should be, and has it run.
fn install(unit: &Unit, name: Option<&Name>, print: bool, manner: Manner) -> Result<u8, Failure> {
    let text = unit.text().map_err(|bad| Failure::new("usage", bad))?;
    if print {
        tell!("{}", text.trim_end());
        return Ok(0);
    }
    let (service, path) = (service(unit.served, name), unit_path(unit, name)?);
    let before = systemd::read_unit(&path)?;
    let changed = before.as_ref() != Some(&text);
    if changed {
        systemd::write_unit(&path, &text)?;
    }
    let mut steps: Vec<Vec<&str>> = vec![vec!["daemon-reload"], vec!["enable", "--now", &service]];
    if changed && before.is_some() {
        steps.push(vec!["restart", &service]);
    }
    let running = systemd::is_running(unit.manager);
    if running {
        for words in &steps {
            systemd::ask(unit.manager, words).map_err(internal)?;
        }
    }
    let became = match (&before, changed) {
        (None, _) => "installed",
        (Some(_), true) => "changed",
        (Some(_), false) => "unchanged",
    };
    let document = serde_json::json!({
        "unit": service, "path": path.display().to_string(), "became": became, "running": running,
    });
    tell_done(manner, &format!("{became} {}", path.display()), &service, document);
    if !running {
        let lines = steps.iter().map(|words| systemd::command_line(unit.manager, words));
        say!("systemd does not run here; where it does: {}", lines.collect::<Vec<_>>().join(" && "));
    }
    if unit.manager == Manager::User && !systemd::lingers(&facts::user()) {
        say!("it ends when you log out, with all that it runs; to go on: loginctl enable-linger");
    }
    Ok(0)
}

fn manager(user: bool) -> Manager {
    if user || facts::uid() != 0 { Manager::User } else { Manager::System }
}

fn service(served: Served, name: Option<&Name>) -> String {
    let kind = match served {
        Served::Pool => "pool",
        Served::Worker => "worker",
    };
    name.map_or_else(
        || format!("clusterctl-{kind}.service"),
        |name| format!("clusterctl-{kind}-{name}.service"),
    )
}

fn directory(manager: Manager) -> Result<PathBuf, Failure> {
    systemd::unit_directory(manager).ok_or_else(|| Failure::new("no-home", "no home directory for this user"))
}

fn unit_path(unit: &Unit, name: Option<&Name>) -> Result<PathBuf, Failure> {
    Ok(directory(unit.manager)?.join(service(unit.served, name)))
}

/// This program with these words, and the state that the command line finds.
fn command(words: Vec<String>, state: &str) -> Result<Vec<String>, Failure> {
    let program = text_of(std::env::current_exe()?)?;
    let state = ["--state".to_owned(), state.to_owned()];
    Ok(std::iter::once(program).chain(words).chain(state).collect())
}

/// What dials of this process heed, for the service. A unit can be read by everybody, so no password may be in it.
fn proxies(given: Option<&str>) -> Result<Vec<(String, String)>, Failure> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut found: Vec<(String, String)> =
        PROXY_VARIABLES.into_iter().filter_map(|name| Some((name.to_owned(), set(name)?))).collect();
    if let Some(url) = given {
        found.retain(|(name, _)| !name.eq_ignore_ascii_case("HTTPS_PROXY"));
        found.push(("HTTPS_PROXY".to_owned(), url.to_owned()));
    }
    if found.iter().any(|(name, value)| name.eq_ignore_ascii_case("HTTPS_PROXY") && value.contains('@')) {
        let text = "the proxy's URL has a password, and everybody can read a unit";
        return Err(Failure::new("usage", text)
            .hint("install without a proxy, and name it in an EnvironmentFile= by systemctl edit"));
    }
    Ok(found)
}

/// Units are UTF-8.
pub(super) fn text_of(path: PathBuf) -> Result<String, Failure> {
    path.into_os_string().into_string().map_err(|path| {
        Failure::new("usage", format!("not UTF-8, so no unit can name it: {}", path.display()))
    })
}
