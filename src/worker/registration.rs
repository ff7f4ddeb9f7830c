//! How a worker becomes a member of its pool: dialling, hello, register.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Response;
use tokio::sync::{mpsc, oneshot};

use super::identity::Identity;
use super::options::JoinOptions;
use super::service::{Order, WorkerService};
use super::site::Site;
use super::uplink::Uplink;
use crate::core::id::{Fingerprint, Name};
use crate::core::membership::{Carried, Facts, Registered};
use crate::core::pool::NameChoice;
use crate::core::refusal::Refusal;
use crate::core::succession::Renewal;
use crate::core::time::{Clock, Timestamp};
use crate::core::timing::Timing;
use crate::net::connection::{self, Connection, Link};
use crate::net::dial::{self, DialError};
use crate::net::gate::GateState;
use crate::net::key::KeyPair;
use crate::process::clock;
use crate::schema::pool_capnp::client_door;
use crate::schema::types_capnp;
use crate::schema::worker_capnp::{registrar, worker, worker_door};
use crate::store::place;
use crate::wire::hello::Welcome;
use crate::wire::{self, WireError};

/// A pool that has many workers to take back may need some time for one.
const REGISTER_WITHIN: Duration = Duration::from_secs(20);

/// A connection over which a worker may register.
pub type Registrar = (RunningLink, registrar::Client);

/// A registration with all that belongs to it. Dropping it ends the connection.
pub(super) struct Membership {
    /// What goes up.
    pub(super) uplink: Uplink,
    /// What comes down; its end is the connection's.
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    /// What the pool said.
    pub(super) told: Registered,
    /// Where another key is asked for.
    pub(super) registrar: registrar::Client,
    /// The connection itself.
    pub(super) link: RunningLink,
}

/// Why there is no registration.
#[derive(Debug)]
pub enum RegisterFailure {
    /// Nobody answers, or not by our protocol: try again soon.
    Away(String),
    /// A refusal that passes by itself: try again later.
    NotNow(Refusal),
    /// A refusal that does not.
    ForGood(Refusal),
}

/// Dials, says hello and registers. What the executor has is taken as it was when the dialling began.
pub(super) async fn register(
    site: Rc<impl Site>,
    clock: Clock,
    facts: Facts,
    carried: Vec<Carried>,
) -> Result<Membership, RegisterFailure> {
    let (link, registrar) = site.dial().await?;
    let (orders, received) = mpsc::unbounded_channel();
    let mut request = registrar.register_request();
    request.get().set_worker(capnp_rpc::new_client::<worker::Client, _>(WorkerService(orders)));
    wire::worker::write_facts(&facts, request.get().init_facts());
    wire::worker::write_carried(&carried, request.get().init_carried(wire::text::count(&carried)));
    let answer = within(REGISTER_WITHIN, request.send().promise).await??;
    let answer = answer.get()?;
    check_refused(answer.has_refused(), answer.get_refused())?;
    let registered = answer.get_registered()?;
    let told = wire::worker::read_registered(registered)?;
    let uplink = Uplink::new(
        registered.get_registration()?,
        registered.get_reports()?,
        registered.get_output()?,
        registered.get_heartbeat()?,
        link.state.clone(),
        clock,
    );
    Ok(Membership { uplink, orders: received, told, registrar, link })
}

/// Dials over the network, and proves by a key who is there.
pub(super) async fn by_key(
    options: &JoinOptions,
    identity: &Identity,
    address: &str,
) -> Result<Registrar, RegisterFailure> {
    let (Some(file), Some(pool)) = (&identity.key, &identity.pool) else {
        return Err(RegisterFailure::Away("this worker has no key".to_owned()));
    };
    let mut tried = Vec::new();
    let mut unknown = None;
    while let Some(key) = file.untried(&tried).map_err(|error| RegisterFailure::Away(error.to_string()))? {
        tried.push(key.fingerprint());
        match try_registrar(options, &key, pool.key(), address).await {
            Ok(registrar) => {
                // The next one, if it was not the present one: the pool has taken it.
                if file
                    .next()
                    .is_ok_and(|next| next.is_some_and(|next| next.fingerprint() == key.fingerprint()))
                    && let Err(error) = file.promote_next(key.fingerprint())
                {
                    tracing::warn!(%error, "the new key does not get into its place");
                }
                return Ok(registrar);
            }
            // It may have been replaced, or be about to be.
            Err(RegisterFailure::ForGood(refused)) if refused.code == UNKNOWN_KEY => unknown = Some(refused),
            Err(failure) => return Err(failure),
        }
    }
    Err(RegisterFailure::ForGood(unknown.expect("there is a key to try")))
}

async fn try_registrar(
    options: &JoinOptions,
    key: &KeyPair,
    pool: Fingerprint,
    address: &str,
) -> Result<Registrar, RegisterFailure> {
    let connection = dial::dial(address, key, pool, &options.route()).await;
    let connection = connection.map_err(|error| match error {
        DialError::OtherKey { presented } => {
            let text = format!("{address} presented a different key than before");
            let refused =
                Refusal::new("key-mismatch", text).fact("expected", pool).fact("presented", presented);
            RegisterFailure::ForGood(refused.hint(format!(
                "if you reinstalled the pool: clusterctl worker join {address} --token CCT1-w-…"
            )))
        }
        error => error.into(),
    })?;
    by_network(connection, options, address).await
}

/// Says the first words over a connection that was made with a key, which is enough.
///
/// # Errors
/// When the pool says no, or nothing.
pub async fn by_network(
    connection: Connection,
    options: &JoinOptions,
    address: &str,
) -> Result<Registrar, RegisterFailure> {
    let (running, answer) = hello(connection, address, options.timing, options.clock).await?;
    let said = answer.get()?;
    running.state.heed_open_calls(wire::hello::read_welcome(said.get_welcome()?)?.open_calls);
    Ok((running, said.get_registrar()?))
}

/// A worker's first words, and the pool's: they change nothing there, also while the worker is connected.
async fn hello(
    connection: Connection,
    address: &str,
    timing: Timing,
    clock: Clock,
) -> Result<(RunningLink, Response<worker_door::hello_results::Owned>), RegisterFailure> {
    let (door, running) = RunningLink::start::<worker_door::Client>(connection, clock);
    let mut request = door.hello_request();
    wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
    let answer = match within(timing.handshake, request.send().promise).await? {
        Err(_) if running.state.denied() => {
            let refused = Refusal::new(UNKNOWN_KEY, "the pool does not know this key").fact("pool", address);
            return Err(RegisterFailure::ForGood(refused.hint(ANOTHER_TOKEN)));
        }
        answer => answer?,
    };
    let said = answer.get()?;
    check_refused(said.has_refused(), said.get_refused())?;
    Ok((running, answer))
}

/// Says the first words, hears what the pool says of itself, and hangs up.
pub(super) async fn greet(
    connection: Connection,
    address: &str,
    timing: Timing,
) -> Result<Welcome, RegisterFailure> {
    let (_running, answer) = hello(connection, address, timing, clock::now).await?;
    Ok(wire::hello::read_welcome(answer.get()?.get_welcome()?)?)
}

/// Asks that another key take the place of the one that a connection was made with. The pool cuts that then, perhaps
/// before it was heard: whether it has done so is seen by dialling with the new one.
pub(super) async fn renew_key(
    connection: Connection,
    address: &str,
    renewal: &Renewal,
    timing: Timing,
) -> Result<(), RegisterFailure> {
    let (_running, answer) = hello(connection, address, timing, clock::now).await?;
    ask_for_key(&answer.get()?.get_registrar()?, renewal, timing).await
}

/// The same where a worker has registered.
pub(super) async fn ask_for_key(
    registrar: &registrar::Client,
    renewal: &Renewal,
    timing: Timing,
) -> Result<(), RegisterFailure> {
    let mut request = registrar.renew_key_request();
    request.get().set_key(&renewal.key);
    request.get().set_signature(&renewal.signature);
    match within(timing.handshake, request.send().promise).await? {
        Ok(answer) => {
            let answer = answer.get()?;
            check_refused(answer.has_refused(), answer.get_refused())
        }
        Err(error) if error.kind == capnp::ErrorKind::Disconnected => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The same by a pool's socket.
pub(super) async fn greet_local(state: &Path, timing: Timing) -> Result<Welcome, RegisterFailure> {
    let connection = dial::dial_local(&place::socket_path(state)).await?;
    let (door, _running) = RunningLink::start::<client_door::Client>(connection, clock::now);
    let mut request = door.hello_request();
    wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
    let answer = within(timing.handshake, request.send().promise).await??;
    let answer = answer.get()?;
    check_refused(answer.has_refused(), answer.get_refused())?;
    Ok(wire::hello::read_welcome(answer.get_welcome()?)?)
}

/// Says who is there over a pool's socket, where a name is enough.
///
/// # Errors
/// When the pool says no, or nothing.
pub async fn by_socket(
    connection: Connection,
    options: &JoinOptions,
    name: &Name,
    choice: NameChoice,
) -> Result<Registrar, RegisterFailure> {
    let (door, running) = RunningLink::start::<client_door::Client>(connection, options.clock);
    let mut request = door.hello_request();
    wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
    let admin = request.send().pipeline.get_admin();
    let mut request = admin.local_worker_request();
    request.get().set_name(name.as_str());
    request.get().set_given(choice == NameChoice::Given);
    let answer = within(options.timing.handshake, request.send().promise).await??;
    let answer = answer.get()?;
    check_refused(answer.has_refused(), answer.get_refused())?;
    Ok((running, answer.get_registrar()?))
}

async fn within<T>(time: Duration, call: impl Future<Output = T>) -> Result<T, RegisterFailure> {
    tokio::time::timeout(time, call)
        .await
        .map_err(|_| RegisterFailure::Away("the pool does not answer".to_owned()))
}

fn check_refused(
    has: bool,
    refused: capnp::Result<types_capnp::refusal::Reader<'_>>,
) -> Result<(), RegisterFailure> {
    if !has {
        return Ok(());
    }
    let refused = wire::refusal::read(refused?)?;
    Err(match refused.code.as_str() {
        "outdated" | "worker-elsewhere" => RegisterFailure::NotNow(refused),
        _ => RegisterFailure::ForGood(refused),
    })
}

/// What lets a worker in that its pool does not know.
pub(super) const ANOTHER_TOKEN: &str = "on the pool's machine: clusterctl token create --worker";
/// The code of a pool that knows nothing of a key, be it never or no more.
pub(super) const UNKNOWN_KEY: &str = "auth-unknown-key";

/// A link that is driven beside the agent.
pub struct RunningLink {
    /// Ends the link when it is dropped.
    _stop: oneshot::Sender<()>,
    gone: oneshot::Receiver<()>,
    state: GateState,
}

impl RunningLink {
    fn start<T: capnp::capability::FromClientHook>(connection: Connection, clock: Clock) -> (T, Self) {
        let (door, link): (T, Link) = connection::dialled(connection, clock);
        let (stop, stopped) = oneshot::channel::<()>();
        let (went, gone) = oneshot::channel();
        let state = link.state();
        tokio::task::spawn_local(async move {
            // Dropping the sender stops as well.
            let stop = async { drop(stopped.await) };
            if let Err(error) = link.run(stop).await {
                tracing::debug!(%error, "the link ended");
            }
            let _ = went.send(());
        });
        (door, Self { _stop: stop, gone, state })
    }

    /// Returns when the connection has ended. Cancel-safe.
    pub(super) async fn gone(&mut self) {
        let _ = (&mut self.gone).await;
    }

    /// When a byte last came from the pool.
    pub(super) fn heard(&self) -> Timestamp {
        self.state.heard()
    }
}

impl From<capnp::Error> for RegisterFailure {
    fn from(error: capnp::Error) -> Self {
        Self::Away(error.to_string())
    }
}

impl From<WireError> for RegisterFailure {
    fn from(error: WireError) -> Self {
        Self::Away(error.to_string())
    }
}

impl From<DialError> for RegisterFailure {
    fn from(error: DialError) -> Self {
        Self::Away(error.to_string())
    }
}
