//! Output of one attempt that the pool has not acknowledged: in memory first, then in a file without a name.
//!
//! Every byte has a position; what was sent may have to be sent again from any position that is not acknowledged.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::core::limits;
use crate::core::output::{Chunk, OutputTotals, Stream};

/// Output between what is acknowledged and what was written.
pub(super) struct Spool {
    parts: VecDeque<Part>,
    memory_bytes: usize,
    file: Option<File>,
    file_end: u64,
    /// Position after the last byte that was taken.
    sent: u64,
    acknowledged: u64,
    totals: OutputTotals,
    hashes: Option<Box<[blake3::Hasher; 2]>>,
}

struct Part {
    position: u64,
    stream: Stream,
    offset: u64,
    length: usize,
    bytes: Bytes,
}

enum Bytes {
    Memory(Vec<u8>),
    File(u64),
}

impl Spool {
    pub(super) fn new() -> Self {
        Self {
            parts: VecDeque::new(),
            memory_bytes: 0,
            file: None,
            file_end: 0,
            sent: 0,
            acknowledged: 0,
            totals: OutputTotals::default(),
            hashes: None,
        }
    }

    /// Takes bytes that were just read; how many it took. Beyond the bound per attempt they are counted and dropped.
    /// What it does not take can be kept neither in memory nor in a file: then the job must wait.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8], directory: &Path) -> usize {
        let room =
            usize::try_from(limits::OUTPUT_PER_ATTEMPT_BYTES_MAX - self.totals.end()).unwrap_or(usize::MAX);
        let (within, beyond) = bytes.split_at(bytes.len().min(room));
        let mut taken = 0;
        for piece in within.chunks(limits::OUTPUT_CHUNK_BYTES_MAX) {
            if self.keep(stream, piece, directory).is_err() {
                return taken;
            }
            taken += piece.len();
        }
        self.totals.dropped_bytes += beyond.len() as u64;
        bytes.len()
    }

    fn keep(&mut self, stream: Stream, piece: &[u8], directory: &Path) -> io::Result<()> {
        let position = self.totals.end();
        let offset = match stream {
            Stream::Stdout => self.totals.stdout_bytes,
            Stream::Stderr => self.totals.stderr_bytes,
        };
        if !self.extend_last(stream, piece) {
            let bytes = if self.memory_bytes + piece.len() <= limits::SPOOL_MEMORY_BYTES_MAX {
                self.memory_bytes += piece.len();
                Bytes::Memory(piece.to_vec())
            } else {
                Bytes::File(self.write_to_file(piece, directory)?)
            };
            self.parts.push_back(Part { position, stream, offset, length: piece.len(), bytes });
        }
        let hashes =
            self.hashes.get_or_insert_with(|| Box::new([blake3::Hasher::new(), blake3::Hasher::new()]));
        match stream {
            Stream::Stdout => self.totals.stdout_bytes += piece.len() as u64,
            Stream::Stderr => self.totals.stderr_bytes += piece.len() as u64,
        }
        hashes[stream as usize].update(piece);
        Ok(())
    }

    /// Puts bytes behind the last part, if that is of the same stream, was not sent, and stays a chunk.
    fn extend_last(&mut self, stream: Stream, piece: &[u8]) -> bool {
        let Some(last) = self.parts.back_mut() else { return false };
        let Bytes::Memory(bytes) = &mut last.bytes else { return false };
        let fits = last.stream == stream
            && last.position >= self.sent
            && bytes.len() + piece.len() <= limits::OUTPUT_CHUNK_BYTES_MAX
            && self.memory_bytes + piece.len() <= limits::SPOOL_MEMORY_BYTES_MAX;
        if fits {
            bytes.extend(piece);
            last.length += piece.len();
            self.memory_bytes += piece.len();
        }
        fits
    }

    fn write_to_file(&mut self, piece: &[u8], directory: &Path) -> io::Result<u64> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(directory)?),
        };
        file.write_all_at(piece, self.file_end)?;
        let at = self.file_end;
        self.file_end += piece.len() as u64;
        Ok(at)
    }

    /// The next chunk that was not sent, if there is one.
    pub(super) fn next(&mut self) -> io::Result<Option<Chunk>> {
        let after = self.parts.partition_point(|part| part.position + part.length as u64 <= self.sent);
        let Some(part) = self.parts.get(after) else { return Ok(None) };
        let bytes = match &part.bytes {
            Bytes::Memory(bytes) => bytes.clone(),
            Bytes::File(at) => {
                let mut bytes = vec![0; part.length];
                let file = self.file.as_ref().expect("a part in the file means that there is one");
                file.read_exact_at(&mut bytes, *at)?;
                bytes
            }
        };
        let chunk = Chunk { position: part.position, stream: part.stream, offset: part.offset, bytes };
        let chunk = chunk.from_position(self.sent).expect("the part ends after what was sent");
        self.sent = chunk.end();
        Ok(Some(chunk))
    }

    /// Whether something was not sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.totals.end()
    }

    /// Bytes that were sent and not acknowledged.
    pub(super) fn in_flight(&self) -> u64 {
        self.sent - self.acknowledged
    }

    /// Everything before a position is durable elsewhere.
    pub(super) fn acknowledge(&mut self, position: u64) {
        let position = position.min(self.totals.end());
        self.acknowledged = self.acknowledged.max(position);
        self.sent = self.sent.max(self.acknowledged);
        while let Some(first) = self.parts.front()
            && first.position + first.length as u64 <= self.acknowledged
        {
            if let Bytes::Memory(bytes) = &first.bytes {
                self.memory_bytes -= bytes.len();
            }
            self.parts.pop_front();
        }
        if self.parts.is_empty() {
            self.file = None;
            self.file_end = 0;
        }
    }

    /// Sends again from a position on, or from the first byte that is kept.
    pub(super) fn rewind(&mut self, position: u64) {
        self.acknowledge(position);
        self.sent = position.clamp(self.acknowledged, self.totals.end());
    }

    /// All of it, if it is little and none of it was sent. It is then kept with the ending, and no longer here.
    pub(super) fn take_tail(&mut self) -> Vec<Chunk> {
        let mut tail = Vec::new();
        let is_little = self.totals.end() <= limits::OUTPUT_INLINE_BYTES_MAX as u64
            && self.parts.len() <= limits::OUTPUT_INLINE_CHUNKS_MAX;
        if self.sent == 0 && is_little {
            // So little is in memory, where nothing fails.
            while let Ok(Some(chunk)) = self.next() {
                tail.push(chunk);
            }
            self.acknowledge(self.totals.end());
        }
        tail
    }

    /// Counts bytes that could be kept nowhere.
    pub(super) fn drop_bytes(&mut self, count: usize) {
        self.totals.dropped_bytes += count as u64;
    }

    /// What was written so far, with the hashes.
    pub(super) fn totals(&self) -> OutputTotals {
        let empty = || *blake3::hash(b"").as_bytes();
        let hash = |stream: Stream| {
            self.hashes.as_ref().map_or_else(empty, |hashes| *hashes[stream as usize].finalize().as_bytes())
        };
        OutputTotals { stdout_hash: hash(Stream::Stdout), stderr_hash: hash(Stream::Stderr), ..self.totals }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_can_be_kept_nowhere_is_not_taken() {
        let mut spool = Spool::new();
        let nowhere = Path::new("/nonexistent");
        let bytes = vec![7; limits::SPOOL_MEMORY_BYTES_MAX + 100_000];

        assert_eq!(spool.push(Stream::Stdout, &bytes, nowhere), limits::SPOOL_MEMORY_BYTES_MAX);

        assert_eq!(spool.totals().stdout_bytes, limits::SPOOL_MEMORY_BYTES_MAX as u64);
        while spool.next().unwrap().is_some() {}
        spool.acknowledge(1 << 20);
        assert_eq!(spool.push(Stream::Stdout, &bytes[..100_000], nowhere), 100_000);
    }

    #[test]
    fn little_output_that_changes_its_stream_too_often_is_no_tail() {
        let directory = tempfile::tempdir().unwrap();
        let alternate = |changes: usize| {
            let mut spool = Spool::new();
            for n in 0..changes {
                let stream = if n % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
                spool.push(stream, b"x", directory.path());
            }
            spool.take_tail().len()
        };

        assert_eq!(alternate(limits::OUTPUT_INLINE_CHUNKS_MAX), limits::OUTPUT_INLINE_CHUNKS_MAX);
        assert_eq!(alternate(limits::OUTPUT_INLINE_CHUNKS_MAX + 1), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_acknowledged_or_sent_again_no_byte_is_lost_or_changed(
            steps in prop::collection::vec((0u8..4, any::<u8>(), 1usize..40_000), 1..60)
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut spool = Spool::new();
            let mut model: Vec<(Stream, u8)> = Vec::new();
            let mut acknowledged = 0;
            let check = |chunk: &Chunk, model: &[(Stream, u8)]| {
                let at = usize::try_from(chunk.position).unwrap();
                let same = chunk.bytes.iter().enumerate().all(|(n, byte)| model[at + n] == (chunk.stream, *byte));
                let offset = model[..at].iter().filter(|(stream, _)| *stream == chunk.stream).count();
                same && offset as u64 == chunk.offset
            };
            for (what, byte, length) in steps {
                match what {
                    0 | 1 => {
                        let stream = if what == 0 { Stream::Stdout } else { Stream::Stderr };
                        prop_assert_eq!(spool.push(stream, &vec![byte; length], directory.path()), length);
                        model.extend(std::iter::repeat_n((stream, byte), length));
                    }
                    2 => if let Some(chunk) = spool.next().unwrap() { prop_assert!(check(&chunk, &model)) },
                    _ => {
                        acknowledged = (acknowledged + length as u64).min(model.len() as u64);
                        spool.rewind(acknowledged);
                    }
                }
            }
            spool.rewind(acknowledged);
            let mut at = acknowledged;
            while let Some(chunk) = spool.next().unwrap() {
                prop_assert_eq!(chunk.position, at);
                prop_assert!(check(&chunk, &model));
                at = chunk.end();
            }
            prop_assert_eq!(at, model.len() as u64);
            spool.acknowledge(at);
            prop_assert!(spool.parts.is_empty() && spool.memory_bytes == 0 && spool.file.is_none());
        }
    }
}
