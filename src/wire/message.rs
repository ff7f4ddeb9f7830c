//! Whole messages as bytes, for what does not go over a connection: records, and what agent and executor say.

use capnp::message::{Builder, ReaderOptions};
use capnp::traits::Owned;

use crate::core::limits;

use super::WireError;

/// How often each word of a message may be walked over while it is read.
const WALKS_MAX: usize = 4;

/// A message with the struct `S` as its root.
pub(super) fn encode<S: Owned>(write: impl FnOnce(S::Builder<'_>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    write(message.init_root::<S::Builder<'_>>());
    capnp::serialize::write_message_to_words(&message)
}

/// Reads what `encode` made. Any bytes may be given: what they claim to be is bounded by how many there are.
pub(super) fn decode<S: Owned, T>(
    mut bytes: &[u8],
    read: impl FnOnce(S::Reader<'_>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    let options = ReaderOptions {
        traversal_limit_in_words: Some(WALKS_MAX * bytes.len().div_ceil(8)),
        nesting_limit: limits::MESSAGE_DEPTH_MAX,
    };
    let message = capnp::serialize::read_message(&mut bytes, options)?;
    read(message.get_root::<S::Reader<'_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types_capnp::job_spec;

    #[test]
    fn a_claim_of_more_than_there_is_is_refused_before_room_is_made_for_it() {
        let header = [0_u32.to_le_bytes(), (1_u32 << 28).to_le_bytes()].concat();

        let refused = decode::<job_spec::Owned, _>(&header, |_| Ok(()));

        // Not only because the end is missing.
        let Err(WireError::Malformed(error)) = refused else { panic!("it is read") };
        assert!(matches!(error.kind, capnp::ErrorKind::MessageTooLarge(_)), "{error}");
    }

    #[test]
    fn a_list_that_takes_no_room_is_no_longer_than_the_message() {
        let ranges = |from: job_spec::Reader<'_>| Ok(from.get_array()?.len());
        let mut bytes = encode::<job_spec::Owned>(|to| {
            to.init_array(1);
        });
        assert_eq!(decode::<job_spec::Owned, _>(&bytes, ranges).unwrap(), 1);

        // The tag before the one range: 2^24 of them, without a byte each.
        let tag = bytes.len() - 16;
        bytes[tag..tag + 8].copy_from_slice(&(1_u64 << 26).to_le_bytes());

        let refused = decode::<job_spec::Owned, _>(&bytes, ranges);
        assert!(matches!(refused, Err(WireError::Malformed(_))), "{refused:?}");
    }
}
