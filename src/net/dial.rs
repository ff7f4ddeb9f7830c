//! Dialling a pool: over the network, by its key, through a proxy where one is set; or on this machine, by its socket.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address;
use super::connection::{Connection, Peer};
use super::key::KeyPair;
use super::proxy::{Proxies, ProxyError};
use super::tls::{self, Expected, OtherKey};
use crate::core::id::Fingerprint;
use crate::core::refusal::os_words;
use crate::core::timing::Timing;

/// Unanswered bytes for so long mean that the peer is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that is quiet for so long is asked whether it is there, and asked again that often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two dials at a door that is full, about.
const DOOR_PAUSE: Duration = Duration::from_millis(50);
/// A door that takes its time to close is tried so often, however long that takes.
const DOOR_TRIES: u32 = 5;
/// What the kernel takes before it has been sent: what waits here can still be overtaken by what is urgent.
const NOT_SENT_BYTES: u32 = 64 << 10;

/// How pools are dialled.
#[derive(Clone, Debug)]
pub struct Route {
    /// How long it may take.
    pub timing: Timing,
    /// What may be in between.
    pub proxies: Proxies,
}

impl Route {
    /// Without a proxy.
    pub fn direct(timing: Timing) -> Self {
        Self { timing, proxies: Proxies::none() }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers there.
    #[error("{reason}")]
    Unreachable {
        /// What the operating system says.
        reason: String,
    },
    /// Nobody knows where that is.
    #[error("the name {host} does not resolve ({reason})")]
    UnknownHost {
        /// As it was given.
        host: String,
        /// What the operating system says.
        reason: String,
    },
    /// The proxy in between opens no way there.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// Somebody else answers there.
    #[error("the key there is {presented}")]
    OtherKey {
        /// The key that answered.
        presented: Fingerprint,
    },
    /// What answers there is no pool of ours, or not by our protocol.
    #[error("what answers there is no pool: {0}")]
    NoPool(String),
    /// Our own key cannot be used.
    #[error("{0}")]
    Own(rustls::Error),
}

/// Dials an address as `host:port`, and checks the key that answers.
///
/// # Errors
/// As `DialError` says.
pub async fn dial(
    address: &str,
    key: &KeyPair,
    pool: Fingerprint,
    route: &Route,
) -> Result<Connection, DialError> {
    let stream = dial_tls(address, key, Expected::Key(pool), tls::ALPN_WORK, route).await?;
    let peer = Peer::Key(presented(&stream)?);
    Ok(Connection { stream: Box::pin(stream), peer })
}

/// Looks whose key answers at an address. Nothing else is learned, and nothing told: our own key is one for this once,
/// and what could be said over the connection ends with it.
///
/// # Errors
/// As `DialError` says.
pub async fn look(address: &str, route: &Route) -> Result<Fingerprint, DialError> {
    let key =
        KeyPair::generate().map_err(|error| DialError::Own(rustls::Error::General(error.to_string())))?;
    // A pool speaks to any key by this protocol, and waits for a token.
    presented(&dial_tls(address, &key, Expected::Anyone, tls::ALPN_ENROL, route).await?)
}

/// Dials, and shakes hands. A pool with many strangers before its door closes a connection without a word: then it is
/// dialled again, for a while, and a few times at least.
pub(super) async fn dial_tls(
    address: &str,
    key: &KeyPair,
    expected: Expected,
    alpn: &'static [u8],
    route: &Route,
) -> Result<TlsStream<TcpStream>, DialError> {
    let config = Arc::new(tls::client_config(key, expected, alpn).map_err(DialError::Own)?);
    let began = tokio::time::Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        match try_tls(address, (Arc::clone(&config), tls::server_name(expected)), alpn, route).await {
            Err(Closed::Silently(_)) if is_tried_again(tries, began.elapsed(), route.timing.dial_connect) => {
                tokio::time::sleep(pause()).await;
            }
            Err(Closed::Silently(error) | Closed::Else(error)) => return Err(error),
            Ok(stream) => return Ok(stream),
        }
    }
}

/// Whether a door that was closed without a word is tried again.
fn is_tried_again(tries: u32, waited: Duration, patience: Duration) -> bool {
    waited < patience || tries < DOOR_TRIES
}

/// How a dial came to nothing.
enum Closed {
    /// The other end hung up during the handshake.
    Silently(DialError),
    /// Anything else.
    Else(DialError),
}

impl From<DialError> for Closed {
    fn from(error: DialError) -> Self {
        Self::Else(error)
    }
}

/// Between two dials at a door that is full: not all at once.
fn pause() -> Duration {
    let mut random = [0; 1];
    // Without randomness all come at once, and no worse.
    let _ = getrandom::fill(&mut random);
    DOOR_PAUSE.mul_f64(0.5 + f64::from(random[0]) / 256.0)
}

async fn try_tls(
    address: &str,
    (config, name): (Arc<rustls::ClientConfig>, ServerName<'static>),
    alpn: &'static [u8],
    route: &Route,
) -> Result<TlsStream<TcpStream>, Closed> {
    let unreachable = |reason: String| DialError::Unreachable { reason };
    let timing = &route.timing;
    let stream = match route.proxies.to(address).map_err(DialError::from)? {
        Some(proxy) => proxy.connect(address, timing.dial_connect).await.map_err(DialError::from)?,
        None => match tokio::time::timeout(timing.dial_connect, TcpStream::connect(address)).await {
            Err(_) => {
                return Err(
                    unreachable(format!("no answer within {}s", timing.dial_connect.as_secs())).into()
                );
            }
            Ok(connected) => connected.map_err(|error| not_connected(address, &error))?,
        },
    };
    tune(&stream).map_err(|error| unreachable(error.to_string()))?;
    let handshake = TlsConnector::from(config).connect(name, stream);
    let stream = match tokio::time::timeout(timing.handshake, handshake).await {
        Err(_) => return Err(DialError::NoPool("it does not answer to TLS".to_owned()).into()),
        Ok(Err(error)) if is_silent(&error) => return Err(Closed::Silently(handshake_error(&error))),
        Ok(Err(error)) => return Err(handshake_error(&error).into()),
        Ok(Ok(stream)) => stream,
    };
    if stream.get_ref().1.alpn_protocol() != Some(alpn) {
        return Err(DialError::NoPool("it speaks another protocol".to_owned()).into());
    }
    Ok(stream)
}

/// The standard library tells by its words alone that a name was not found.
fn not_connected(address: &str, error: &io::Error) -> DialError {
    let reason = os_words(error);
    match reason.strip_prefix("failed to lookup address information: ") {
        None => DialError::Unreachable { reason },
        Some(words) => {
            DialError::UnknownHost { host: address::host(address).to_owned(), reason: words.to_lowercase() }
        }
    }
}

/// The key that a server proved.
pub(super) fn presented(stream: &TlsStream<TcpStream>) -> Result<Fingerprint, DialError> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().ok_or(DialError::NoPool("it shows no key".to_owned()))?;
    tls::key_of(certificate).map_err(|error| DialError::NoPool(error.to_string()))
}

/// Connects to a pool's socket on this machine; the kernel tells whose it is.
///
/// # Errors
/// When nobody listens there, or somebody else does.
pub async fn dial_local(path: &Path) -> Result<Connection, DialError> {
    let unreachable = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "it is not running".to_owned(),
            _ => os_words(&error),
        };
        DialError::Unreachable { reason }
    };
    let stream = UnixStream::connect(path).await.map_err(unreachable)?;
    let uid = stream.peer_cred().map_err(unreachable)?.uid();
    let own = nix::unistd::Uid::current().as_raw();
    if uid != own && own != 0 {
        return Err(DialError::NoPool(format!("it belongs to user {uid}")));
    }
    Ok(Connection { stream: Box::pin(stream), peer: Peer::Local { uid } })
}

/// What every TCP connection of ours is set to: small messages at once, dead peers noticed, little in the kernel.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)
}

/// Whether the other end hung up without saying why.
pub(super) fn is_silent(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | UnexpectedEof)
}

fn handshake_error(error: &io::Error) -> DialError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) = inner
        && let Some(OtherKey { presented }) = other.0.downcast_ref()
    {
        return DialError::OtherKey { presented: *presented };
    }
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            DialError::Unreachable { reason: os_words(error) }
        }
        _ => DialError::NoPool(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_tried_for_a_while_and_where_it_closes_slowly_a_few_times() {
        let patience = Duration::from_secs(3);
        let tried_again = |tries, seconds| is_tried_again(tries, Duration::from_secs(seconds), patience);

        assert!(tried_again(60, 2) && !tried_again(60, 3));
        assert!(tried_again(1, 20) && !tried_again(DOOR_TRIES, 20));
    }
}
