//! How effects reach those they are for: bounded channels to the pumps of connections and to watchers.
//!
//! Nobody waits here: whoever does not keep up loses the channel, and begins again from the pool's state.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::core::id::{ConnectionId, Fence, Fingerprint, JobId};
use crate::core::membership::Start;
use crate::core::outcome::Cancel;
use crate::core::pool::{Effect, Identity, JobEvent, WatcherId};
use crate::core::succession::Succession;
use crate::store::secrets::Secrets;

/// What a worker's pump is given.
#[derive(Clone, Debug)]
pub(super) enum ToPeer {
    /// Attempts to start.
    Start(Start),
    /// Attempts to end.
    Cancel(Vec<(Fence, Cancel)>),
    /// Attempts that are wanted back if they were not started.
    TakeBack(Vec<Fence>),
    /// The pool has another key, as its former ones say.
    Renewed(Arc<Vec<Succession>>),
    /// It was removed: the last that it is told.
    Removed,
}

/// Everybody who is told something.
#[derive(Clone)]
pub(super) struct Peers {
    known: Arc<Mutex<Known>>,
    secrets: Secrets,
}

#[derive(Default)]
struct Known {
    connections: BTreeMap<ConnectionId, Line>,
    watchers: BTreeMap<WatcherId, mpsc::Sender<(JobId, JobEvent)>>,
    /// Watchers that are gone, which the core does not know yet.
    unwatched: Vec<WatcherId>,
}

struct Line {
    pump: Option<mpsc::Sender<ToPeer>>,
    key: Option<Fingerprint>,
    cut: CancellationToken,
}

/// Keys that are let in, with what they stand for.
pub(super) type Identities = Arc<RwLock<HashMap<Fingerprint, Identity>>>;

impl Peers {
    pub(super) fn new(secrets: Secrets) -> Self {
        Self { known: Arc::default(), secrets }
    }

    /// A connection begins: it ends when the token is cancelled.
    pub(super) fn connected(&self, id: ConnectionId, key: Option<Fingerprint>) -> CancellationToken {
        let cut = CancellationToken::new();
        self.known().connections.insert(id, Line { pump: None, key, cut: cut.clone() });
        cut
    }

    pub(super) fn set_pump(&self, id: ConnectionId, pump: mpsc::Sender<ToPeer>) {
        if let Some(line) = self.known().connections.get_mut(&id) {
            line.pump = Some(pump);
        }
    }

    /// Ends a connection.
    pub(super) fn cut(&self, id: ConnectionId) {
        self.known().cut(id);
    }

    /// How many connections each of these keys has.
    pub(super) fn connections_of(&self, keys: &[Fingerprint]) -> Vec<u32> {
        let known = self.known();
        let mut of_key: HashMap<Fingerprint, u32> = HashMap::new();
        for key in known.connections.values().filter_map(|line| line.key) {
            *of_key.entry(key).or_default() += 1;
        }
        keys.iter().map(|key| of_key.get(key).copied().unwrap_or_default()).collect()
    }

    /// Tells every worker that is connected.
    pub(super) fn tell_workers(&self, what: &ToPeer) {
        let mut known = self.known();
        let workers = known.connections.iter().filter(|(_, line)| line.pump.is_some());
        for id in workers.map(|(id, _)| *id).collect::<Vec<_>>() {
            known.give(id, what.clone());
        }
    }

    /// The key that a connection was made with; none by the socket.
    pub(super) fn key_of(&self, id: ConnectionId) -> Option<Fingerprint> {
        self.known().connections.get(&id)?.key
    }

    pub(super) fn disconnected(&self, id: ConnectionId) {
        self.known().connections.remove(&id);
    }

    pub(super) fn watch(&self, id: WatcherId, events: mpsc::Sender<(JobId, JobEvent)>) {
        self.known().watchers.insert(id, events);
    }

    pub(super) fn unwatch(&self, id: WatcherId) {
        let mut known = self.known();
        known.watchers.remove(&id);
        known.unwatched.push(id);
    }

    /// Watchers that have gone since this was last asked.
    pub(super) fn take_unwatched(&self) -> Vec<WatcherId> {
        std::mem::take(&mut self.known().unwatched)
    }

    /// Carries out what a turn decided.
    pub(super) fn act(&self, effects: Vec<Effect>, identities: &Identities) {
        let mut known = self.known();
        for effect in effects {
            match effect {
                Effect::Start { connection, spec, secrets, job, fences, lease } => {
                    known.give(connection, ToPeer::Start(Start { job, spec, secrets, fences, lease }));
                }
                Effect::Cancel { connection, attempts } => known.give(connection, ToPeer::Cancel(attempts)),
                Effect::TakeBack { connection, attempts } => {
                    known.give(connection, ToPeer::TakeBack(attempts))
                }
                Effect::Notify { watcher, job, event } => known.tell(watcher, job, event),
                Effect::Cut(connection) => known.cut(connection),
                Effect::Dismiss(connection) => known.dismiss(connection),
                Effect::Admit(key, identity) => {
                    identities.write().expect("nobody panics with the identities").insert(key, identity);
                }
                Effect::Expel(key) => {
                    identities.write().expect("nobody panics with the identities").remove(&key);
                    known.dismiss_key(key);
                }
                Effect::Renew { before, after, identity } => {
                    let mut identities = identities.write().expect("nobody panics with the identities");
                    identities.remove(&before);
                    identities.insert(after, identity);
                    known.cut_key(before);
                }
                Effect::EraseSecrets(id) => {
                    if let Err(error) = self.secrets.erase(id) {
                        tracing::error!(%error, "a job's secrets cannot be erased; the next start tries again");
                    }
                }
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics with the peers")
    }
}

impl Known {
    fn give(&mut self, connection: ConnectionId, what: ToPeer) {
        let Some(line) = self.connections.get(&connection) else { return };
        let Some(pump) = &line.pump else { return };
        if pump.try_send(what).is_err() {
            // It does not keep up: it dials again, and is told everything anew.
            tracing::warn!(connection = connection.0, "cut a connection that does not keep up");
            line.cut.cancel();
        }
    }

    fn tell(&mut self, watcher: WatcherId, job: JobId, event: JobEvent) {
        let full = self.watchers.get(&watcher).is_some_and(|events| events.try_send((job, event)).is_err());
        if full {
            // It sees its channel end, and begins again from the pool's state.
            self.watchers.remove(&watcher);
            self.unwatched.push(watcher);
        }
    }

    fn cut(&mut self, connection: ConnectionId) {
        if let Some(line) = self.connections.get(&connection) {
            line.cut.cancel();
        }
    }

    /// Ends a connection; a worker's pump says why before that.
    fn dismiss(&mut self, connection: ConnectionId) {
        let Some(line) = self.connections.get(&connection) else { return };
        if line.pump.as_ref().is_none_or(|pump| pump.try_send(ToPeer::Removed).is_err()) {
            line.cut.cancel();
        }
    }

    fn dismiss_key(&mut self, key: Fingerprint) {
        for id in self.of_key(key) {
            self.dismiss(id);
        }
    }

    /// Whose key it was dials again, with another one.
    fn cut_key(&mut self, key: Fingerprint) {
        for id in self.of_key(key) {
            self.cut(id);
        }
    }

    fn of_key(&self, key: Fingerprint) -> Vec<ConnectionId> {
        let of_key = self.connections.iter().filter(|(_, line)| line.key == Some(key));
        of_key.map(|(id, _)| *id).collect()
    }
}
