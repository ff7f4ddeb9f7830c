//! Following frames in a stream of bytes, without keeping them.
//!
//! A frame begins with the number of its segments less one, then each segment's length in words (four bytes each,
//! little end first), filled up to eight bytes: <https://capnproto.org/encoding.html#serialization-over-a-stream>.

use super::excess::Excess;
use crate::core::limits;

/// Segments of a frame: capnp's own bound.
const SEGMENTS_MAX: u32 = 512;

/// Where in a frame the stream is.
#[derive(Debug, Default)]
pub(super) struct Scan {
    at: At,
    /// The word of the header that is being read.
    word: [u8; 4],
    word_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The number of segments.
    #[default]
    Count,
    /// Lengths of segments: how many are left, their words so far, and whether filling follows.
    Lengths { left: u32, words: u64, filled: bool },
    /// The filling behind the lengths.
    Filling { words: u64 },
    /// The frame's own bytes: how many are left.
    Body(usize),
}

/// A header that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes that were taken of those given, up to the header's end.
    pub(super) taken: usize,
    /// Of these, the bytes of the header's last word.
    pub(super) last_word: usize,
    /// What the frame has besides its header, in bytes.
    pub(super) body: usize,
}

impl Scan {
    /// Whether no frame has been begun.
    pub(super) fn is_between(&self) -> bool {
        self.at == At::Count && self.word_bytes == 0
    }

    /// Bytes that are left of a body; 0 in a header.
    pub(super) fn body_left(&self) -> usize {
        match self.at {
            At::Body(left) => left,
            At::Count | At::Lengths { .. } | At::Filling { .. } => 0,
        }
    }

    /// Follows bytes up to the end of the next header, or of the bytes.
    ///
    /// # Errors
    /// With a frame that is beyond the bound.
    pub(super) fn feed(&mut self, bytes: &[u8], bound: usize) -> Result<Option<Header>, Excess> {
        let mut taken = 0;
        while taken < bytes.len() {
            if let At::Body(left) = self.at {
                let skip = left.min(bytes.len() - taken);
                taken += skip;
                self.at = if skip == left { At::Count } else { At::Body(left - skip) };
                continue;
            }
            let take = (4 - self.word_bytes).min(bytes.len() - taken);
            self.word[self.word_bytes..self.word_bytes + take].copy_from_slice(&bytes[taken..taken + take]);
            self.word_bytes += take;
            taken += take;
            if self.word_bytes < 4 {
                continue;
            }
            self.word_bytes = 0;
            if let Some(body) = self.next(u32::from_le_bytes(self.word), bound as u64)? {
                self.at = if body == 0 { At::Count } else { At::Body(body) };
                return Ok(Some(Header { taken, last_word: take, body }));
            }
        }
        Ok(None)
    }

    /// Takes the next word of a header; with the body's bytes when it was the last.
    fn next(&mut self, word: u32, bound: u64) -> Result<Option<usize>, Excess> {
        let body = |words: u64| Some(usize::try_from(words * 8).expect("at most the bound"));
        match self.at {
            At::Count if word >= SEGMENTS_MAX => {
                return Err(Excess::Frame { bytes: u64::from(word) * 4, bound });
            }
            At::Count => self.at = At::Lengths { left: word + 1, words: 0, filled: word % 2 == 1 },
            At::Lengths { left, words, filled } => {
                let words = words + u64::from(word);
                if words * 8 > bound {
                    return Err(Excess::Frame { bytes: words * 8, bound });
                }
                match (left, filled) {
                    (1, true) => self.at = At::Filling { words },
                    (1, false) => return Ok(body(words)),
                    _ => self.at = At::Lengths { left: left - 1, words, filled },
                }
            }
            At::Filling { words } => return Ok(body(words)),
            At::Body(_) => unreachable!("a body is not read by words"),
        }
        Ok(None)
    }
}

/// Whether a frame is believed to become as large as it says.
pub(super) fn is_believed(body: usize) -> bool {
    body <= limits::FRAME_BYTES_BELIEVED
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_claim_beyond_the_bound_is_refused_before_its_header_ends() {
        let mut scan = Scan::default();
        let mut claim = Vec::new();
        claim.extend(0_u32.to_le_bytes());
        claim.extend((63_u32 << 17).to_le_bytes());

        assert_eq!(scan.feed(&claim[..7], 2 * MIB), Ok(None));
        let refused = Excess::Frame { bytes: 63 << 20, bound: 2 << 20 };
        assert_eq!(scan.feed(&claim[7..], 2 * MIB), Err(refused));
    }

    #[test]
    fn many_segments_are_counted_together() {
        let mut scan = Scan::default();
        let mut claim = 99_u32.to_le_bytes().to_vec();
        claim.extend((0..100).flat_map(|_| 4096_u32.to_le_bytes()));

        assert!(scan.feed(&claim, 2 * MIB).is_err());
        assert!(Scan::default().feed(&u32::MAX.to_le_bytes(), 2 * MIB).is_err());
    }

    proptest! {
        #[test]
        fn frames_in_order_pass_however_they_are_cut(
            frames in prop::collection::vec(prop::collection::vec(0u32..40, 1..9), 1..8),
            cut in 1usize..50,
        ) {
            let mut bytes = Vec::new();
            for segments in &frames {
                bytes.extend(u32::try_from(segments.len() - 1).unwrap().to_le_bytes());
                bytes.extend(segments.iter().flat_map(|words| words.to_le_bytes()));
                bytes.resize(bytes.len().next_multiple_of(8), 0);
                bytes.resize(bytes.len() + segments.iter().sum::<u32>() as usize * 8, 0xff);
            }
            let (mut scan, mut bodies) = (Scan::default(), Vec::new());

            for mut piece in bytes.chunks(cut) {
                while let Some(header) = scan.feed(piece, MIB).unwrap() {
                    piece = &piece[header.taken..];
                    bodies.push(header.body);
                }
            }

            let expected: Vec<usize> = frames.iter().map(|segments| segments.iter().sum::<u32>() as usize * 8).collect();
            prop_assert_eq!(bodies, expected);
            prop_assert_eq!(scan.at, At::Count);
        }

        #[test]
        fn no_bytes_break_the_scan_and_no_body_is_beyond_the_bound(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let (mut scan, mut rest) = (Scan::default(), &bytes[..]);
            while let Ok(Some(header)) = scan.feed(rest, MIB) {
                prop_assert!(header.body <= MIB && header.last_word <= header.taken);
                rest = &rest[header.taken..];
            }
        }
    }
}
