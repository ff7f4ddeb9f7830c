//! One thread of a pool's network: accepts, finds out who is there, and drives each connection to its end.

use std::rc::Rc;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::client_service::ClientDoor;
use super::enrol_service;
use super::shared::{Local, Stop};
use super::worker_service::WorkerDoor;
use crate::core::limits;
use crate::core::pool::{Identity, Viewer};
use crate::net::connection::{self, Connection, Peer};
use crate::net::gate::GateState;
use crate::net::listen::{Door, Incoming, accept_local};
use crate::process::clock;
use crate::schema::{pool_capnp, worker_capnp};

/// Connections get so long to say goodbye when the pool ends.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(2);

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
                    connections.spawn_local(serve(local.clone(), connection));
                }
                Err(error) => tracing::warn!(%error, "cannot accept on the socket"),
            },
            incoming = accept_on_network(&listeners) => match incoming {
                Ok((stream, handshake)) => {
                    let local = local.clone();
                    connections.spawn_local(async move {
                        match handshake.run(stream).await {
                            None => {}
                            Some(Incoming::Work(connection)) => serve(local, connection).await,
                            Some(Incoming::Enrol(stream, key)) => enrol_service::enrol(&local.shared, stream, key).await,
                        }
                    });
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

async fn accept_on_network(
    listeners: &Listeners,
) -> std::io::Result<(tokio::net::TcpStream, crate::net::listen::Handshake)> {
    match &listeners.network {
        Some((listener, door)) => door.accept(listener).await,
        None => std::future::pending().await,
    }
}

/// Drives one connection: what is behind its door depends on who has proved to be there.
async fn serve(local: Local, connection: Connection) {
    let shared = local.shared.clone();
    let id = shared.next_connection();
    let gate = GateState::new(limits::FRAME_BYTES_MAX_FIRST, clock::boottime());
    let (identity, key) = match connection.peer {
        Peer::Local { .. } => (None, None),
        Peer::Key(key) => {
            let known =
                shared.identities.read().expect("nobody panics with the identities").get(&key).cloned();
            // The handshake let it in; it was revoked since.
            let Some(identity) = known else { return };
            (Some(identity), Some(key))
        }
    };
    let cut = shared.peers.connected(id, key);
    let is_client = !matches!(identity, Some(Identity::Worker(..)));
    let counted = is_client.then(|| Counted::new(&local));
    let door = door(&local, identity, id, gate.clone());
    let link = connection::accepted(connection, door, gate, clock::boottime);
    let stop = async {
        tokio::select! {
            () = cut.cancelled() => {}
            stop = shared.stopping() => {
                // Workers are told to dial again before their line goes.
                if stop != Stop::No {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    };
    if let Err(error) = link.run(stop).await {
        tracing::debug!(connection = id.0, %error, "a connection ended");
    }
    drop(counted);
    shared.peers.disconnected(id);
    let _ = shared.pool.update(move |pool, _| pool.handle_disconnected(id)).await;
}

fn door(
    local: &Local,
    identity: Option<Identity>,
    connection: crate::core::id::ConnectionId,
    gate: GateState,
) -> capnp::capability::Client {
    let info = &local.shared.info;
    let client = |viewer: Viewer, name: String| -> capnp::capability::Client {
        let door = ClientDoor { local: local.clone(), viewer, name, connection, gate: gate.clone() };
        capnp_rpc::new_client::<pool_capnp::client_door::Client, _>(door).client
    };
    match identity {
        None => client(Viewer::Admin(info.owner.clone()), info.owner.clone()),
        Some(Identity::Client { name, owner }) => client(Viewer::Owner(owner), name),
        Some(Identity::Worker(worker, name)) => {
            let door = WorkerDoor { local: local.clone(), worker, name, connection, gate: gate.clone() };
            capnp_rpc::new_client::<worker_capnp::worker_door::Client, _>(door).client
        }
    }
}

/// A connection that keeps a private pool from ending.
struct Counted(Rc<Local>);

impl Counted {
    fn new(local: &Local) -> Self {
        local.shared.clients.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(Rc::new(local.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shared.clients.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
