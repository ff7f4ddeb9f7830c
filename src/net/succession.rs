//! How one key takes the place of another: statements that whoever knows one of the two can verify.
//!
//! ```text
//!   of a pool:    the old key signs   "clusterctl-succession/1" ‖ old fingerprint ‖ new fingerprint
//!   of a holder:  the new key signs   "clusterctl-renewal/1" ‖ pool's fingerprint ‖ old fingerprint ‖ new fingerprint
//! ```
//! A fingerprint has 32 bytes; a signature is ECDSA over P-256 with SHA-256, in ASN.1. A holder says its own over a
//! connection that its old key made, so that both are proved.

use rcgen::SigningKey;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::key::{KeyPair, fingerprint_of};
use crate::core::id::Fingerprint;
use crate::core::succession::{Renewal, Succession};

const SUCCESSION: &[u8] = b"clusterctl-succession/1";
const RENEWAL: &[u8] = b"clusterctl-renewal/1";
/// An uncompressed point of P-256 ends the SubjectPublicKeyInfo of a key.
const POINT_BYTES: usize = 65;

/// What a former key of a pool says about the one that has taken its place.
///
/// # Errors
/// When there is no randomness.
pub fn succeed(former: &KeyPair, next: Fingerprint) -> Result<Succession, rcgen::Error> {
    let words = [SUCCESSION, &former.fingerprint().0, &next.0].concat();
    Ok(Succession { signer: former.info(), next, signature: former.signing_key().sign(&words)? })
}

/// The key by which a pool is known now that was known by another: that one still, unless it says which has taken its
/// place.
pub fn present_key(known: Fingerprint, said: &[Succession]) -> Fingerprint {
    let holds = |said: &&Succession| {
        let words = [SUCCESSION, &known.0, &said.next.0].concat();
        fingerprint_of(&said.signer) == known && is_signed(&said.signer, &words, &said.signature)
    };
    said.iter().find(holds).map_or(known, |said| said.next)
}

/// A holder's new key asks to take the place of its old one at a pool.
///
/// # Errors
/// When there is no randomness.
pub fn renew(pool: Fingerprint, before: Fingerprint, after: &KeyPair) -> Result<Renewal, rcgen::Error> {
    let words = [RENEWAL, &pool.0, &before.0, &after.fingerprint().0].concat();
    Ok(Renewal { key: after.info(), signature: after.signing_key().sign(&words)? })
}

/// The new key, if it was asked for at a pool that is known by one of these.
pub fn renewed_key(said: &Renewal, pool: &[Fingerprint], before: Fingerprint) -> Option<Fingerprint> {
    let after = fingerprint_of(&said.key);
    let holds = |pool: &Fingerprint| {
        let words = [RENEWAL, &pool.0, &before.0, &after.0].concat();
        is_signed(&said.key, &words, &said.signature)
    };
    pool.iter().any(holds).then_some(after)
}

fn is_signed(info: &[u8], words: &[u8], signature: &[u8]) -> bool {
    let Some(start) = info.len().checked_sub(POINT_BYTES) else { return false };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info[start..]).verify(words, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [KeyPair; 3] {
        std::array::from_fn(|_| KeyPair::generate().unwrap())
    }

    #[test]
    fn a_former_key_vouches_for_the_present_one() {
        let [first, second, present] = keys().map(|key| (key.fingerprint(), key));
        let said = [&first, &second].map(|(_, key)| succeed(key, present.0).unwrap());

        for (known, _) in [&first, &second, &present] {
            assert_eq!(present_key(*known, &said), present.0);
        }
    }

    #[test]
    fn nobody_else_vouches() {
        let [first, second, thief] = keys();
        let honest = succeed(&first, second.fingerprint()).unwrap();
        let by_thief = succeed(&thief, thief.fingerprint()).unwrap();
        let claimed = Succession { signer: first.info(), ..by_thief.clone() };
        let turned = Succession { next: thief.fingerprint(), ..honest };
        let short = Succession { signer: vec![4; 10], ..by_thief.clone() };

        let said = [by_thief, claimed, turned, short];
        assert_eq!(present_key(first.fingerprint(), &said), first.fingerprint());
    }

    #[test]
    fn a_renewal_counts_for_its_pool_and_its_old_key_alone() {
        let [pool, before, after] = keys();
        let (at, of) = (pool.fingerprint(), before.fingerprint());
        let renewal = renew(at, of, &after).unwrap();

        assert_eq!(renewed_key(&renewal, &[at], of), Some(after.fingerprint()));
        assert_eq!(renewed_key(&renewal, &[of], of), None);
        assert_eq!(renewed_key(&renewal, &[at], at), None);
        let posing = Renewal { key: before.info(), ..renewal };
        assert_eq!(renewed_key(&posing, &[at], of), None);
    }
}
