//! That one key takes the place of another, as values. What a signature is, and whether it holds, `net::succession` knows.

use super::id::Fingerprint;

/// A former key of a pool says which one has taken its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// SubjectPublicKeyInfo of the former key, in DER.
    pub signer: Vec<u8>,
    /// The one that has taken its place.
    pub next: Fingerprint,
    /// By the former key.
    pub signature: Vec<u8>,
}

/// A key that is to take the place of another at a pool, with the proof that whoever says so holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// SubjectPublicKeyInfo of the new key, in DER.
    pub key: Vec<u8>,
    /// By the new key.
    pub signature: Vec<u8>,
}
