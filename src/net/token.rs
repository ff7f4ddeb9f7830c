//! Tokens: one pasted word that names the pool's key, so that a false pool is refused before the secret leaves, and
//! carries a secret that lets a new key in.
//!
//! ```text
//!   CCT1-<w|c>-<base32 of the first 128 bits of the pool's fingerprint>-<id>-<base32 of a 128-bit secret>-<crc32>
//! ```

use std::fmt;
use std::str::FromStr;

use crate::core::access::Role;
use crate::core::id::{Fingerprint, TokenId};

const PREFIX: &str = "CCT1";

/// A token. Its `Debug` shows no secret; `Display` does, since that is what a token is for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it makes of a key.
    pub role: Role,
    /// The first half of the pool's fingerprint.
    pub pool: [u8; 16],
    /// Which one it is.
    pub id: TokenId,
    secret: [u8; 16],
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It does not look like one.
    #[error("this is no token: a token begins with CCT1-")]
    NoToken,
    /// Its checksum does not fit.
    #[error("this token is mistyped or cut off")]
    Mistyped,
}

impl Token {
    /// A token of a pool, with a secret from the kernel.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new_secret() -> Result<[u8; 16], getrandom::Error> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)?;
        Ok(secret)
    }

    /// A token of a pool.
    pub fn new(role: Role, pool: &Fingerprint, id: TokenId, secret: [u8; 16]) -> Self {
        let pool = pool.0[..16].try_into().expect("a fingerprint has 32 bytes");
        Self { role, pool, id, secret }
    }

    /// The key that this token is for, and another, as far as a token knows keys: by their first half.
    pub fn tell_apart(&self, presented: &Fingerprint) -> (String, String) {
        let half = |bytes: &[u8]| format!("sha256:{}…", data_encoding::HEXLOWER.encode(bytes));
        (half(&self.pool), half(&presented.0[..self.pool.len()]))
    }

    /// Whether a pool's key is the one that this token is for.
    pub fn is_for(&self, pool: &Fingerprint) -> bool {
        pool.0[..16] == self.pool
    }

    /// The secret, to be sent to a pool whose key was checked.
    pub fn secret(&self) -> &[u8; 16] {
        &self.secret
    }
}

/// What a pool keeps of a secret.
pub fn secret_hash(secret: &[u8; 16]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Worker => 'w',
            Role::Client => 'c',
        };
        let base32 = |bytes: &[u8]| data_encoding::BASE32_NOPAD.encode(bytes).to_ascii_lowercase();
        let body = format!("{PREFIX}-{role}-{}-{}-{}", base32(&self.pool), self.id, base32(&self.secret));
        write!(f, "{body}-{:08x}", crc32fast::hash(body.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token {{ role: {:?}, id: {} }}", self.role, self.id)
    }
}

impl FromStr for Token {
    type Err = BadToken;

    /// White space anywhere is passed over: a terminal may have wrapped it.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text: String = text.split_whitespace().collect();
        if !text.starts_with(PREFIX) {
            return Err(BadToken::NoToken);
        }
        let (body, crc) = text.rsplit_once('-').ok_or(BadToken::Mistyped)?;
        if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(body.as_bytes())) {
            return Err(BadToken::Mistyped);
        }
        let [_, role, pool, id, secret] =
            body.split('-').collect::<Vec<_>>().try_into().map_err(|_| BadToken::Mistyped)?;
        let bytes = |text: &str| -> Result<[u8; 16], BadToken> {
            let bytes = data_encoding::BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes());
            bytes.ok().and_then(|bytes| bytes.try_into().ok()).ok_or(BadToken::Mistyped)
        };
        let role = match role {
            "w" => Role::Worker,
            "c" => Role::Client,
            _ => return Err(BadToken::Mistyped),
        };
        let id = TokenId(id.parse().map_err(|_| BadToken::Mistyped)?);
        Ok(Self { role, pool: bytes(pool)?, id, secret: bytes(secret)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token::new(Role::Client, &Fingerprint([9; 32]), TokenId(7), [3; 16])
    }

    #[test]
    fn a_token_reads_back_also_when_it_was_wrapped() {
        let text = token().to_string();
        let wrapped = format!("  {}\n {}\n", &text[..20], &text[20..]);

        assert_eq!(wrapped.parse(), Ok(token()));
        assert!(token().is_for(&Fingerprint([9; 32])));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", token()), "Token { role: Client, id: 7 }");
    }

    proptest! {
        #[test]
        fn one_wrong_letter_is_noticed(at in 4usize..80, letter in "[a-z0-9]") {
            let mut text = token().to_string();
            let at = at.min(text.len() - 1);
            let changed = text[at..=at] != letter;
            text.replace_range(at..=at, &letter);
            prop_assert_eq!(text.parse::<Token>().is_err(), changed);
        }

        #[test]
        fn no_text_breaks_the_parser(text in "(CCT1-)?[a-zA-Z0-9 -]{0,90}") {
            let _ = text.parse::<Token>();
        }
    }
}
