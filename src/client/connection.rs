//! A connection to the pool that is meant, found again when it is lost.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::context::{Config, Context, own_key};
use super::error::{Failure, check_refused};
use super::{private_pool, render};
use crate::core::id::{Fingerprint, Name};
use crate::core::timing::Timing;
use crate::net::address;
use crate::net::connection::{self, Link};
use crate::net::dial::{self, DialError, Route};
use crate::net::key::KeyPair;
use crate::net::proxy::Proxies;
use crate::net::succession::present_key;
use crate::process::clock;
use crate::schema::pool_capnp::{StopReason, admin, client_door, pool};
use crate::store::place::{self, StateRoot, Surroundings};
use crate::wire;

/// A private pool that leaves is gone by then, and another can be started.
const HANDOVER: Duration = Duration::from_secs(10);
/// The attempt at which a person is told that the connection is lost: most are made again at once.
const ATTEMPTS_UNSAID: u32 = 3;

/// A pool that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This user's own on this machine, started when need be.
    Private,
    /// A pool of this user on this machine, by its state.
    Local(String, PathBuf),
    /// One that a context knows: its name, and the context.
    Remote(String, Context),
}

/// Which pool a command is for, and how it is reached.
pub struct Session {
    target: Target,
    root: StateRoot,
    route: Route,
    live: Option<Live>,
    /// Whether it was connected before: then a lost connection is waited for.
    known: bool,
    started: Started,
}

/// Who started a private pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// Somebody before us.
    Before,
    /// This session.
    ByUs,
}

struct Live {
    pool: pool::Client,
    admin: Option<admin::Client>,
    welcome: wire::hello::Welcome,
    /// By which the pool knows us; none by its socket.
    key: Option<Fingerprint>,
    gone: watch::Receiver<bool>,
    link: tokio::task::JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.link.abort();
    }
}

impl Target {
    /// `--pool` or `CLUSTERCTL_POOL`, else the current context, else the private pool.
    ///
    /// # Errors
    /// When nothing of that name is known.
    pub fn choose(wanted: Option<&str>, root: &StateRoot) -> Result<Self, Failure> {
        let config = Config::load()?;
        let name = match wanted.or(config.current.as_deref()) {
            None => return Ok(Target::Private),
            Some("local") => return Ok(Target::Private),
            Some(name) => name,
        };
        if let Some(context) = config.contexts.get(name) {
            return Ok(match &context.state {
                Some(state) => Target::Local(name.to_owned(), state.clone()),
                None => Target::Remote(name.to_owned(), context.clone()),
            });
        }
        if let Some((known, context)) =
            config.contexts.iter().find(|(_, c)| c.address.as_deref() == Some(name))
        {
            return Ok(Target::Remote(known.clone(), context.clone()));
        }
        if let Ok(name) = Name::parse(name)
            && root.pools().contains(&name)
        {
            return Ok(Target::Local(name.as_str().to_owned(), root.pool(&name)));
        }
        let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
        Err(Failure::new("no-such-context", format!("no pool \"{name}\" is configured"))
            .fact("known", if known.is_empty() { "none".to_owned() } else { known.join(", ") })
            .hint("clusterctl context add NAME HOST:PORT --token CCT1-c-…"))
    }

    /// As the prompt and errors call it.
    pub fn name(&self) -> &str {
        match self {
            Target::Private => "local",
            Target::Local(name, _) | Target::Remote(name, _) => name,
        }
    }
}

impl Session {
    /// A session with the pool that is meant; it connects when it is first used.
    ///
    /// # Errors
    /// When no such pool is known, or this user has no home.
    pub fn new(wanted: Option<&str>, state: Option<PathBuf>, proxies: Proxies) -> Result<Self, Failure> {
        let root = StateRoot::find(&Surroundings::of_process(state))
            .map_err(|error| Failure::new("no-home", error).hint("clusterctl --state DIR …"))?;
        let target = Target::choose(wanted, &root)?;
        Ok(Self::to(target, root, proxies))
    }

    /// A session with a pool that may not be there: the first time, that is an error.
    pub fn to(target: Target, root: StateRoot, proxies: Proxies) -> Self {
        let route = Route { timing: Timing::default(), proxies };
        Self { known: false, route, ..Self::of(target, root) }
    }

    /// A session with a pool that is known to be there: it is waited for when it is away.
    pub fn of(target: Target, root: StateRoot) -> Self {
        let route = Route::direct(Timing::default());
        Self { target, root, route, live: None, known: true, started: Started::Before }
    }

    /// Another session with the same pool, by a connection of its own.
    pub fn another(&self) -> Self {
        Self { route: self.route.clone(), ..Self::of(self.target.clone(), self.root.clone()) }
    }

    /// Which pool is meant.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// This user's state.
    pub fn root(&self) -> &StateRoot {
        &self.root
    }

    /// Whether it is connected now.
    pub fn is_connected(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !*live.gone.borrow())
    }

    /// The pool, connected. The first time a pool that does not answer is an error; later it is waited for.
    ///
    /// # Errors
    /// As it could not be reached, or refuses us.
    pub async fn pool(&mut self) -> Result<pool::Client, Failure> {
        self.connect().await?;
        Ok(self.live.as_ref().expect("it was just connected").pool.clone())
    }

    /// The pool as its own user's.
    ///
    /// # Errors
    /// As for `pool`; or that it is not the caller's own pool on this machine.
    pub async fn admin(&mut self) -> Result<admin::Client, Failure> {
        self.connect().await?;
        let admin = self.live.as_ref().and_then(|live| live.admin.clone());
        admin.ok_or_else(|| {
            Failure::new("auth-not-admin", "only the pool's own user, on the pool's machine, may do this")
        })
    }

    /// What the pool said of itself.
    pub fn welcome(&self) -> Option<&wire::hello::Welcome> {
        self.live.as_ref().map(|live| &live.welcome)
    }

    /// The key by which the pool knows us; none by its socket, and when not connected.
    pub fn key(&self) -> Option<Fingerprint> {
        self.live.as_ref()?.key
    }

    /// Becomes true when the present connection is lost.
    pub fn gone(&self) -> Option<watch::Receiver<bool>> {
        self.live.as_ref().map(|live| live.gone.clone())
    }

    /// Who started the private pool that this is connected to.
    pub fn started(&self) -> Started {
        self.started
    }

    /// Lets go of the present connection.
    pub fn disconnect(&mut self) {
        self.live = None;
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.is_connected() {
            return Ok(());
        }
        self.live = None;
        let began = tokio::time::Instant::now();
        let mut attempts = 0;
        loop {
            let failure = match self.try_connect().await {
                Ok(live) => {
                    self.live = Some(live);
                    self.known = true;
                    return Ok(());
                }
                Err(failure) => failure,
            };
            // A private pool may just be leaving; the next one is ours to start.
            let changes_hands = self.target == Target::Private && began.elapsed() < HANDOVER;
            if failure.refusal.code != "unreachable" || !(self.known || changes_hands) {
                return Err(failure);
            }
            attempts += 1;
            if attempts == ATTEMPTS_UNSAID && self.known && std::io::stderr().is_terminal() {
                render::dim("connection lost, retrying…");
            }
            tokio::time::sleep(pause(attempts)).await;
        }
    }

    async fn try_connect(&mut self) -> Result<Live, Failure> {
        let connection = match &self.target {
            Target::Private => {
                let socket = place::socket_path(&private_pool::state_directory(&self.root));
                match dial::dial_local(&socket).await {
                    Ok(connection) => connection,
                    Err(_) => {
                        private_pool::start(&self.root)?;
                        self.started = Started::ByUs;
                        dial::dial_local(&socket).await.map_err(|error| self.failure(error, "its socket"))?
                    }
                }
            }
            Target::Local(_, state) => dial::dial_local(&place::socket_path(state))
                .await
                .map_err(|error| self.failure(error, "its socket"))?,
            Target::Remote(name, context) => {
                let (name, context) = (name.clone(), context.clone());
                return self.connect_by_key(&name, &context).await;
            }
        };
        let live = self.hello(connection, None).await?;
        if self.target == Target::Private && live.welcome.hello.build != crate::build() {
            return self.succeed(live).await;
        }
        Ok(live)
    }

    /// Over the network, by the key that the pool knows: while it is being replaced that is the present or the next one.
    async fn connect_by_key(&mut self, name: &str, context: &Context) -> Result<Live, Failure> {
        let file = own_key(&self.root);
        let mut tried = Vec::new();
        let mut unknown = None;
        while let Some(key) = file.untried(&tried)? {
            tried.push(key.fingerprint());
            match self.try_key(&key, context).await {
                Err(failure) if failure.refusal.code == "auth-unknown-key" => unknown = Some(failure),
                Err(failure) if failure.refusal.code == "key-mismatch" => {
                    // Another command may have learnt of the pool's new key.
                    let known = Config::load()?.contexts.remove(name);
                    let Some(known) = known.filter(|known| known != context) else { return Err(failure) };
                    self.target = Target::Remote(name.to_owned(), known.clone());
                    return self.try_key(&key, &known).await;
                }
                other => return other,
            }
        }
        Err(unknown.expect("there is a key to try"))
    }

    async fn try_key(&mut self, key: &KeyPair, context: &Context) -> Result<Live, Failure> {
        let address = context.address.clone().unwrap_or_default();
        let expected = context.fingerprint().ok_or_else(|| {
            Failure::new("config", format!("the context \"{}\" has no key", self.target.name()))
        })?;
        let dialled = dial::dial(&address, key, expected, &self.route).await;
        let connection = dialled.map_err(|error| self.failure(error, &address))?;
        let live = self.hello(connection, Some(key.fingerprint())).await?;
        let present = present_key(expected, &live.welcome.successions);
        if present != expected {
            if let Err(failure) = Config::renew_pool_key(expected, present) {
                // It is told again the next time.
                tracing::warn!("cannot remember the pool's new key: {}", failure.refusal.message);
            }
            if let Target::Remote(_, context) = &mut self.target {
                context.set_fingerprint(present);
            }
        }
        Ok(live)
    }

    /// Connects anew to a pool on the network, by this key alone.
    ///
    /// # Errors
    /// As for `pool`.
    pub async fn connect_as(&mut self, key: &KeyPair) -> Result<(), Failure> {
        let Target::Remote(_, context) = &self.target else {
            return Err(Failure::new("usage", "a pool on this machine knows nobody by a key"));
        };
        let context = context.clone();
        self.live = None;
        self.live = Some(self.try_key(key, &context).await?);
        Ok(())
    }

    /// A private pool of another build makes room when nobody needs it: the next connection starts one of ours.
    async fn succeed(&mut self, live: Live) -> Result<Live, Failure> {
        let Some(admin) = live.admin.clone() else { return Ok(live) };
        let status = live.pool.status_request().send().promise.await?;
        let status = wire::status::read(status.get()?.get_status()?)?;
        if status.queued + status.running + status.unknown > 0 {
            if !self.known && std::io::stderr().is_terminal() {
                let build = &live.welcome.hello.build;
                render::dim(&format!(
                    "the private pool is of another build, {build}: it has jobs, and goes on"
                ));
            }
            return Ok(live);
        }
        let mut request = admin.stop_request();
        request.get().set_why(StopReason::Handover);
        request.send().promise.await?;
        Err(Failure::new("unreachable", "the private pool of another build makes room"))
    }

    async fn hello(
        &self,
        connection: connection::Connection,
        key: Option<Fingerprint>,
    ) -> Result<Live, Failure> {
        let (door, link): (client_door::Client, Link) = connection::dialled(connection, clock::now);
        let state = link.state();
        let (went, gone) = watch::channel(false);
        let link = tokio::task::spawn_local(async move {
            if let Err(error) = link.run(std::future::pending()).await {
                tracing::debug!(%error, "the connection ended");
            }
            went.send_replace(true);
        });
        let mut request = door.hello_request();
        wire::hello::write(&wire::hello::Hello::ours(), request.get().init_hello());
        let answer = match tokio::time::timeout(self.route.timing.handshake, request.send().promise).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if state.denied() => {
                let host = match &self.target {
                    Target::Remote(_, context) => context.address.as_deref().map_or("", address::host),
                    Target::Private | Target::Local(..) => "the pool's machine",
                };
                return Err(Failure::new("auth-unknown-key", "the pool does not know this key")
                    .hint(format!("on {host}: clusterctl token create --client")));
            }
            Ok(Err(error)) => {
                return Err(self.failure(DialError::Unreachable { reason: error.to_string() }, "it"));
            }
            Err(_) => {
                return Err(
                    self.failure(DialError::Unreachable { reason: "it does not answer".to_owned() }, "it")
                );
            }
        };
        let answer = answer.get()?;
        check_refused(answer.has_refused(), answer.get_refused())?;
        let admin = answer.has_admin().then(|| answer.get_admin()).transpose()?;
        let welcome = wire::hello::read_welcome(answer.get_welcome()?)?;
        state.heed_open_calls(welcome.open_calls);
        Ok(Live { pool: answer.get_pool()?, admin, welcome, key, gone, link })
    }

    fn failure(&self, error: DialError, address: &str) -> Failure {
        let name = self.target.name();
        match error {
            DialError::Unreachable { reason } => {
                let hint = match &self.target {
                    Target::Local(name, state) if self.root.has(state) => {
                        format!("clusterctl pool serve --name {name}")
                    }
                    Target::Local(name, state) => {
                        let root = state.parent().unwrap_or(state).display();
                        format!("clusterctl pool serve --name {name} --state {root}")
                    }
                    Target::Private | Target::Remote(..) => {
                        format!("is it running? on {}: clusterctl pool status", address::host(address))
                    }
                };
                let place = if address.contains(':') { format!(" at {address}") } else { String::new() };
                Failure::new("unreachable", format!("cannot reach pool \"{name}\"{place}: {reason}"))
                    .hint(hint)
            }
            DialError::UnknownHost { .. } => {
                Failure::new("unreachable", format!("cannot reach pool \"{name}\" at {address}: {error}"))
                    .hint("is it written as it should be? clusterctl context list")
            }
            DialError::OtherKey { presented } => {
                let expected = match &self.target {
                    Target::Remote(_, context) => context.fingerprint(),
                    Target::Private | Target::Local(..) => None,
                };
                other_key(name, expected.unwrap_or_default(), presented)
                    .hint(format!("if you reinstalled the pool: clusterctl context trust {name}"))
            }
            DialError::Proxy(error) => {
                Failure::new("unreachable", format!("cannot reach pool \"{name}\" at {address}: {error}"))
                    .hint(format!(
                        "NO_PROXY={} goes without; --proxy URL goes through another",
                        address::host(address)
                    ))
            }
            error => Failure::new("unreachable", format!("cannot reach pool \"{name}\": {error}")),
        }
    }
}

/// A pool shows another key than the one that it is known by.
pub fn other_key(name: &str, expected: Fingerprint, presented: Fingerprint) -> Failure {
    Failure::new("key-mismatch", format!("pool \"{name}\" presented a different key than before"))
        .fact("expected", expected)
        .fact("presented", presented)
}

/// Longer each time, at most 4 s.
fn pause(attempts: u32) -> Duration {
    let mut random = [0; 1];
    // Without randomness all clients come at once, and no worse.
    let _ = getrandom::fill(&mut random);
    let longest = Duration::from_millis(50 * 2_u64.pow(attempts.min(6))).min(Duration::from_secs(4));
    longest.mul_f64(0.5 + f64::from(random[0]) / 512.0)
}

/// Sixteen random bytes for a submit: sent again unchanged, they are the same job.
///
/// # Errors
/// When there is no randomness.
pub fn request_id() -> Result<[u8; 16], Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new("internal", format!("no randomness: {error}")))?;
    Ok(bytes)
}
