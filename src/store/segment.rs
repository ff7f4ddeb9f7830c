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
const HEADER_BYTES: usize = CHECKED_BYTES + 4;
/// Bytes of a file that are looked through at a time.
const SCAN_BYTES: usize = 256 << 10;

/// What a frame says of itself, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key: Fence,
    pub(super) position: u64,
    offset: u64,
    stream: Stream,
    length: usize,
}

impl Header {
    /// Position after the last byte.
    pub(super) fn end(&self) -> u64 {
        self.position + self.length as u64
    }

    /// Bytes of the whole frame in its file.
    pub(super) fn file_bytes(&self) -> u64 {
        (HEADER_BYTES + self.length) as u64
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || u32_at(bytes, 0) != MAGIC {
            return None;
        }
        let key = Fence {
            nonce: JobNonce(u64_at(bytes, 4)),
            task: TaskId { job: JobId(u64_at(bytes, 12)), index: u32_at(bytes, 20) },
            attempt: AttemptNumber(u32_at(bytes, 24)),
        };
        let stream = if u32_at(bytes, 44) == 0 { Stream::Stdout } else { Stream::Stderr };
        let length = u32_at(bytes, 48) as usize;
        let header = Self { key, position: u64_at(bytes, 28), offset: u64_at(bytes, 36), stream, length };
        (length <= limits::OUTPUT_CHUNK_BYTES_MAX).then_some(header)
    }
}

/// A chunk as a frame.
pub(super) fn encode(key: Fence, chunk: &Chunk) -> Vec<u8> {
    let mut to = Vec::with_capacity(HEADER_BYTES + chunk.bytes.len());
    to.extend(MAGIC.to_le_bytes());
    to.extend(key.nonce.0.to_le_bytes());
    to.extend(key.task.job.0.to_le_bytes());
    to.extend(key.task.index.to_le_bytes());
    to.extend(key.attempt.0.to_le_bytes());
    to.extend(chunk.position.to_le_bytes());
    to.extend(chunk.offset.to_le_bytes());
    to.extend((chunk.stream as u32).to_le_bytes());
    to.extend(u32::try_from(chunk.bytes.len()).expect("a chunk is bounded").to_le_bytes());
    to.extend(checksum(&to, &chunk.bytes).to_le_bytes());
    to.extend(&chunk.bytes);
    to
}

/// The chunks of the frames in a part of a file, which belong to this attempt, from a position on.
pub(super) fn read(file: &File, (at, bytes): (u64, u64), key: Fence, from: u64) -> io::Result<Vec<Chunk>> {
    let mut buffer = vec![0; usize::try_from(bytes).expect("a part of a file is bounded")];
    file.read_exact_at(&mut buffer, at)?;
    let mut chunks = Vec::new();
    let mut rest = buffer.as_slice();
    while !rest.is_empty() {
        let frame = Header::parse(rest).filter(|header| header.key == key).and_then(|header| {
            let (frame, behind) = rest.split_at_checked(HEADER_BYTES + header.length)?;
            is_whole(frame).then_some((header, frame, behind))
        });
        let Some((header, frame, behind)) = frame else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of kept output is damaged"));
        };
        let Header { position, offset, stream, .. } = header;
        let chunk = Chunk { position, stream, offset, bytes: frame[HEADER_BYTES..].to_vec() };
        chunks.extend(chunk.from_position(from));
        rest = behind;
    }
    Ok(chunks)
}

/// How closely a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scrutiny {
    /// It may have been torn: every byte is checked.
    Bytes,
    /// It was finished: its bytes are checked when they are read.
    Headers,
}

/// Tells of each frame of a file where it begins; answers with where the first begins that is not whole.
pub(super) fn scan(file: &File, scrutiny: Scrutiny, mut each: impl FnMut(u64, Header)) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut at = 0;
    let mut window = Window::default();
    while at < length {
        let Some(header) = Header::parse(window.get(file, at, HEADER_BYTES, length)?) else { break };
        if at + header.file_bytes() > length {
            break;
        }
        let frame = HEADER_BYTES + header.length;
        if scrutiny == Scrutiny::Bytes && !is_whole(window.get(file, at, frame, length)?) {
            break;
        }
        each(at, header);
        at += header.file_bytes();
    }
    Ok(at)
}

/// A part of a file in memory.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Bytes of a file, or fewer at its end.
    fn get(&mut self, file: &File, at: u64, count: usize, length: u64) -> io::Result<&[u8]> {
        let end = at + count as u64;
        if at < self.at || end > self.at + self.bytes.len() as u64 {
            let wanted = count.max(SCAN_BYTES).min(usize::try_from(length - at).unwrap_or(usize::MAX));
            self.bytes.resize(wanted, 0);
            file.read_exact_at(&mut self.bytes, at)?;
            self.at = at;
        }
        let start = usize::try_from(at - self.at).expect("a window is small");
        Ok(&self.bytes[start..(start + count).min(self.bytes.len())])
    }
}

fn is_whole(frame: &[u8]) -> bool {
    frame.len() >= HEADER_BYTES
        && u32_at(frame, CHECKED_BYTES) == checksum(&frame[..CHECKED_BYTES], &frame[HEADER_BYTES..])
}

fn checksum(header: &[u8], bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(bytes);
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}
