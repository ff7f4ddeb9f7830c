//! A model spool: output of one attempt between what was written and what the pool has acknowledged.

use clusterctl::core::id::Fence;
use clusterctl::core::limits;
use clusterctl::core::output::{Chunk, OutputTotals, Stream};

use crate::disk::written;
use crate::history::Written;
use crate::script::{Write, content};

/// Everything that an attempt wrote, how much of it was sent, and how much is acknowledged.
#[derive(Debug, Default)]
pub struct Spool {
    chunks: Vec<Chunk>,
    offsets: [u64; 2],
    sent: u64,
    acknowledged: u64,
}

impl Spool {
    /// The script writes.
    pub fn push(&mut self, fence: Fence, write: Write) {
        let offset = &mut self.offsets[write.stream as usize];
        let bytes = content(fence, write.stream, *offset, write.length);
        let (position, at) = (self.chunks.last().map_or(0, Chunk::end), *offset);
        *offset += write.length as u64;
        self.chunks.push(Chunk { position, stream: write.stream, offset: at, bytes });
    }

    fn end(&self) -> u64 {
        self.chunks.last().map_or(0, Chunk::end)
    }

    /// The next chunk that was not sent.
    pub fn next(&mut self) -> Option<Chunk> {
        let sent = self.sent;
        let chunk = self.chunks.iter().find(|chunk| chunk.end() > sent)?.clone().from_position(sent)?;
        self.sent = chunk.end();
        Some(chunk)
    }

    pub fn has_unsent(&self) -> bool {
        self.sent < self.end()
    }

    pub fn in_flight(&self) -> u64 {
        self.sent - self.acknowledged
    }

    pub fn acknowledge(&mut self, position: u64) {
        self.acknowledged = self.acknowledged.max(position.min(self.end()));
        self.sent = self.sent.max(self.acknowledged);
    }

    /// Sends again from a position on, or from the first byte that a real spool would still have.
    pub fn rewind(&mut self, position: u64) {
        self.acknowledge(position);
        self.sent = position.clamp(self.acknowledged, self.end());
    }

    /// All of it, if it is little and none of it was sent.
    pub fn take_tail(&mut self) -> Vec<Chunk> {
        if self.sent > 0 || self.end() > limits::OUTPUT_INLINE_BYTES_MAX as u64 {
            return Vec::new();
        }
        self.sent = self.end();
        self.acknowledged = self.end();
        self.chunks.clone()
    }

    /// The bytes of each stream.
    pub fn written(&self) -> Written {
        written(&self.chunks)
    }

    pub fn totals(&self) -> OutputTotals {
        let hash = |bytes: &Vec<u8>| *blake3::hash(bytes).as_bytes();
        let [stdout, stderr] = self.written();
        OutputTotals {
            stdout_bytes: self.offsets[Stream::Stdout as usize],
            stderr_bytes: self.offsets[Stream::Stderr as usize],
            stdout_hash: hash(&stdout),
            stderr_hash: hash(&stderr),
            dropped_bytes: 0,
        }
    }
}
