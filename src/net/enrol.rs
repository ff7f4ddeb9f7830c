//! Enrolment: a key that nobody knows shows a token, and is known from then on. One small fixed message each way, over
//! TLS with the ALPN `clusterctl-enroll/1`; no Cap'n Proto before a key is known.
//!
//! ```text
//!   request = length 2 | version 1 (=1) | role 1 (w|c) | token id 8 | secret 16 | given 1 (0|1) | wished name
//!   granted = length 2 | 0 1 | pool fingerprint 32 | n 1 | pool name n | n 1 | granted name n | n 1 | owner n
//!   refused = length 2 | code 1 (1…) | text
//! ```
//! Lengths count what follows them; numbers are big end first. The key that is let in is the one that the handshake
//! proved; the client has checked the server's key against its token before it sends anything.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::dial::{DialError, Route, dial_tls, is_silent, presented};
use super::key::KeyPair;
use super::tls::{ALPN_ENROL, Expected};
use super::token::Token;
use crate::core::access::Role;
use crate::core::id::{Fingerprint, Name, TokenId};
use crate::core::limits;
use crate::core::pool::NameChoice;

const VERSION: u8 = 1;

/// What a key asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    /// What it wants to be.
    pub role: Role,
    /// The token that it has.
    pub token: TokenId,
    /// And its secret.
    pub secret: [u8; 16],
    /// The name that it would like.
    pub name: Name,
    /// Whether a person chose that.
    pub choice: NameChoice,
}

/// What a key is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnrolAnswer {
    /// It is known from now on.
    Granted(Enrolled),
    /// It is not.
    Refused(TokenRefusal, String),
}

/// How a pool knows a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The pool's key.
    pub pool_key: Fingerprint,
    /// The pool's name.
    pub pool: String,
    /// The key's name.
    pub name: String,
    /// Whose jobs it submits; empty for a worker.
    pub owner: String,
}

/// Why a token does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// There is none such.
    Invalid = 1,
    /// It was used.
    Spent,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
    /// It is for something else.
    WrongRole,
    /// The name that it would give is in use.
    NameTaken,
}

impl TokenRefusal {
    const ALL: [Self; 6] =
        [Self::Invalid, Self::Spent, Self::Expired, Self::Revoked, Self::WrongRole, Self::NameTaken];

    /// The code by which scripts know it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid => "auth-token-invalid",
            Self::Spent => "auth-token-spent",
            Self::Expired => "auth-token-expired",
            Self::Revoked => "auth-token-revoked",
            Self::WrongRole => "auth-token-wrong-role",
            Self::NameTaken => "name-taken",
        }
    }

    /// What helps whoever wants to be let in by the pool at this host.
    pub fn hint(self, role: Role, host: &str) -> String {
        let (option, name) = match role {
            Role::Worker => ("--worker", "--name"),
            Role::Client => ("--client", "--as"),
        };
        match self {
            Self::Invalid | Self::Spent | Self::Expired | Self::Revoked | Self::WrongRole => {
                format!("on {host}: clusterctl token create {option}")
            }
            Self::NameTaken => {
                format!("{name} NAME gives it another, unless the token gives the name: then another token")
            }
        }
    }
}

/// Why a key did not become known.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There was no connection, or to somebody else.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The pool refused.
    #[error("{1}")]
    Refused(TokenRefusal, String),
    /// The pool hung up, or said something that is no answer.
    #[error("the pool hung up during enrolment: {0}")]
    Broken(#[from] io::Error),
}

/// Shows a token to the pool that it is for.
///
/// # Errors
/// As `EnrolError` says; nothing secret was sent to another pool.
pub async fn enrol(
    address: &str,
    key: &KeyPair,
    token: &Token,
    wish: (&Name, NameChoice),
    route: &Route,
) -> Result<Enrolled, EnrolError> {
    let request = EnrolRequest {
        role: token.role,
        token: token.id,
        secret: *token.secret(),
        name: wish.0.clone(),
        choice: wish.1,
    };
    let began = tokio::time::Instant::now();
    let answer = loop {
        let mut stream = dial_tls(address, key, Expected::Prefix(token.pool), ALPN_ENROL, route).await?;
        presented(&stream)?;
        match ask(&mut stream, &request).await {
            // It may have needed the place for somebody else. The same key with the same token may ask again.
            Err(error) if is_silent(&error) && began.elapsed() < route.timing.dial_connect => {}
            asked => break asked?,
        }
    };
    match EnrolAnswer::decode(&answer).ok_or_else(malformed)? {
        EnrolAnswer::Granted(enrolled) => Ok(enrolled),
        EnrolAnswer::Refused(why, text) => Err(EnrolError::Refused(why, text)),
    }
}

async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &EnrolRequest,
) -> io::Result<Vec<u8>> {
    send(stream, &request.encode()).await?;
    receive(stream).await
}

/// Reads what a key asks for.
///
/// # Errors
/// When it is no request.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<EnrolRequest> {
    let message = receive(stream).await?;
    EnrolRequest::decode(&message).ok_or_else(malformed)
}

/// Tells a key what became of it.
///
/// # Errors
/// When it has gone.
pub async fn answer(stream: &mut (impl AsyncWrite + Unpin), answer: &EnrolAnswer) -> io::Result<()> {
    send(stream, &answer.encode()).await?;
    stream.shutdown().await
}

impl EnrolRequest {
    fn encode(&self) -> Vec<u8> {
        let role = match self.role {
            Role::Worker => b'w',
            Role::Client => b'c',
        };
        let mut bytes = vec![VERSION, role];
        bytes.extend(self.token.0.to_be_bytes());
        bytes.extend(self.secret);
        bytes.push(u8::from(self.choice == NameChoice::Given));
        bytes.extend(self.name.as_str().as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let ([VERSION, role], rest) = bytes.split_first_chunk()? else { return None };
        let (token, rest) = rest.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        let (given, name) = rest.split_first()?;
        Some(Self {
            role: match role {
                b'w' => Role::Worker,
                b'c' => Role::Client,
                _ => return None,
            },
            token: TokenId(u64::from_be_bytes(*token)),
            secret: *secret,
            name: Name::parse(std::str::from_utf8(name).ok()?).ok()?,
            choice: if *given == 1 { NameChoice::Given } else { NameChoice::Default },
        })
    }
}

impl EnrolAnswer {
    fn encode(&self) -> Vec<u8> {
        match self {
            EnrolAnswer::Granted(enrolled) => {
                let mut bytes = vec![0];
                bytes.extend(enrolled.pool_key.0);
                for text in [&enrolled.pool, &enrolled.name, &enrolled.owner] {
                    bytes.push(u8::try_from(text.len()).expect("names have at most 64 bytes"));
                    bytes.extend(text.as_bytes());
                }
                bytes
            }
            EnrolAnswer::Refused(why, text) => [&[*why as u8], text.as_bytes()].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (code, mut rest) = bytes.split_first()?;
        if *code > 0 {
            let why = *TokenRefusal::ALL.get(usize::from(*code) - 1)?;
            return Some(Self::Refused(why, String::from_utf8(rest.to_vec()).ok()?));
        }
        let pool_key;
        (pool_key, rest) = rest.split_first_chunk()?;
        let mut text = || {
            let length;
            (length, rest) = rest.split_first()?;
            let text;
            (text, rest) = rest.split_at_checked(usize::from(*length))?;
            String::from_utf8(text.to_vec()).ok()
        };
        let (pool, name, owner) = (text()?, text()?, text()?);
        Some(Self::Granted(Enrolled { pool_key: Fingerprint(*pool_key), pool, name, owner }))
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).expect("messages are far below 64 KiB");
    let whole = [&length.to_be_bytes(), message].concat();
    stream.write_all(&whole).await?;
    stream.flush().await
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > limits::ENROL_MESSAGE_BYTES_MAX {
        return Err(malformed());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a malformed message")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_messages_read_back() {
        let request = EnrolRequest {
            role: Role::Worker,
            token: TokenId(77),
            secret: [5; 16],
            name: Name::parse("n1").unwrap(),
            choice: NameChoice::Given,
        };
        let granted = EnrolAnswer::Granted(Enrolled {
            pool_key: Fingerprint([1; 32]),
            pool: "lab".into(),
            name: "n1".into(),
            owner: String::new(),
        });
        let refused = EnrolAnswer::Refused(TokenRefusal::Spent, "this token has been used".into());

        assert!(EnrolRequest::decode(&request.encode()) == Some(request));
        assert_eq!(EnrolAnswer::decode(&granted.encode()), Some(granted));
        assert_eq!(EnrolAnswer::decode(&refused.encode()), Some(refused));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_readers(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = EnrolRequest::decode(&bytes);
            let _ = EnrolAnswer::decode(&bytes);
        }
    }
}
