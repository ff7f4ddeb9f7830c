//! Letting new keys in: one message, one decision, one answer.

use super::shared::Shared;
use crate::core::id::Fingerprint;
use crate::core::pool::{EnrolRefused, EnrolWish};
use crate::net::anteroom::Place;
use crate::net::enrol::{EnrolAnswer, Enrolled, TokenRefusal, answer, read_request};
use crate::net::listen::Strange;
use crate::net::token::secret_hash;

/// Hears what a key asks for, and tells it what became of it. The token is spent durably before the answer leaves.
/// Until then the key has its place among those who are not known.
pub(super) async fn enrol(
    shared: &Shared,
    mut stream: Box<Strange>,
    key: Fingerprint,
    place: Place,
    source: String,
) {
    let hearing = tokio::time::timeout(shared.timing.handshake, read_request(&mut stream));
    let heard = tokio::select! {
        heard = hearing => heard,
        () = place.needed() => return,
    };
    let Ok(Ok(request)) = heard else { return };
    let wish = EnrolWish {
        token: request.token,
        secret_hash: secret_hash(&request.secret),
        role: request.role,
        key,
        name: request.name,
        choice: request.choice,
        source,
    };
    let Ok(decided) = shared.pool.update(move |pool, now| pool.enrol(now, wish)).await else { return };
    let told = match decided {
        Ok(granted) => {
            place.is_known();
            tracing::info!(name = %granted.name, key = %format!("{key:.4}"), "a key was let in");
            EnrolAnswer::Granted(Enrolled {
                pool_key: shared.keys.present(),
                pool: shared.info.name.clone(),
                name: granted.name,
                owner: granted.owner,
            })
        }
        Err(refused) => {
            tracing::warn!(%refused, key = %format!("{key:.4}"), "a key was not let in");
            EnrolAnswer::Refused(reason(&refused), refused.to_string())
        }
    };
    // Whoever asked may have gone; the same key with the same token may ask again.
    let _ = tokio::time::timeout(shared.timing.handshake, answer(&mut stream, &told)).await;
}

fn reason(refused: &EnrolRefused) -> TokenRefusal {
    match refused {
        EnrolRefused::Invalid => TokenRefusal::Invalid,
        EnrolRefused::Spent => TokenRefusal::Spent,
        EnrolRefused::Expired(_) => TokenRefusal::Expired,
        EnrolRefused::Revoked => TokenRefusal::Revoked,
        EnrolRefused::WrongRole(_) => TokenRefusal::WrongRole,
        EnrolRefused::NameTaken(_) => TokenRefusal::NameTaken,
    }
}
