//! `doctor`: what keeps this user from working, or could; and what to do about it.
//!
//! It starts no pool. What is found is judged in `core::checkup`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::connection::{Session, Target};
use super::super::context::{config_path, history_path};
use super::super::error::Failure;
use super::super::{Format, Manner, Verbosity, private_pool};
use super::{pool, workers};
use crate::core::checkup::machine::{self, BashFor};
use crate::core::checkup::pool::{Way, disk, isolation, output, reached};
use crate::core::checkup::{self, Check, Verdict};
use crate::net::dial;
use crate::net::proxy::Proxies;
use crate::process::inspect;
use crate::say::tell;
use crate::store::place::{self, StateRoot, Surroundings};

/// A pool that is there answers each question by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Looks at this user's client, at the pool that is meant, and at this machine.
pub async fn examine(wanted: Option<&str>, state: Option<PathBuf>, proxies: Proxies) -> Vec<Check> {
    let root = match StateRoot::find(&Surroundings::of_process(state)) {
        Ok(root) => root,
        Err(error) => return vec![Check::fail("state", error.to_string(), "Say where: --state DIR")],
    };
    let target = Target::choose(wanted, &root);
    let mut checks = vec![client(&target)];
    if let Ok(target) = &target {
        checks.extend(at_pool(target, &root, proxies).await);
    }
    checks.extend(on_machine(target.as_ref().ok(), &root));
    checks
}

/// Tells what was found; 1 if anything fails.
pub fn show(checks: &[Check], manner: Manner) -> u8 {
    let json = |check: &Check| {
        serde_json::json!({
            "v": 1, "verdict": check.verdict.as_str().to_lowercase(), "what": check.what, "words": check.words,
            "remedy": check.remedy,
        })
    };
    match (manner.format, manner.verbosity) {
        (Format::Human, Verbosity::Normal) => crate::say::result(format_args!("{}", checkup::text(checks))),
        (Format::Human, Verbosity::Quiet) => {
            let unwell: Vec<Check> =
                checks.iter().filter(|check| check.verdict != Verdict::Ok).cloned().collect();
            crate::say::result(format_args!("{}", checkup::text(&unwell)));
        }
        (Format::Json, _) => {
            tell!("{}", serde_json::Value::from(checks.iter().map(json).collect::<Vec<_>>()))
        }
        (Format::Ndjson, _) => checks.iter().for_each(|check| tell!("{}", json(check))),
    }
    u8::from(checkup::worst(checks) == Verdict::Fail)
}

fn client(target: &Result<Target, Failure>) -> Check {
    let config =
        config_path().map_or_else(|| "no config".to_owned(), |path| format!("config {}", path.display()));
    match target {
        Ok(target) => {
            let meant = match target {
                Target::Private => "the private pool on this machine".to_owned(),
                Target::Local(name, _) => format!("pool {name} on this machine"),
                Target::Remote(name, _) => format!("context {name}"),
            };
            Check::ok("client", format!("{}, {config}, {meant}", crate::build()))
        }
        Err(failure) => Check::refused("client", &failure.refusal),
    }
}

async fn at_pool(target: &Target, root: &StateRoot, proxies: Proxies) -> Vec<Check> {
    let name = target.name().to_owned();
    let (target, way) = match target {
        Target::Private => {
            let state = private_pool::state_directory(root);
            if dial::dial_local(&place::socket_path(&state)).await.is_err() {
                return vec![Check::ok("network", "the private pool is not running, it starts by itself")];
            }
            // As a pool on this machine it is not started again, should it end just now.
            (Target::Local(target.name().to_owned(), state), Way::Socket("the private pool".to_owned()))
        }
        Target::Local(name, _) => (target.clone(), Way::Socket(format!("pool \"{name}\""))),
        Target::Remote(_, context) => {
            let address = context.address.clone().unwrap_or_default();
            // A proxy that cannot be understood is told of when it is dialled.
            let proxy = proxies.to(&address).ok().flatten().map(ToString::to_string);
            let way = match proxy {
                Some(proxy) => Way::Proxy(address, proxy),
                None => Way::Network(address),
            };
            (target.clone(), way)
        }
    };
    let mut session = Session::to(target, root.clone(), proxies);
    let asked = tokio::time::timeout(ANSWER_WITHIN, ask(&mut session, &way));
    asked.await.unwrap_or_else(|_| {
        let words = format!("pool \"{name}\" does not answer within {}s", ANSWER_WITHIN.as_secs());
        vec![Check::fail("network", words, "On the pool's machine: clusterctl pool status")]
    })
}

async fn ask(session: &mut Session, way: &Way) -> Vec<Check> {
    if let Err(failure) = session.pool().await {
        // A pool that refuses has been reached, and its key has fitted.
        return if failure.refusal.code.starts_with("auth-") {
            vec![Check::ok("network", way.words()), Check::refused("auth", &failure.refusal)]
        } else {
            vec![Check::refused("network", &failure.refusal)]
        };
    }
    let began = Instant::now();
    let status = match pool::ask(session).await {
        Ok(status) => status,
        Err(failure) => return vec![Check::refused("network", &failure.refusal)],
    };
    let mut checks = vec![reached(way, began.elapsed())];
    if let Some(welcome) = session.welcome() {
        let words = format!("known to the pool as {} (jobs of {})", welcome.you, welcome.owner);
        checks.push(Check::ok("auth", words));
    }
    checks.push(output(&status));
    checks.push(disk(&status));
    match workers::all(session).await {
        Ok(workers) => {
            checks.extend(checkup::pool::workers(&workers));
            checks.extend(isolation(&workers));
        }
        Err(failure) => checks.push(Check::refused("workers", &failure.refusal)),
    }
    checks
}

fn on_machine(target: Option<&Target>, root: &StateRoot) -> Vec<Check> {
    let text = |path: PathBuf| (path.display().to_string(), inspect::found(&path));
    let needed = if target == Some(&Target::Private) { BashFor::Jobs } else { BashFor::Prompt };
    let mut checks = vec![machine::bash(inspect::bash(), needed)];
    let pools: Vec<PathBuf> = root.pools().iter().map(|name| root.pool(name)).collect();
    let directories = || std::iter::once(root.client()).chain(pools.iter().cloned());
    let keys: Vec<_> = directories().map(|directory| text(directory.join("key"))).collect();
    checks.extend(machine::keys(&keys));
    let below: Vec<_> = directories().map(text).collect();
    let (path, found) = text(root.path().to_owned());
    checks.extend(machine::state((&path, &found), &below, inspect::can_make_in(root.path())));
    let history = history_path();
    let words = history.as_ref().map(|path| path.display().to_string());
    let found = history.as_ref().map_or(machine::Found::Missing, |path| inspect::found(path));
    let writable = history.map_or(Ok(()), |path| inspect::can_append_to(&path));
    checks.push(machine::history(words.as_deref(), &found, writable));
    checks
}
