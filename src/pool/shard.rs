//! One thread of a pool's network: accepts, finds out who is there, and drives each connection to its end.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client_service::ClientDoor;
use super::enrol_service;
use super::held::Held;
use super::shared::{Local, Shared, Stop};
use super::worker_service::{Registrar, WorkerDoor};
use crate::core::audit::AuditKind;
use crate::core::id::{ConnectionId, Fingerprint};
use crate::core::limits;
use crate::core::pool::{Decision, Identity, Viewer};
use crate::net::connection::{self, Connection, Peer};
use crate::net::gate::GateState;
use crate::net::listen::{Door, Handshake, Incoming, accept_local};
use crate::schema::{pool_capnp, worker_capnp};

/// Connections get so long to say goodbye when the pool ends.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(2);

/// After a failed accept: out of descriptors, most likely, which passes.
const ACCEPT_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);

/// What a shard listens on.
pub(super) struct Listeners {
    pub(super) local: Option<UnixListener>,
    pub(super) network: Option<(TcpListener, Door)>,
}

/// Serves until the pool ends.
pub(super) async fn run(local: Local, listeners: Listeners) {
    let mut connections = JoinSet::new();
    let stopping = local.shared.stopping();
    tokio::pin!(stopping);
    loop {
        tokio::select! {
            _ = &mut stopping => break,
            accepted = accept_on_socket(&listeners) => match accepted {
                Ok(connection) => {
                    connections.spawn_local(serve(local.clone(), connection, "socket".to_owned()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the socket");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            incoming = accept_on_network(&listeners) => match incoming {
                Ok((stream, handshake)) => {
                    connections.spawn_local(receive(local.clone(), stream, handshake));
                }
                Err(error) => tracing::warn!(%error, "cannot accept on the network"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let _ = tokio::time::timeout(GOODBYE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn accept_on_socket(listeners: &Listeners) -> std::io::Result<Connection> {
    match &listeners.local {
        Some(listener) => accept_local(listener).await,
        None => std::future::pending().await,
    }
}

async fn accept_on_network(listeners: &Listeners) -> std::io::Result<(TcpStream, Handshake)> {
    match &listeners.network {
        Some((listener, door)) => door.accept(listener).await,
        None => std::future::pending().await,
    }
}

/// Finds out who has come from the network, and what for.
async fn receive(local: Local, stream: TcpStream, handshake: Handshake) {
    let source = stream.peer_addr().map_or_else(|_| String::new(), |address| address.ip().to_string());
    match handshake.run(stream).await {
        // Nothing was decided about it. A flood of such would fill the trail.
        Incoming::MadeRoom => {}
        Incoming::Stranger(why) => decided(&local.shared, AuditKind::NotConnected, "", (&source, why)),
        Incoming::Work(connection) => serve(local, connection, source).await,
        Incoming::Enrol(stream, key, place) => {
            enrol_service::enrol(&local.shared, stream, key, place, source).await;
        }
    }
}

/// What is decided at the door goes into the audit trail; nobody waits for that.
fn decided(shared: &Shared, what: AuditKind, who: &str, (source, why): (&str, &str)) {
    let (who, source, detail) = (who.to_owned(), source.to_owned(), why.to_owned());
    let pool = shared.pool.clone();
    tokio::task::spawn_local(async move {
        let decision = Decision { what, who, source, detail };
        // The pool may have ended.
        let _ = pool.update(move |pool, now| pool.decided(now, decision)).await;
    });
}

/// Drives one connection: what is behind its door depends on who has proved to be there.
pub(super) async fn serve(local: Local, connection: Connection, source: String) {
    let shared = local.shared.clone();
    let id = shared.next_connection();
    let account = shared.budget.open();
    let gate = GateState::among(limits::FRAME_BYTES_MAX_FIRST, (shared.sources.clock)().at, account);
    let key = match connection.peer {
        Peer::Local { .. } => None,
        Peer::Key(key) => Some(key),
    };
    // Known to those who cut before it is looked up: a key that is revoked meanwhile is missed by neither.
    let guard = Connected::new(&shared, id, key);
    let identity = match key {
        None => None,
        Some(key) => {
            let known =
                shared.identities.read().expect("nobody panics with the identities").get(&key).cloned();
            // The handshake let it in; it was revoked since.
            let Some(identity) = known else { return };
            Some(identity)
        }
    };
    let name = name_of(identity.as_ref(), &shared);
    let door = door(&local, identity, id, gate.clone(), &source);
    let cut = guard.cut.clone();
    let link = connection::accepted(connection, door, gate.clone(), shared.sources.clock);
    let stop = async {
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            stop = shared.stopping() => {
                // Workers are told to dial again before their line goes.
                if stop != Stop::No {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    };
    match (link.run(stop).await, gate.excess()) {
        (_, Some(bound)) => {
            tracing::warn!(connection = id.0, peer = %name, %bound, "cut a peer for its excess")
        }
        (Err(error), None) => tracing::debug!(connection = id.0, peer = %name, %error, "a connection ended"),
        (Ok(()), None) => {}
    }
}

/// A peer as the log names it.
fn name_of(identity: Option<&Identity>, shared: &Shared) -> String {
    match identity {
        None => format!("user {}", shared.info.owner),
        Some(Identity::Client { name, .. }) => format!("client {name}"),
        Some(Identity::Worker(_, name)) => format!("worker {name}"),
    }
}

/// A connection that the pool knows of, until it is dropped, however that comes.
struct Connected {
    shared: Shared,
    id: ConnectionId,
    cut: CancellationToken,
}

impl Connected {
    fn new(shared: &Shared, id: ConnectionId, key: Option<Fingerprint>) -> Self {
        Self { shared: shared.clone(), id, cut: shared.peers.connected(id, key) }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.shared.peers.disconnected(self.id);
        let (pool, id) = (self.shared.pool.clone(), self.id);
        tokio::task::spawn_local(async move {
            // The pool may have ended: then nobody is connected.
            let _ = pool.update(move |pool, _| pool.handle_disconnected(id)).await;
        });
    }
}

fn door(
    local: &Local,
    identity: Option<Identity>,
    connection: ConnectionId,
    gate: GateState,
    source: &str,
) -> capnp::capability::Client {
    let client = |viewer: Viewer| -> capnp::capability::Client {
        decided(&local.shared, AuditKind::Connected, viewer.name(), (source, ""));
        let presence = Presence::of_client(&local.shared);
        let held = Held::new(gate.clone());
        let door = ClientDoor { local: local.clone(), viewer, connection, held, presence };
        capnp_rpc::new_client::<pool_capnp::client_door::Client, _>(door).client
    };
    match identity {
        None => client(Viewer::admin(&local.shared.info.owner)),
        Some(Identity::Client { name, owner }) => client(Viewer::client(&name, &owner, source)),
        Some(Identity::Worker(worker, name)) => {
            decided(&local.shared, AuditKind::Connected, &name, (source, ""));
            let (source, gate) = (source.to_owned(), gate.clone());
            let registrar = Registrar { local: local.clone(), worker, name, connection, source, gate };
            capnp_rpc::new_client::<worker_capnp::worker_door::Client, _>(WorkerDoor(registrar)).client
        }
    }
}

/// A connection of somebody who needs the pool: it keeps a private one from ending, until it turns out to be a worker's.
#[derive(Clone)]
pub(super) struct Presence(Rc<Cell<Option<Counted>>>);

struct Counted(Shared);

impl Presence {
    fn of_client(shared: &Shared) -> Self {
        shared.clients.fetch_add(1, Ordering::Relaxed);
        Self(Rc::new(Cell::new(Some(Counted(shared.clone())))))
    }

    /// It is nobody's who needs the pool.
    pub(super) fn release(&self) {
        drop(self.0.take());
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
