//! Keys that take the place of others.

use crate::core::id::Fingerprint;
use crate::core::limits;
use crate::core::succession::{Renewal, Succession};
use crate::schema::types_capnp::succession;

use super::{WireError, text};

/// A public key or a signature of P-256, in bytes, about: three times as long ones are no longer read.
const KEY_BYTES_MAX: usize = 256;

/// Writes what former keys say.
pub fn write_all(said: &[Succession], mut to: capnp::struct_list::Builder<'_, succession::Owned>) {
    for (n, succession) in (0..).zip(said) {
        let mut to = to.reborrow().get(n);
        to.set_signer(&succession.signer);
        to.set_next(&succession.next.0);
        to.set_signature(&succession.signature);
    }
}

/// Reads what former keys say.
pub fn read_all(
    from: capnp::struct_list::Reader<'_, succession::Owned>,
) -> Result<Vec<Succession>, WireError> {
    text::check_len(from.len(), "the list of former keys", limits::FORMER_KEYS_MAX)?;
    from.iter()
        .map(|from| {
            Ok(Succession {
                signer: text::read_bytes(from.get_signer(), "a key", KEY_BYTES_MAX)?,
                next: Fingerprint(text::read_array(from.get_next(), "a fingerprint")?),
                signature: text::read_bytes(from.get_signature(), "a signature", KEY_BYTES_MAX)?,
            })
        })
        .collect()
}

/// Reads what a new key says.
pub fn read_renewal(
    key: capnp::Result<&[u8]>,
    signature: capnp::Result<&[u8]>,
) -> Result<Renewal, WireError> {
    Ok(Renewal {
        key: text::read_bytes(key, "a key", KEY_BYTES_MAX)?,
        signature: text::read_bytes(signature, "a signature", KEY_BYTES_MAX)?,
    })
}
