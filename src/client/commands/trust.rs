//! `context trust`: a person decides about a pool that shows another key than before.

use std::io::{BufRead, IsTerminal};

use super::super::connection::{Session, Target, other_key};
use super::super::context::{Config, Context};
use super::super::error::Failure;
use super::super::{Manner, render};
use super::context::{LOCAL, no_such_context};
use super::tell_done;
use crate::core::id::Fingerprint;
use crate::core::limits::NAME_BYTES_MAX;
use crate::net::address;
use crate::net::dial::{self, Route};
use crate::say::say;
use crate::store::place::StateRoot;

/// Fewer digits of a key than these somebody could hit by making keys until one fits.
const DIGITS_MIN: usize = 16;

/// Takes the key that a pool shows now for the pool's, when a person says so, who has seen it elsewhere.
///
/// Whoever stands in between gains what a person gives here, and no more: nothing is sent before, the key is proved and
/// not only claimed, and a false pool can never pose as us towards the real one.
///
/// # Errors
/// When the pool does not answer, or nobody has decided.
pub(super) async fn trust(
    (root, route): (&StateRoot, Route),
    name: &str,
    yes: Option<&str>,
    manner: Manner,
) -> Result<(), Failure> {
    let known = match Config::load()?.contexts.remove(name) {
        None if name != LOCAL => return Err(no_such_context(name)),
        known => known,
    };
    let address = known.as_ref().and_then(|context| context.address.clone()).ok_or_else(|| {
        Failure::new(
            "usage",
            format!("\"{name}\" is a pool on this machine: it is known by its socket, not by a key"),
        )
    })?;
    let expected = known.as_ref().and_then(Context::fingerprint).unwrap_or_default();
    let presented = dial::look(&address, &route).await.map_err(|error| {
        Failure::new("unreachable", format!("cannot reach pool \"{name}\" at {address}: {error}"))
    })?;
    let key = presented.to_string();
    if presented == expected {
        let sentence =
            format!("pool \"{name}\" shows the key that it is known by; there is nothing to decide");
        tell_done(
            manner,
            &sentence,
            &key,
            serde_json::json!({ "trusted": name, "key": key, "changed": false }),
        );
        return Ok(());
    }
    decide(name, &address, (expected, presented), yes)?;
    let mut config = Config::load()?;
    let context = config.contexts.get_mut(name).ok_or_else(|| no_such_context(name))?;
    context.set_fingerprint(presented);
    let context = context.clone();
    config.save()?;
    let document = serde_json::json!({ "trusted": name, "key": key, "changed": true });
    tell_done(manner, &format!("pool \"{name}\" is known by {key} from now on"), &key, document);
    if manner.speaks() {
        // A pool that was made anew has other clients than the one before: none.
        let mut session = Session::to(Target::Remote(name.to_owned(), context), root.clone(), route.proxies);
        match session.pool().await {
            Ok(_) => {
                let you = session.welcome().map_or("", |welcome| &welcome.you);
                say!("  it knows this user as {}", render::plain(you.as_bytes(), NAME_BYTES_MAX));
            }
            Err(failure) if failure.refusal.code == "auth-unknown-key" => say!(
                "  it does not know this user yet\n  on {}: clusterctl token create --client\n  here: clusterctl context add {name} {address} --token CCT1-c-…",
                address::host(&address)
            ),
            Err(failure) => say!("  {}", failure.refusal.message),
        }
    }
    Ok(())
}

/// Whether somebody vouches for the new key: by its digits, or on a terminal, by a word.
fn decide(
    name: &str,
    address: &str,
    (expected, presented): (Fingerprint, Fingerprint),
    yes: Option<&str>,
) -> Result<(), Failure> {
    let compare = format!("on {}: clusterctl pool status", address::host(address));
    if let Some(given) = yes {
        let digits = given.trim().trim_start_matches("sha256:").trim_end_matches('…').to_ascii_lowercase();
        if digits.len() < DIGITS_MIN {
            return Err(Failure::new(
                "usage",
                format!("--yes needs {DIGITS_MIN} digits of the new key or more"),
            )
            .hint(compare));
        }
        if data_encoding::HEXLOWER.encode(&presented.0).starts_with(&digits) {
            return Ok(());
        }
        return Err(Failure::new(
            "key-mismatch",
            format!("pool \"{name}\" shows another key than the one given"),
        )
        .fact("given", given)
        .fact("presented", presented)
        .hint(compare));
    }
    if !std::io::stdin().is_terminal() {
        return Err(other_key(name, expected, presented)
            .hint(format!("{compare}; if its key is that one: clusterctl context trust {name} --yes KEY")));
    }
    say!("pool \"{name}\" at {address} shows another key than before");
    say!("  before  {expected}");
    say!("  now     {presented}");
    say!("whoever is in between would show another one, too: compare it ({compare})");
    crate::say::sentence(format_args!("is that the pool's key? (yes/no) "));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new(
        "key-mismatch",
        format!("the new key of pool \"{name}\" is not trusted; nothing was changed"),
    ))
}
