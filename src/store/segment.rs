//! One file of output: frames of any attempts, one after the other.
//!
//! ```text
//!   frame = magic 4 | nonce 8 | job 8 | task 4 | attempt 4 | position 8 | offset 8 | stream 4 | length 4 | crc32 4 | bytes
//! ```
//! All numbers little end first; the checksum covers everything but itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::core::id::{AttemptNumber, Fence, JobId, JobNonce, TaskId};
use crate::core::limits;
use crate::core::output::{Chunk, Stream};

const MAGIC: u32 = 0x7475_6f63;
const CHECKED_BYTES: usize = 52;
/// Bytes before those of the chunk.
pub(super) const HEADER_BYTES: usize = CHECKED_BYTES + 4;

/// Where a chunk is in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) at: u64,
    pub(super) position: u64,
    pub(super) offset: u64,
    pub(super) stream: Stream,
    pub(super) length: u32,
}

impl Frame {
    pub(super) fn end(&self) -> u64 {
        self.position + u64::from(self.length)
    }

    /// Reads the chunk back, and checks it.
    pub(super) fn read(&self, file: &File, key: Fence) -> io::Result<Chunk> {
        let mut bytes = vec![0; HEADER_BYTES + self.length as usize];
        file.read_exact_at(&mut bytes, self.at)?;
        match decode(&bytes) {
            Some((found, chunk)) if found == key && chunk.position == self.position => Ok(chunk),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of kept output is damaged")),
        }
    }
}

/// A chunk as a frame.
pub(super) fn encode(key: Fence, chunk: &Chunk, to: &mut Vec<u8>) {
    let start = to.len();
    to.extend(MAGIC.to_le_bytes());
    to.extend(key.nonce.0.to_le_bytes());
    to.extend(key.task.job.0.to_le_bytes());
    to.extend(key.task.index.to_le_bytes());
    to.extend(key.attempt.0.to_le_bytes());
    to.extend(chunk.position.to_le_bytes());
    to.extend(chunk.offset.to_le_bytes());
    to.extend((chunk.stream as u32).to_le_bytes());
    to.extend(u32::try_from(chunk.bytes.len()).expect("a chunk is bounded").to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&to[start..]);
    crc.update(&chunk.bytes);
    to.extend(crc.finalize().to_le_bytes());
    to.extend(&chunk.bytes);
}

/// The frames of a file, up to the first that is not whole, and where that begins.
pub(super) fn scan(file: &File) -> io::Result<(Vec<(Fence, Frame)>, u64)> {
    let length = file.metadata()?.len();
    let mut frames = Vec::new();
    let mut at = 0;
    let mut header = [0; HEADER_BYTES];
    while at + HEADER_BYTES as u64 <= length {
        file.read_exact_at(&mut header, at)?;
        let size = u64::from(u32_at(&header, 48));
        if size > limits::OUTPUT_CHUNK_BYTES_MAX as u64 || at + HEADER_BYTES as u64 + size > length {
            break;
        }
        let mut bytes = header.to_vec();
        bytes.resize(HEADER_BYTES + usize::try_from(size).expect("a chunk is small"), 0);
        file.read_exact_at(&mut bytes[HEADER_BYTES..], at + HEADER_BYTES as u64)?;
        let Some((key, chunk)) = decode(&bytes) else { break };
        let length = u32_at(&header, 48);
        frames.push((
            key,
            Frame { at, position: chunk.position, offset: chunk.offset, stream: chunk.stream, length },
        ));
        at += bytes.len() as u64;
    }
    Ok((frames, at))
}

fn decode(bytes: &[u8]) -> Option<(Fence, Chunk)> {
    let data = bytes.get(HEADER_BYTES..)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CHECKED_BYTES]);
    crc.update(data);
    if u32_at(bytes, 0) != MAGIC || u32_at(bytes, CHECKED_BYTES) != crc.finalize() {
        return None;
    }
    let key = Fence {
        nonce: JobNonce(u64_at(bytes, 4)),
        task: TaskId { job: JobId(u64_at(bytes, 12)), index: u32_at(bytes, 20) },
        attempt: AttemptNumber(u32_at(bytes, 24)),
    };
    let stream = if u32_at(bytes, 44) == 0 { Stream::Stdout } else { Stream::Stderr };
    let chunk =
        Chunk { position: u64_at(bytes, 28), offset: u64_at(bytes, 36), stream, bytes: data.to_vec() };
    Some((key, chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}
