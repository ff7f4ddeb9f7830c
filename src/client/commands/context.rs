//! `context`: the pools that this user knows.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::super::context::{Config, Context, own_key};
use super::super::error::Failure;
use super::super::{Format, Manner, render};
use super::{tell_done, trust};
use crate::core::access::Role;
use crate::core::id::Name;
use crate::core::pool::NameChoice;
use crate::core::refusal::os_words;
use crate::core::timing::Timing;
use crate::net::address;
use crate::net::dial::{DialError, Route};
use crate::net::enrol::{EnrolError, Enrolled, enrol};
use crate::net::proxy::Proxies;
use crate::net::token::Token;
use crate::process::facts;
use crate::say::tell;
use crate::store::lock::StateLock;
use crate::store::place::StateRoot;

/// The private pool, where a context is named.
pub(super) const LOCAL: &str = "local";

/// What can be done with contexts.
#[derive(Subcommand, Clone, Debug)]
pub enum ContextAction {
    /// Get to know a pool by a token of it, and use it from now on
    Add {
        /// As it is called here
        name: Name,
        /// Where it is, as head:7700
        #[arg(value_parser = address::dialled)]
        address: String,
        /// A client's token: the word itself, - for standard input, or @FILE
        #[arg(long, env = "CLUSTERCTL_TOKEN", hide_env_values = true)]
        token: String,
        /// The name by which the pool is to know this key
        #[arg(long = "as", value_name = "NAME")]
        wished: Option<Name>,
    },
    /// Use this pool from now on; `local` for the private one
    Use {
        /// The context
        name: String,
    },
    /// List them
    List,
    /// Forget one; the pool goes on to know this user
    Remove {
        /// The context
        name: String,
    },
    /// Decide that a pool which shows another key than before is the right one
    #[command(
        after_help = "Examples:\n  clusterctl context trust lab\n  clusterctl context trust lab --yes sha256:4b1f0c…"
    )]
    Trust {
        /// The context
        name: String,
        /// The new key, as `pool status` shows it on the pool's machine, or its first 16 digits; then nobody is asked
        #[arg(long, value_name = "KEY")]
        yes: Option<String>,
    },
}

/// Adds, chooses or lists contexts, or decides about the key of one.
///
/// # Errors
/// When a pool refuses the token, there is no such context, or nobody has decided.
pub async fn context(
    action: &ContextAction,
    root: &StateRoot,
    proxies: Proxies,
    manner: Manner,
) -> Result<u8, Failure> {
    let route = Route { timing: Timing::default(), proxies };
    match action {
        ContextAction::Add { name, address, token, wished } => {
            let enrolled = add((root, &route), name, address, &read_token(token)?, wished.as_ref()).await?;
            let Enrolled { pool, name: known_as, owner, .. } = enrolled;
            let sentence =
                format!("pool \"{pool}\" knows this user as {known_as} (owner {owner}); now using {name}");
            let document = serde_json::json!({ "v": 1, "pool": pool, "name": known_as, "owner": owner });
            tell_done(manner, &sentence, name.as_str(), document);
        }
        ContextAction::Use { name } => {
            let mut config = Config::load()?;
            if name == LOCAL {
                config.current = None;
            } else if config.contexts.contains_key(name) {
                config.current = Some(name.clone());
            } else {
                return Err(no_such_context(name));
            }
            config.save()?;
            tell_done(
                manner,
                &format!("now using {name}"),
                name,
                serde_json::json!({ "v": 1, "using": name }),
            );
        }
        ContextAction::List => list(&Config::load()?, manner),
        ContextAction::Remove { name } => {
            let mut config = Config::load()?;
            config.contexts.remove(name).ok_or_else(|| no_such_context(name))?;
            config.current.take_if(|current| current == name);
            config.save()?;
            let sentence =
                format!("{name} is forgotten; now using {}", config.current.as_deref().unwrap_or(LOCAL));
            tell_done(manner, &sentence, name, serde_json::json!({ "removed": name }));
        }
        ContextAction::Trust { name, yes } => {
            trust::trust((root, route), name, yes.as_deref(), manner).await?
        }
    }
    Ok(0)
}

pub(super) fn no_such_context(name: &str) -> Failure {
    Failure::new("no-such-context", format!("no context \"{name}\"")).hint("clusterctl context list")
}

/// A token as it is given: itself, from standard input, or from a file.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read_token(text: &str) -> Result<Token, Failure> {
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| unread(path, &error))?,
        None if text == "-" => std::io::read_to_string(std::io::stdin())?,
        None => text.to_owned(),
    };
    text.parse().map_err(|bad| Failure::new("auth-token-invalid", bad))
}

fn unread(path: &str, error: &std::io::Error) -> Failure {
    Failure::new("input-missing", format!("cannot read {path}: {}", os_words(error)))
        .hint("--token @FILE reads the token from a file, --token - from standard input")
}

async fn add(
    (root, route): (&StateRoot, &Route),
    name: &Name,
    address: &str,
    token: &Token,
    wished: Option<&Name>,
) -> Result<Enrolled, Failure> {
    if name.as_str() == LOCAL {
        return Err(Failure::new(
            "usage",
            "\"local\" is the private pool on this machine; choose another name",
        ));
    }
    if token.role != Role::Client {
        return Err(Failure::new(
            "auth-token-wrong-role",
            "this token is for a worker; a client needs one made with --client",
        )
        .hint("on the pool's machine: clusterctl token create --client"));
    }
    // Not while the key is being replaced: this pool would be left with the old one.
    let _lock = own_key(root).lock()?;
    let key = own_key(root).present()?;
    let default = Name::from_any(&facts::user());
    let wish = match wished {
        Some(name) => (name, NameChoice::Given),
        None => (&default, NameChoice::Default),
    };
    let enrolled =
        enrol(address, &key, token, wish, route).await.map_err(|error| failure(error, address, token))?;
    let mut config = Config::load()?;
    let key = data_encoding::HEXLOWER.encode(&enrolled.pool_key.0);
    let context = Context { address: Some(address.to_owned()), key: Some(key), state: None };
    config.contexts.insert(name.as_str().to_owned(), context);
    config.current = Some(name.as_str().to_owned());
    config.save()?;
    Ok(enrolled)
}

fn failure(error: EnrolError, address: &str, token: &Token) -> Failure {
    match error {
        EnrolError::Refused(why, text) => {
            let hint = why.hint(Role::Client, address::host(address));
            Failure::new(why.code(), text).fact("pool", address).hint(hint)
        }
        EnrolError::Dial(DialError::OtherKey { presented }) => {
            let (expected, presented) = token.tell_apart(&presented);
            Failure::new("key-mismatch", format!("{address} is not the pool this token is for"))
                .fact("expected", expected)
                .fact("presented", presented)
        }
        error => Failure::new("unreachable", format!("cannot reach {address}: {error}")),
    }
}

/// Remembers a pool of this user on this machine; it becomes the current one if there was none. Of another one of that
/// name, which does not run, it takes the place: with where that lies.
///
/// # Errors
/// When the configuration cannot be written, or another pool is known by that name, elsewhere or running.
pub fn remember_local(name: &Name, state: PathBuf) -> Result<Option<PathBuf>, Failure> {
    let mut config = Config::load()?;
    let known = config.contexts.get(name.as_str());
    let before = known.and_then(|known| known.state.clone()).filter(|before| !is_same(before, &state));
    let is_elsewhere = known.is_some_and(|known| known.address.is_some());
    if is_elsewhere || before.as_ref().is_some_and(|before| StateLock::is_held(before)) {
        let place = known.map(place).unwrap_or_default();
        return Err(Failure::new("config", format!("\"{name}\" goes on to mean the pool at {place} here"))
            .hint("to have a context of this one, serve it by another --name"));
    }
    let context = Context { address: None, key: None, state: Some(state) };
    let known = config.contexts.insert(name.as_str().to_owned(), context.clone());
    let first = config.current.is_none();
    if first {
        config.current = Some(name.as_str().to_owned());
    }
    if first || known != Some(context) {
        config.save()?;
    }
    Ok(before)
}

/// Whether a name means the pool with this state here.
pub fn means(name: &str, state: &Path) -> bool {
    let known = Config::load().ok().and_then(|mut config| config.contexts.remove(name));
    known.and_then(|known| known.state).is_some_and(|known| is_same(&known, state))
}

/// Whether both are one directory, however they are written.
fn is_same(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| path.canonicalize().ok();
    one == other || found(one).is_some_and(|one| found(other) == Some(one))
}

/// Where a pool is, as people read it.
fn place(context: &Context) -> String {
    let state = || context.state.as_ref().map(|state| state.display().to_string());
    context.address.clone().or_else(state).unwrap_or_default()
}

fn list(config: &Config, manner: Manner) {
    let rows: Vec<(String, String, bool)> = std::iter::once((
        LOCAL.to_owned(),
        "the private pool on this machine".to_owned(),
        config.current.is_none(),
    ))
    .chain(
        config
            .contexts
            .iter()
            .map(|(name, context)| (name.clone(), place(context), config.current.as_ref() == Some(name))),
    )
    .collect();
    match manner.format {
        Format::Human => {
            let rows = rows.into_iter().map(|(name, place, current)| {
                vec![if current { "*".to_owned() } else { String::new() }, name, place]
            });
            crate::say::result(format_args!("{}", render::table(&["", "NAME", "POOL"], rows.collect())));
        }
        Format::Json | Format::Ndjson => {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(name, place, current)| serde_json::json!({"v": 1, "name": name, "pool": place, "current": current}))
                .collect();
            tell!("{}", serde_json::Value::from(rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_state_by_another_path_is_no_other_pool() {
        let root = tempfile::tempdir().unwrap();
        let (state, link) = (root.path().join("lab"), root.path().join("link"));
        std::fs::create_dir(&state).unwrap();
        std::os::unix::fs::symlink(&state, &link).unwrap();

        assert!(is_same(&link, &state) && is_same(&state.join("../lab"), &state));
        assert!(!is_same(&state, root.path()) && !is_same(&root.path().join("gone"), &state));
    }
}
