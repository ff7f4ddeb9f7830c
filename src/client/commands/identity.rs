//! `identity`: the key of this user, of its workers and of its pools, and another one in its place.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::connection::{Session, Target};
use super::super::context::{Config, own_key};
use super::super::error::{Failure, check_refused};
use super::super::{Manner, duration, render};
use super::tell_done;
use crate::core::id::Fingerprint;
use crate::net::key::{KeyFile, KeyPair};
use crate::net::proxy::Proxies;
use crate::net::succession;
use crate::process::clock;
use crate::store::place::StateRoot;
use crate::wire;

/// `identity`.
#[derive(Args, Clone, Debug, Default)]
pub struct IdentityArgs {
    /// What to do; nothing: show it
    #[command(subcommand)]
    pub action: Option<IdentityAction>,
}

/// What can be done with a user's key.
#[derive(Subcommand, Clone, Debug)]
pub enum IdentityAction {
    /// Make another key, and have every pool that this user knows take it for the present one
    Renew,
}

/// What can be done with a pool's key.
#[derive(Subcommand, Clone, Debug)]
pub enum PoolIdentityAction {
    /// Give the pool another key, which the present one vouches for
    #[command(
        after_help = "Examples:\n  clusterctl pool identity renew\n  clusterctl pool identity renew --overlap 90d"
    )]
    Renew {
        /// How long the pool answers to the present key; who comes within that time learns the new one by itself
        #[arg(long, default_value = "30d", value_name = "TIME", value_parser = duration::parse)]
        overlap: Duration,
        /// Where state lies
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
}

/// Shows or replaces the key of this user.
///
/// # Errors
/// When it cannot be read, or a pool that knows it cannot be reached; then the present one is kept.
pub async fn identity(
    args: &IdentityArgs,
    root: &StateRoot,
    proxies: Proxies,
    manner: Manner,
) -> Result<u8, Failure> {
    let file = own_key(root);
    match args.action {
        None => show(&file, manner)?,
        Some(IdentityAction::Renew) => renew(&file, root, proxies, manner).await?,
    }
    Ok(0)
}

fn show(file: &KeyFile, manner: Manner) -> Result<(), Failure> {
    let key = file.present()?.fingerprint();
    let next = file.next()?.map(|next| next.fingerprint());
    let mut sentence = format!("key {key}\n  kept in {file}");
    if let Some(next) = next {
        sentence += &format!(
            "\n  is being replaced by {next}; some pools know that one already\n  go on with: clusterctl identity renew"
        );
    }
    let document = serde_json::json!({
        "key": key.to_string(), "file": file.to_string(), "next": next.map(|next| next.to_string()),
    });
    tell_done(manner, &sentence, &key.to_string(), document);
    Ok(())
}

async fn renew(file: &KeyFile, root: &StateRoot, proxies: Proxies, manner: Manner) -> Result<(), Failure> {
    let _lock = file.lock()?;
    let config = Config::load()?;
    let remote = config.contexts.into_iter().filter(|(_, context)| context.address.is_some());
    let (mut known, mut strange) = (Vec::new(), Vec::new());
    // All of them are reached before anything changes at one.
    for (name, context) in remote {
        let mut session = Session::to(Target::Remote(name.clone(), context), root.clone(), proxies.clone());
        match session.pool().await {
            Ok(_) => known.push((name, session)),
            Err(failure) if failure.refusal.code == "auth-unknown-key" => strange.push(name),
            Err(failure) => {
                return Err(Failure::new(&failure.refusal.code, failure.refusal.message).hint(format!(
                    "nothing has changed; if that pool is gone for good: clusterctl context remove {name}"
                )));
            }
        }
    }
    let next = file.prepare_next()?;
    let present = file.present()?;
    for (name, session) in &mut known {
        renew_at(session, &present, &next).await.map_err(|failure| {
            let text = format!("pool \"{name}\" did not take the new key: {}", failure.refusal.message);
            Failure::new(&failure.refusal.code, text)
                .hint("both keys are kept, and each pool is met by the one it knows; go on with: clusterctl identity renew")
        })?;
    }
    let key = next.fingerprint();
    file.promote_next(key)?;
    let names: Vec<String> = known.into_iter().map(|(name, _)| name).collect();
    let mut sentence = format!("this user has another key: {key}");
    sentence += &match names[..] {
        [] => "\n  no pool knew the one before".to_owned(),
        _ => format!("\n  known to {}", names.join(", ")),
    };
    if !strange.is_empty() {
        sentence += &format!("\n  not known, like the one before, to {}", strange.join(", "));
    }
    let document = serde_json::json!({ "key": key.to_string(), "known": names, "unknown": strange });
    tell_done(manner, &sentence, &key.to_string(), document);
    Ok(())
}

/// One pool takes the next key for the present one, unless it has already.
async fn renew_at(session: &mut Session, present: &KeyPair, next: &KeyPair) -> Result<(), Failure> {
    if session.connect_as(next).await.is_ok() {
        return Ok(());
    }
    session.connect_as(present).await?;
    let pool = session.welcome().expect("it was just connected").fingerprint;
    let said = succession::renew(pool, present.fingerprint(), next)
        .map_err(|error| Failure::new("internal", error))?;
    let mut request = session.pool().await?.renew_key_request();
    request.get().set_key(&said.key);
    request.get().set_signature(&said.signature);
    // The pool cuts the connection of the old key, perhaps before its answer is heard: the new one tells.
    match request.send().promise.await {
        Ok(answer) => {
            let answer = answer.get()?;
            check_refused(answer.has_refused(), answer.get_refused())?;
        }
        Err(error) if error.kind == capnp::ErrorKind::Disconnected => {}
        Err(error) => return Err(error.into()),
    }
    session.connect_as(next).await
}

/// Replaces the key of the pool that is meant.
///
/// # Errors
/// When it is not the caller's own pool, or answers to too many keys.
pub async fn renew_pool(session: &mut Session, overlap: Duration, manner: Manner) -> Result<u8, Failure> {
    let admin = session.admin().await?;
    let name = session.welcome().map_or_else(String::new, |welcome| welcome.pool.clone());
    let mut request = admin.renew_pool_key_request();
    request.get().set_answer_ms(u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX));
    let answer = request.send().promise.await?;
    let answer = answer.get()?;
    check_refused(answer.has_refused(), answer.get_refused())?;
    let key = Fingerprint(wire::text::read_array(answer.get_fingerprint(), "a fingerprint")?).to_string();
    let until = render::rfc3339(clock::wall().after(overlap));
    let sentence = format!(
        "pool \"{name}\" is known by {key} from now on\n  until {until} it answers to the key before, too: who comes by that learns the new one"
    );
    let document = serde_json::json!({ "pool": name, "key": key, "until": until });
    tell_done(manner, &sentence, &key, document);
    Ok(0)
}
