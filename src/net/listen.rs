//! Letting peers in: by TLS, or by a socket of this user on this machine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Peer};
use super::dial::tune;
use super::key::KeyPair;
use super::tls::{self, Admits};
use crate::core::id::Fingerprint;
use crate::core::timing::Timing;

/// Handshakes under way.
const HANDSHAKES_MAX: usize = 64;
/// Handshakes under way from one source.
const HANDSHAKES_PER_SOURCE_MAX: usize = 8;
/// After a refusal the connection stays so long, for the reason to be read.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

/// Somebody who was let in.
pub enum Incoming {
    /// A key that is known.
    Work(Connection),
    /// A key that wants to become known.
    Enrol(Box<TlsStream<TcpStream>>, Fingerprint),
}

/// Both server sides of TLS.
#[derive(Clone)]
pub struct Door {
    work: Arc<ServerConfig>,
    enrol: Arc<ServerConfig>,
    timing: Timing,
    under_way: Rc<RefCell<BTreeMap<IpAddr, usize>>>,
}

impl Door {
    /// A door that lets in by work whom `admits` says, and everybody to enrolment.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn new(key: &KeyPair, admits: Admits, timing: Timing) -> Result<Self, rustls::Error> {
        Ok(Self {
            work: Arc::new(tls::work_config(key, admits)?),
            enrol: Arc::new(tls::enrol_config(key)?),
            timing,
            under_way: Rc::default(),
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
            if let Some(handshake) = self.begin(address.ip()) {
                return Ok((stream, handshake));
            }
        }
    }

    fn begin(&self, source: IpAddr) -> Option<Handshake> {
        let mut under_way = self.under_way.borrow_mut();
        let all: usize = under_way.values().sum();
        let own = under_way.entry(source).or_default();
        if all >= HANDSHAKES_MAX || *own >= HANDSHAKES_PER_SOURCE_MAX {
            return None;
        }
        *own += 1;
        Some(Handshake { door: self.clone(), source })
    }
}

/// A place among the handshakes under way.
pub struct Handshake {
    door: Door,
    source: IpAddr,
}

impl Handshake {
    /// Finds out who is there, within the time that a handshake has. `None` for whoever is not let in.
    pub async fn run(self, stream: TcpStream) -> Option<Incoming> {
        let handshake = self.shake(stream);
        match tokio::time::timeout(self.door.timing.handshake, handshake).await {
            Ok(Ok(incoming)) => incoming,
            Ok(Err(error)) => {
                tracing::debug!(source = %self.source, %error, "not let in");
                None
            }
            Err(_) => None,
        }
    }

    async fn shake(&self, stream: TcpStream) -> io::Result<Option<Incoming>> {
        tune(&stream)?;
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let offers: Vec<Vec<u8>> =
            start.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        // Enrolment only if it is all that the peer speaks: nobody falls back to it.
        let enrols = offers == [tls::ALPN_ENROL];
        let config = if enrols { &self.door.enrol } else { &self.door.work };
        let stream = match start.into_stream(Arc::clone(config)).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                linger(stream).await;
                return Err(error);
            }
        };
        let session = stream.get_ref().1;
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let (Some(_), Some(certificate)) = (session.alpn_protocol(), certificate) else { return Ok(None) };
        let key = tls::key_of(certificate).map_err(io::Error::other)?;
        Ok(Some(match enrols {
            true => Incoming::Enrol(Box::new(stream), key),
            false => Incoming::Work(Connection { stream: Box::pin(stream), peer: Peer::Key(key) }),
        }))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = self.door.under_way.borrow_mut();
        if let Some(own) = under_way.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                under_way.remove(&self.source);
            }
        }
    }
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
