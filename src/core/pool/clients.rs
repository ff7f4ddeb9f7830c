//! Clients that tokens let in: who they are, and that they are let in no longer.

use std::collections::BTreeMap;

use crate::core::audit::AuditKind;
use crate::core::limits;
use crate::core::record::{ClientState, Record, Validity};
use crate::core::time::Now;
use crate::core::view::ClientInfo;

use super::apply::stands;
use super::batch::Effect;
use super::{Pool, Viewer};

/// A page of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientPage {
    /// By name.
    pub clients: Vec<ClientInfo>,
    /// Whether more follow.
    pub more: bool,
}

/// There is no such client, or it was revoked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such client")]
pub struct UnknownClient;

impl Pool {
    /// Clients after a name. How many connections each has is for those to say who hold them.
    pub fn client_page(&self, after: &str, limit: usize) -> ClientPage {
        let by_name: BTreeMap<&str, &ClientState> =
            self.clients.values().map(|client| (client.name.as_str(), client)).collect();
        let mut rest =
            by_name.range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
        let limit = limit.clamp(1, limits::PAGE_MAX);
        let clients = rest.by_ref().take(limit).map(|(_, client)| info(client)).collect();
        ClientPage { clients, more: rest.next().is_some() }
    }

    /// A client's key is let in no longer. Its jobs go on: they are its owner's.
    pub fn revoke_client(&mut self, now: Now, viewer: &Viewer, name: &str) -> Result<(), UnknownClient> {
        let standing = self.clients.values().find(|client| client.name == name && stands(client.validity));
        let mut state = standing.ok_or(UnknownClient)?.clone();
        state.validity = Validity::Revoked;
        self.audit(now, viewer, AuditKind::ClientRevoked, format!("client {name}"), String::new());
        self.turn.act(Effect::Expel(state.key));
        self.record(now, Record::Client(state));
        Ok(())
    }
}

fn info(client: &ClientState) -> ClientInfo {
    ClientInfo {
        name: client.name.clone(),
        owner: client.owner.clone(),
        key: client.key,
        joined: client.joined,
        connections: 0,
        revoked: !stands(client.validity),
    }
}
