//! Letting peers in: by TLS, or by a socket of this user on this machine.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::anteroom::{Anteroom, Place};
use super::connection::{Connection, Peer};
use super::dial::tune;
use super::keyring::Keyring;
use super::metered::Metered;
use super::tls::{self, Admits};
use crate::core::id::Fingerprint;
use crate::core::limits;
use crate::core::timing::Timing;

/// After a refusal the connection stays so long, for the reason to be read.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

/// Who has come.
pub enum Incoming {
    /// Somebody who is not let in, and why.
    Stranger(&'static str),
    /// Somebody whose place was needed for another one, before anything was known of it.
    MadeRoom,
    /// A key that is known.
    Work(Connection),
    /// A key that wants to become known. It keeps its place until it is.
    Enrol(Box<Strange>, Fingerprint, Place),
}

/// The stream of a peer that is not known: it may send little.
pub type Strange = TlsStream<Metered<TcpStream>>;

/// Both server sides of TLS.
#[derive(Clone)]
pub struct Door {
    work: Arc<ServerConfig>,
    enrol: Arc<ServerConfig>,
    timing: Timing,
    anteroom: Anteroom,
}

impl Door {
    /// A door that lets in by work whom `admits` says, and everybody to enrolment. Until then they are in the anteroom.
    ///
    /// # Errors
    /// When no TLS can be spoken.
    pub fn new(
        keys: &Arc<Keyring>,
        admits: Admits,
        timing: Timing,
        anteroom: Anteroom,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            work: Arc::new(tls::work_config(Arc::clone(keys), admits)?),
            enrol: Arc::new(tls::enrol_config(Arc::clone(keys))?),
            timing,
            anteroom,
        })
    }

    /// Takes the next TCP connection; those beyond the bounds are closed at once.
    ///
    /// # Errors
    /// When the listener is broken.
    pub async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, Handshake)> {
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                // Out of descriptors, or the peer has gone already: neither ends a pool.
                Err(error) if error.raw_os_error().is_some() => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let source = address.ip();
            if let Some(place) = self.anteroom.enter(source) {
                return Ok((stream, Handshake { door: self.clone(), source, place }));
            }
            tracing::debug!(%source, "no place for one more unknown peer");
        }
    }
}

/// Somebody who is not known yet, and has a place.
pub struct Handshake {
    door: Door,
    source: IpAddr,
    place: Place,
}

impl Handshake {
    /// Finds out who is there, within the time that a handshake has.
    pub async fn run(self, stream: TcpStream) -> Incoming {
        let Self { door, source, place } = self;
        let shaking = tokio::time::timeout(door.timing.handshake, shake(&door, stream, &place));
        let shaken = tokio::select! {
            biased;
            shaken = shaking => shaken,
            () = place.needed() => return Incoming::MadeRoom,
        };
        match shaken {
            Ok(Ok(Shaken::Enrolment(stream, key))) => Incoming::Enrol(Box::new(stream), key, place),
            Ok(Ok(Shaken::Work(mut stream, key))) => {
                place.is_known();
                if let Err(error) = tune(stream.get_mut().0.open()) {
                    tracing::debug!(%source, %error, "a connection broke");
                }
                Incoming::Work(Connection { stream: Box::pin(stream), peer: Peer::Key(key) })
            }
            Ok(Ok(Shaken::MadeRoom)) => Incoming::MadeRoom,
            Ok(Err(error)) => {
                tracing::debug!(%source, %error, "not let in");
                Incoming::Stranger(if is_unknown(&error) { "its key is not known" } else { "no TLS of ours" })
            }
            Ok(Ok(Shaken::Nobody)) => Incoming::Stranger("no key, or another protocol"),
            Err(_) => Incoming::Stranger("no handshake in time"),
        }
    }
}

/// What shaking hands came to.
enum Shaken {
    /// A known key.
    Work(Strange, Fingerprint),
    /// Any key.
    Enrolment(Strange, Fingerprint),
    /// It shows no key, or speaks no protocol of ours.
    Nobody,
    /// Its place was needed before it said a word.
    MadeRoom,
}

async fn shake(door: &Door, stream: TcpStream, place: &Place) -> io::Result<Shaken> {
    let stream = Metered::new(stream, limits::UNKNOWN_PEER_BYTES_MAX);
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    if !place.has_spoken() {
        return Ok(Shaken::MadeRoom);
    }
    let offers: Vec<Vec<u8>> =
        start.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    // Enrolment only if it is all that the peer speaks: nobody falls back to it.
    let enrols = offers == [tls::ALPN_ENROL];
    let config = if enrols { &door.enrol } else { &door.work };
    let stream = match start.into_stream(Arc::clone(config)).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            linger(stream.into_inner()).await;
            return Err(error);
        }
    };
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let (Some(_), Some(certificate)) = (session.alpn_protocol(), certificate) else {
        return Ok(Shaken::Nobody);
    };
    let key = tls::key_of(certificate).map_err(io::Error::other)?;
    Ok(if enrols { Shaken::Enrolment(stream, key) } else { Shaken::Work(stream, key) })
}

/// Whether a handshake failed by nothing but the peer's key.
fn is_unknown(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner == Some(&tls::UNKNOWN_KEY)
}

/// Reads what the peer still sends, so that closing does not turn into a reset that swallows the alert.
async fn linger(mut stream: TcpStream) {
    let _ = nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&stream),
        nix::sys::socket::Shutdown::Write,
    );
    let drain = async { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Listens on a socket of this user (0600); one that nobody listens on any longer is replaced. The caller holds the
/// lock of the state that it belongs to.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen_local(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made under another name, which is not longer, and moved to its own when its mode is right.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{}", name.chars().skip(1).collect::<String>()));
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

/// The next local peer: this user, or root.
///
/// # Errors
/// When the listener is broken.
pub async fn accept_local(listener: &UnixListener) -> io::Result<Connection> {
    loop {
        let (stream, _) = listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        if uid == 0 || uid == nix::unistd::Uid::current().as_raw() {
            return Ok(Connection { stream: Box::pin(stream), peer: Peer::Local { uid } });
        }
    }
}
