//! Keys that take the place of others: a holder's own, and the pool's.

use std::sync::Arc;
use std::time::Duration;

use super::peers::ToPeer;
use super::shared::Shared;
use crate::core::id::{ConnectionId, Fingerprint};
use crate::core::pool::{RenewalRefused, Viewer};
use crate::core::refusal::Refusal;
use crate::core::succession::Renewal;
use crate::net::keyring::{RenewError, Renewed};
use crate::net::succession::renewed_key;
use crate::process::clock;

/// Another key takes the place of the one that a connection was made with.
pub(super) async fn renew_key(
    shared: &Shared,
    connection: ConnectionId,
    source: &str,
    said: Renewal,
) -> Result<Option<Refusal>, capnp::Error> {
    let Some(before) = shared.peers.key_of(connection) else {
        return Ok(Some(Refusal::new("no-key", "by the socket nobody is known by a key")));
    };
    let Some(after) = renewed_key(&said, &shared.keys.all(), before) else {
        return Ok(Some(Refusal::new("bad-request", "the new key did not sign for this")));
    };
    let source = source.to_owned();
    let renewed =
        shared.pool.update(move |pool, now| pool.renew_key(now, connection, (before, after), source)).await?;
    Ok(renewed.err().map(|refused| {
        let code = match refused {
            RenewalRefused::Unknown => "auth-unknown-key",
            RenewalRefused::InUse => "key-in-use",
            RenewalRefused::Elsewhere(_) => "worker-elsewhere",
        };
        Refusal::new(code, refused)
    }))
}

/// The pool is known by another key from now on, and answers to the present one for a while.
pub(super) async fn renew_pool_key(
    shared: &Shared,
    viewer: &Viewer,
    answer: Duration,
) -> Result<Result<Fingerprint, Refusal>, capnp::Error> {
    let Renewed { before, after, said } = match shared.keys.renew(clock::wall().after(answer)) {
        Ok(renewed) => renewed,
        Err(error @ RenewError::TooMany) => return Ok(Err(Refusal::new("too-many-keys", error))),
        Err(RenewError::Key(error)) => return Ok(Err(Refusal::new("key-file", error))),
    };
    tracing::info!(key = %format!("{after:.4}"), "the pool has another key");
    shared.peers.tell_workers(&ToPeer::Renewed(Arc::new(said)));
    let viewer = viewer.clone();
    shared.pool.update(move |pool, now| pool.note_own_renewal(now, &viewer, before, after)).await?;
    Ok(Ok(after))
}
