//! Texts, bytes and durations as they stand in messages.

use std::time::Duration;

use crate::core::limits;

use super::WireError;

/// A text of at most `max` bytes.
pub fn read(
    reader: capnp::Result<capnp::text::Reader<'_>>,
    what: &'static str,
    max: usize,
) -> Result<String, WireError> {
    let text = reader?;
    if text.len() > max {
        return Err(WireError::TooLong { what, bound: max });
    }
    Ok(text.to_str()?.to_owned())
}

/// As `read`, where an empty text stands for none.
pub fn read_optional(
    reader: capnp::Result<capnp::text::Reader<'_>>,
    what: &'static str,
    max: usize,
) -> Result<Option<String>, WireError> {
    Ok(Some(read(reader, what, max)?).filter(|text| !text.is_empty()))
}

/// Why something was lost or failed, as it is written: as much of it as is read.
pub fn reason(text: &str) -> &str {
    cut(text, limits::REASON_BYTES_MAX)
}

/// Why something was lost or failed.
pub fn read_reason(reader: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, WireError> {
    read(reader, "the reason", limits::REASON_BYTES_MAX)
}

/// The beginning of a text, at most `max` bytes of whole characters.
pub fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// At most `max` bytes.
pub fn read_bytes(
    reader: capnp::Result<capnp::data::Reader<'_>>,
    what: &'static str,
    max: usize,
) -> Result<Vec<u8>, WireError> {
    let bytes = reader?;
    if bytes.len() > max {
        return Err(WireError::TooLong { what, bound: max });
    }
    Ok(bytes.to_vec())
}

/// Exactly `N` bytes.
pub fn read_array<const N: usize>(
    reader: capnp::Result<capnp::data::Reader<'_>>,
    what: &'static str,
) -> Result<[u8; N], WireError> {
    reader?.try_into().map_err(|_| WireError::Length { what, bytes: N })
}

/// Milliseconds, where 0 stands for none.
pub fn duration(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// A duration in milliseconds; none is 0, and less than one millisecond is one.
pub fn millis(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How many items a page is to have, where 0 stands for the default.
pub fn page(wanted: u32) -> usize {
    if wanted == 0 { limits::PAGE_DEFAULT } else { limits::PAGE_MAX.min(wanted as usize) }
}

/// How many items of these sizes, in bytes, one page has room for; at least one.
pub fn fitting(sizes: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |size: &usize| {
        bytes += size;
        bytes <= limits::PAGE_BYTES_MAX
    };
    sizes.into_iter().take_while(fits).count().max(1)
}

/// How many items a list needs.
pub fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("lists are bounded far below 2^32")
}

/// Refuses a list that is longer than its bound.
pub fn check_len(len: u32, what: &'static str, max: usize) -> Result<(), WireError> {
    if len as usize > max { Err(WireError::TooLong { what, bound: max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aü", 2), "a");
        assert_eq!(cut("aü", 3), "aü");
        assert_eq!(cut("aü", 9), "aü");
    }

    #[test]
    fn a_page_is_as_long_as_its_bytes_allow_and_never_empty() {
        assert_eq!(fitting([10; 5]), 5);
        assert_eq!(fitting([limits::PAGE_BYTES_MAX / 3; 5]), 3);
        assert_eq!(fitting([limits::PAGE_BYTES_MAX + 1; 5]), 1);
    }

    #[test]
    fn no_duration_is_zero_and_a_short_one_is_not() {
        assert_eq!(millis(None), 0);
        assert_eq!(millis(Some(Duration::from_micros(1))), 1);
        assert_eq!(millis(Some(Duration::from_micros(2999))), 2);
        assert_eq!(millis(Some(Duration::MAX)), u64::MAX);
        assert_eq!(duration(millis(None)), None);
    }
}
