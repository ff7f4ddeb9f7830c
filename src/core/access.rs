//! Tokens as people ask for them and see them. Their secrets are nowhere here.

use std::time::Duration;

use super::id::{Name, TokenId};
use super::label::Labels;
use super::time::WallTime;

/// What a token makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A worker.
    Worker,
    /// A client: a person or a script.
    Client,
}

impl Role {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Client => "client",
        }
    }
}

/// A token that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenWish {
    /// What it makes of a key.
    pub role: Role,
    /// The name that it gives; none: as the key's holder wishes.
    pub name: Option<Name>,
    /// Of a client: whose jobs it submits and sees; none: its name.
    pub owner: Option<Name>,
    /// Of a worker: labels that the pool gives it.
    pub labels: Labels,
    /// How many keys it lets in; none: any number.
    pub uses: Option<u32>,
    /// How long it counts.
    pub ttl: Duration,
}

/// A token as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its id.
    pub id: TokenId,
    /// What it makes of a key.
    pub role: Role,
    /// The name that it gives.
    pub name: Option<String>,
    /// How many more keys it lets in; none: any number.
    pub uses_left: Option<u32>,
    /// When it stops to count.
    pub expires: WallTime,
    /// Whether it still does.
    pub state: TokenState,
}

/// Whether a token still lets keys in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It does.
    Valid,
    /// It was used as often as it may be.
    Spent,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
}
