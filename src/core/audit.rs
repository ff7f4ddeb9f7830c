//! What an operator can read later of who did what, and of who was let in or not. Nothing secret is in it: of a script
//! its hash, of a token its id.

use super::time::WallTime;

/// One entry of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: WallTime,
    /// What was done or decided.
    pub what: AuditKind,
    /// Who did it, or whom it was decided about; empty: nobody who is known.
    pub who: String,
    /// Where that came from: an address, or `socket`; `pool`: from itself.
    pub source: String,
    /// What it was about, as `job 42`; may be empty.
    pub about: String,
    /// More, as the hash of a script or the reason of a refusal; may be empty.
    pub detail: String,
    /// How often, at least once.
    pub count: u32,
}

/// What an entry of the audit trail tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditKind {
    /// A key was let in by a token.
    Enrolled,
    /// A key was not let in by a token.
    NotEnrolled,
    /// Somebody who is known connected.
    Connected,
    /// Somebody was refused at the door.
    NotConnected,
    /// A token was made.
    TokenCreated,
    /// A token was revoked.
    TokenRevoked,
    /// A job was accepted.
    Submitted,
    /// Tasks were cancelled.
    Cancelled,
    /// Unknown attempts were given up.
    Abandoned,
    /// A worker was removed for good.
    WorkerRemoved,
    /// A worker was taken out of service.
    WorkerDrained,
    /// A worker is in service again.
    WorkerResumed,
    /// A client was revoked for good.
    ClientRevoked,
    /// A worker or a client replaced its own key.
    KeyRenewed,
    /// The pool has another key.
    PoolKeyRenewed,
    /// An ephemeral worker had gone, and was forgotten.
    WorkerForgotten,
}

impl AuditKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Enrolled,
        Self::NotEnrolled,
        Self::Connected,
        Self::NotConnected,
        Self::TokenCreated,
        Self::TokenRevoked,
        Self::Submitted,
        Self::Cancelled,
        Self::Abandoned,
        Self::WorkerRemoved,
        Self::WorkerDrained,
        Self::WorkerResumed,
        Self::ClientRevoked,
        Self::KeyRenewed,
        Self::PoolKeyRenewed,
        Self::WorkerForgotten,
    ];

    /// The words that people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::NotEnrolled => "not enrolled",
            Self::Connected => "connected",
            Self::NotConnected => "not let in",
            Self::TokenCreated => "token created",
            Self::TokenRevoked => "token revoked",
            Self::Submitted => "submitted",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::WorkerRemoved => "worker removed",
            Self::WorkerDrained => "worker drained",
            Self::WorkerResumed => "worker resumed",
            Self::ClientRevoked => "client revoked",
            Self::KeyRenewed => "key renewed",
            Self::PoolKeyRenewed => "pool key renewed",
            Self::WorkerForgotten => "worker forgotten",
        }
    }
}
