//! Who is let in as what: tokens, the keys of workers and clients, and local workers.
//!
//! Keys are fingerprints here, secrets are hashes; nothing knows how a key is proved.

use std::time::Duration;

use crate::core::access::{Role, TokenInfo, TokenState as ShownState, TokenWish};
use crate::core::audit::AuditKind;
use crate::core::id::{Fingerprint, Name, TokenId, WorkerId};
use crate::core::limits;
use crate::core::record::{ClientState, Record, TokenState, Validity, WorkerState};
use crate::core::time::Now;

use super::apply::stands;
use super::batch::Effect;
use super::{Decision, Pool, Viewer};

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A worker.
    Worker(WorkerId, String),
    /// A client, with the owner of what it submits.
    Client {
        /// Its name.
        name: String,
        /// Whose jobs it submits and sees.
        owner: String,
    },
}

/// What a key that wants to be let in shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolWish {
    /// The token that it has.
    pub token: TokenId,
    /// Hash of the token's secret.
    pub secret_hash: [u8; 32],
    /// What it wants to be.
    pub role: Role,
    /// The key that the handshake proved.
    pub key: Fingerprint,
    /// The name that it would like.
    pub name: Name,
    /// Whether a person chose that name.
    pub choice: NameChoice,
    /// Where it is.
    pub source: String,
}

/// Where a wished name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameChoice {
    /// A person gave it: refused if it is in use.
    Given,
    /// It is a default as the host name: `-2` is put behind it if it is in use.
    Default,
}

/// A key was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Its name from now on.
    pub name: String,
    /// Whose jobs it submits; empty for a worker.
    pub owner: String,
}

/// Why a key is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolRefused {
    /// There is no such token, or its secret is another.
    #[error("the pool refused this token")]
    Invalid,
    /// It was used as often as it may be.
    #[error("this token has been used")]
    Spent,
    /// Its time is over, since so long.
    #[error("this token expired {} ago", human(*.0))]
    Expired(Duration),
    /// Somebody revoked it.
    #[error("this token was revoked")]
    Revoked,
    /// It makes something else of a key.
    #[error("this token is for a {}", role_word(*.0))]
    WrongRole(Role),
    /// The name is in use.
    #[error("the name \"{0}\" is in use")]
    NameTaken(String),
}

/// Why no token is made or revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There are too many.
    #[error("the pool has 10000 tokens, revoke some")]
    TooMany,
    /// Longer than a day.
    #[error("a token lives at most a day")]
    TooLong,
    /// There is no such token.
    #[error("no such token")]
    Unknown,
}

const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

impl Pool {
    /// Makes a token; its secret stays with the caller.
    pub fn create_token(
        &mut self,
        now: Now,
        viewer: &Viewer,
        wish: TokenWish,
        secret_hash: [u8; 32],
    ) -> Result<TokenId, TokenError> {
        self.forget_old_tokens(now);
        if self.tokens.len() >= limits::TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        if wish.ttl > TTL_MAX {
            return Err(TokenError::TooLong);
        }
        let id = TokenId(self.counters.token.0 + 1);
        let state = TokenState {
            id,
            role: wish.role,
            secret_hash,
            name: wish.name.map(|name| name.as_str().to_owned()),
            owner: wish.owner.map(|owner| owner.as_str().to_owned()),
            labels: wish.labels,
            uses_left: wish.uses,
            expires: now.wall.after(wish.ttl),
            validity: Validity::Standing,
            admitted: Vec::new(),
        };
        let (about, detail) = (format!("token {id}"), format!("for a {}", state.role.as_str()));
        self.audit(now, viewer, AuditKind::TokenCreated, about, detail);
        self.record(now, Record::Token(state));
        Ok(id)
    }

    /// A token lets nobody in any longer.
    pub fn revoke_token(&mut self, now: Now, viewer: &Viewer, id: TokenId) -> Result<(), TokenError> {
        let mut state = self.tokens.get(&id).ok_or(TokenError::Unknown)?.clone();
        state.validity = Validity::Revoked;
        self.audit(now, viewer, AuditKind::TokenRevoked, format!("token {id}"), String::new());
        self.record(now, Record::Token(state));
        Ok(())
    }

    /// All tokens that are kept, oldest first.
    pub fn tokens(&self, now: Now) -> Vec<TokenInfo> {
        let shown = |token: &TokenState| TokenInfo {
            id: token.id,
            role: token.role,
            name: token.name.clone(),
            uses_left: token.uses_left,
            expires: token.expires,
            state: match () {
                () if !stands(token.validity) => ShownState::Revoked,
                () if token.uses_left == Some(0) => ShownState::Spent,
                () if now.wall >= token.expires => ShownState::Expired,
                () => ShownState::Valid,
            },
        };
        self.tokens.values().map(shown).collect()
    }

    /// Lets a key in, if its token says so. The same key with the same token again is the same use.
    pub fn enrol(&mut self, now: Now, wish: EnrolWish) -> Result<Granted, EnrolRefused> {
        let EnrolWish { source, token, role, key, .. } = &wish;
        let (source, detail) = (source.clone(), format!("token {token}, {}, key {key}", role.as_str()));
        let admitted = self.admit(now, wish);
        let (what, who, detail) = match &admitted {
            Ok(granted) => (AuditKind::Enrolled, granted.name.clone(), detail),
            Err(refused) => (AuditKind::NotEnrolled, String::new(), refused.to_string()),
        };
        self.decided(now, Decision { what, who, source, detail });
        admitted
    }

    fn admit(&mut self, now: Now, wish: EnrolWish) -> Result<Granted, EnrolRefused> {
        let token = self.tokens.get(&wish.token).ok_or(EnrolRefused::Invalid)?.clone();
        if !same_secret(&token.secret_hash, &wish.secret_hash) {
            return Err(EnrolRefused::Invalid);
        }
        if token.role != wish.role {
            return Err(EnrolRefused::WrongRole(token.role));
        }
        if token.admitted.contains(&wish.key)
            && let Some(granted) = self.granted_to(&wish.key)
        {
            return Ok(granted);
        }
        check_usable(&token, now)?;
        let granted = match wish.role {
            Role::Worker => self.admit_worker(now, &wish, &token)?,
            Role::Client => self.admit_client(now, &wish, &token)?,
        };
        let mut spent = token;
        spent.uses_left = spent.uses_left.map(|uses| uses.saturating_sub(1));
        if spent.uses_left.is_some() {
            spent.admitted.push(wish.key);
        }
        self.record(now, Record::Token(spent));
        Ok(granted)
    }

    /// What every key that is let in stands for.
    pub fn identities(&self) -> impl Iterator<Item = (Fingerprint, Identity)> + '_ {
        let workers =
            self.workers.values().filter(|worker| stands(worker.state.validity)).filter_map(|worker| {
                let identity = Identity::Worker(worker.state.id, worker.state.name.clone());
                worker.state.key.map(|key| (key, identity))
            });
        let clients = self.clients.values().filter(|client| stands(client.validity)).map(|client| {
            (client.key, Identity::Client { name: client.name.clone(), owner: client.owner.clone() })
        });
        workers.chain(clients)
    }

    /// A worker on the pool's own machine, known by its name alone.
    pub fn local_worker(
        &mut self,
        now: Now,
        name: &Name,
        choice: NameChoice,
    ) -> Result<(WorkerId, String), EnrolRefused> {
        if let Some(id) = self.worker_names.get(name.as_str()) {
            let known = &self.workers[id].state;
            if known.key.is_none() && stands(known.validity) {
                return Ok((*id, known.name.clone()));
            }
        }
        let name = self.free_worker_name(name, choice)?;
        Ok((self.make_worker(now, &name, None, &TokenLabels::default()), name))
    }

    fn granted_to(&self, key: &Fingerprint) -> Option<Granted> {
        let worker = self.worker_keys.get(key).map(|id| &self.workers[id].state);
        if let Some(worker) = worker.filter(|worker| stands(worker.validity)) {
            return Some(Granted { name: worker.name.clone(), owner: String::new() });
        }
        let client = self.clients.get(key).filter(|client| stands(client.validity))?;
        Some(Granted { name: client.name.clone(), owner: client.owner.clone() })
    }

    fn admit_worker(
        &mut self,
        now: Now,
        wish: &EnrolWish,
        token: &TokenState,
    ) -> Result<Granted, EnrolRefused> {
        if self.clients.contains_key(&wish.key) {
            // A key is one thing, or what it may do would depend on who asks first.
            return Err(EnrolRefused::Invalid);
        }
        if self.worker_keys.contains_key(&wish.key) {
            // A key that is known needs no token; one that was removed gets in by none.
            return self.granted_to(&wish.key).ok_or(EnrolRefused::Invalid);
        }
        let name = match &token.name {
            Some(name) if self.has_worker(name) => {
                return Err(EnrolRefused::NameTaken(name.clone()));
            }
            Some(name) => name.clone(),
            None => self.free_worker_name(&wish.name, wish.choice)?,
        };
        let id = self.make_worker(now, &name, Some(wish.key), &token.labels);
        self.turn.act(Effect::Admit(wish.key, Identity::Worker(id, name.clone())));
        Ok(Granted { name, owner: String::new() })
    }

    fn admit_client(
        &mut self,
        now: Now,
        wish: &EnrolWish,
        token: &TokenState,
    ) -> Result<Granted, EnrolRefused> {
        if self.worker_keys.contains_key(&wish.key) {
            return Err(EnrolRefused::Invalid);
        }
        if self.clients.contains_key(&wish.key) {
            return self.granted_to(&wish.key).ok_or(EnrolRefused::Invalid);
        }
        let taken = |name: &str| {
            name == self.host.owner
                || self.clients.values().any(|client| client.name == name || client.owner == name)
        };
        let name = match &token.name {
            Some(name) if self.clients.values().any(|client| client.name == *name) => {
                return Err(EnrolRefused::NameTaken(name.clone()));
            }
            Some(name) => name.clone(),
            None => free_name(&wish.name, wish.choice, taken)?,
        };
        let owner = match &token.owner {
            Some(owner) => owner.clone(),
            None if token.name.is_some() && taken(&name) => return Err(EnrolRefused::NameTaken(name)),
            None => name.clone(),
        };
        let validity = Validity::Standing;
        let state = ClientState {
            key: wish.key,
            name: name.clone(),
            owner: owner.clone(),
            joined: now.wall,
            validity,
        };
        self.record(now, Record::Client(state));
        self.turn.act(Effect::Admit(wish.key, Identity::Client { name: name.clone(), owner: owner.clone() }));
        Ok(Granted { name, owner })
    }

    /// Whether a worker has this name and was not removed.
    pub(super) fn has_worker(&self, name: &str) -> bool {
        self.worker_names.get(name).is_some_and(|id| stands(self.workers[id].state.validity))
    }

    fn free_worker_name(&self, wished: &Name, choice: NameChoice) -> Result<String, EnrolRefused> {
        free_name(wished, choice, |name| self.has_worker(name))
    }

    fn make_worker(
        &mut self,
        now: Now,
        name: &str,
        key: Option<Fingerprint>,
        bound: &TokenLabels,
    ) -> WorkerId {
        let id = WorkerId(self.counters.worker.0 + 1);
        let state = WorkerState {
            id,
            name: name.to_owned(),
            key,
            bound: bound.clone(),
            joined: now.wall,
            validity: Validity::Standing,
            facts: None,
            drain: None,
        };
        self.record(now, Record::Worker(state));
        id
    }

    /// Drops tokens whose time has been over for a day: until then their refusal can say why.
    fn forget_old_tokens(&mut self, now: Now) {
        let day_ms = i64::try_from(TTL_MAX.as_millis()).unwrap_or(i64::MAX);
        let old = self.tokens.values().filter(|token| token.expires.0.saturating_add(day_ms) < now.wall.0);
        for id in old.map(|token| token.id).collect::<Vec<_>>() {
            self.record(now, Record::TokenForgotten(id));
        }
    }
}

type TokenLabels = crate::core::label::Labels;

fn check_usable(token: &TokenState, now: Now) -> Result<(), EnrolRefused> {
    if !stands(token.validity) {
        return Err(EnrolRefused::Revoked);
    }
    if token.uses_left == Some(0) {
        return Err(EnrolRefused::Spent);
    }
    if now.wall >= token.expires {
        let ago_ms = u64::try_from(now.wall.0 - token.expires.0).unwrap_or(0);
        return Err(EnrolRefused::Expired(Duration::from_millis(ago_ms)));
    }
    Ok(())
}

/// The wished name, or with a number behind it, if nobody gave it.
fn free_name(
    wished: &Name,
    choice: NameChoice,
    taken: impl Fn(&str) -> bool,
) -> Result<String, EnrolRefused> {
    if !taken(wished.as_str()) {
        return Ok(wished.as_str().to_owned());
    }
    if choice == NameChoice::Given {
        return Err(EnrolRefused::NameTaken(wished.as_str().to_owned()));
    }
    let stem = &wished.as_str()[..wished.as_str().len().min(limits::NAME_BYTES_MAX - 8)];
    (2..).map(|n| format!("{stem}-{n}")).find(|name| !taken(name)).ok_or(EnrolRefused::Invalid)
}

/// Compares without telling by its duration where the difference is.
fn same_secret(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker; a client needs one made with --client",
        Role::Client => "client; a worker needs one made with --worker",
    }
}

/// A duration as people say it, in its largest unit.
fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
