//! Output as the whole program addresses it: two byte streams with one shared order.
//!
//! Every byte of an attempt has a *position*: how many bytes of either stream were read before it. A follower that
//! knows a position can resume there, and what it has seen is in the order in which it arrived. Within its own stream
//! a byte has an *offset*.

/// Which of an attempt's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// Consecutive bytes of one stream, with nothing of the other stream between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Position of the first byte: bytes of *both* streams before it.
    pub position: u64,
    /// The stream that it belongs to.
    pub stream: Stream,
    /// Offset of the first byte in its stream.
    pub offset: u64,
    /// At least one byte, at most `OUTPUT_CHUNK_BYTES_MAX`.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Position of the byte after the last.
    pub fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }

    /// The part of the chunk at and after `position`; `None` if there is none.
    pub fn from_position(mut self, position: u64) -> Option<Chunk> {
        if position <= self.position {
            return Some(self);
        }
        let skip = usize::try_from(position - self.position).ok()?;
        if skip >= self.bytes.len() {
            return None;
        }
        self.bytes.drain(..skip);
        self.position = position;
        self.offset += skip as u64;
        Some(self)
    }
}

/// What an attempt wrote in the end: enough to tell whether all of it has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputTotals {
    /// Bytes of stdout.
    pub stdout_bytes: u64,
    /// Bytes of stderr.
    pub stderr_bytes: u64,
    /// BLAKE3 of all bytes of stdout.
    pub stdout_hash: [u8; 32],
    /// BLAKE3 of all bytes of stderr.
    pub stderr_hash: [u8; 32],
    /// Bytes that were written beyond the bound per attempt and not kept.
    pub dropped_bytes: u64,
}

impl OutputTotals {
    /// The position after the last byte kept.
    pub fn end(&self) -> u64 {
        self.stdout_bytes + self.stderr_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        Chunk { position: 100, stream: Stream::Stderr, offset: 40, bytes: b"abcdef".to_vec() }
    }

    #[test]
    fn cutting_a_chunk_moves_position_and_offset_alike() {
        let cut = chunk().from_position(102).unwrap();

        assert_eq!(cut, Chunk { position: 102, stream: Stream::Stderr, offset: 42, bytes: b"cdef".to_vec() });
    }

    #[test]
    fn a_chunk_that_was_seen_whole_leaves_nothing() {
        assert_eq!(chunk().from_position(106), None);
        assert_eq!(chunk().from_position(7), Some(chunk()));
    }
}
