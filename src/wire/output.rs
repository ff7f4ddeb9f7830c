//! Chunks of output and their totals.

use crate::core::id::Fence;
use crate::core::limits;
use crate::core::output::{Chunk, OutputTotals, Stream};
use crate::schema::types_capnp::{self, chunk, output_totals};
use crate::schema::worker_capnp::part;

use super::{WireError, fence, text};

/// Chunks of one attempt in one message: with their headers, more would not fit a frame.
const CHUNKS_MAX: usize = 64 << 10;

/// Writes a chunk.
pub fn write(chunk: &Chunk, mut to: chunk::Builder<'_>) {
    to.set_position(chunk.position);
    to.set_stream(match chunk.stream {
        Stream::Stdout => types_capnp::Stream::Stdout,
        Stream::Stderr => types_capnp::Stream::Stderr,
    });
    to.set_offset(chunk.offset);
    to.set_bytes(&chunk.bytes);
}

/// Reads a chunk of 1 to `OUTPUT_CHUNK_BYTES_MAX` bytes.
pub fn read(from: chunk::Reader<'_>) -> Result<Chunk, WireError> {
    let bytes = from.get_bytes()?;
    if bytes.is_empty() {
        return Err(WireError::Invalid("a chunk of output is empty"));
    }
    if bytes.len() > limits::OUTPUT_CHUNK_BYTES_MAX {
        return Err(WireError::TooLong { what: "a chunk of output", bound: limits::OUTPUT_CHUNK_BYTES_MAX });
    }
    let stream = match from.get_stream()? {
        types_capnp::Stream::Stdout => Stream::Stdout,
        types_capnp::Stream::Stderr => Stream::Stderr,
    };
    let (position, offset) = (from.get_position(), from.get_offset());
    if position.checked_add(bytes.len() as u64).is_none() || offset > position {
        return Err(WireError::Invalid("a chunk of output is nowhere"));
    }
    Ok(Chunk { position, stream, offset, bytes: bytes.to_vec() })
}

/// Writes chunks into a list of as many.
pub fn write_list(chunks: &[Chunk], mut to: capnp::struct_list::Builder<'_, chunk::Owned>) {
    for (n, chunk) in (0..).zip(chunks) {
        write(chunk, to.reborrow().get(n));
    }
}

/// Reads a list of at most `max` chunks.
pub fn read_list(
    from: capnp::struct_list::Reader<'_, chunk::Owned>,
    max: usize,
) -> Result<Vec<Chunk>, WireError> {
    text::check_len(from.len(), "the list of chunks", max)?;
    from.iter().map(read).collect()
}

/// Writes output of several attempts into a list of as many.
pub fn write_parts(parts: &[(Fence, Vec<Chunk>)], mut to: capnp::struct_list::Builder<'_, part::Owned>) {
    for (n, (whose, chunks)) in (0..).zip(parts) {
        let mut part = to.reborrow().get(n);
        fence::write(*whose, part.reborrow().init_fence());
        write_list(chunks, part.init_chunks(text::count(chunks)));
    }
}

/// Reads output of several attempts.
pub fn read_parts(
    from: capnp::struct_list::Reader<'_, part::Owned>,
) -> Result<Vec<(Fence, Vec<Chunk>)>, WireError> {
    text::check_len(from.len(), "the list of attempts", fence::FENCES_MAX)?;
    let read_one = |part: part::Reader<'_>| {
        Ok((fence::read(part.get_fence()?)?, read_list(part.get_chunks()?, CHUNKS_MAX)?))
    };
    from.iter().map(read_one).collect()
}

/// Writes totals.
pub fn write_totals(totals: &OutputTotals, mut to: output_totals::Builder<'_>) {
    to.set_stdout_bytes(totals.stdout_bytes);
    to.set_stderr_bytes(totals.stderr_bytes);
    to.set_stdout_hash(&totals.stdout_hash);
    to.set_stderr_hash(&totals.stderr_hash);
    to.set_dropped_bytes(totals.dropped_bytes);
}

/// Reads totals.
pub fn read_totals(from: output_totals::Reader<'_>) -> Result<OutputTotals, WireError> {
    let totals = OutputTotals {
        stdout_bytes: from.get_stdout_bytes(),
        stderr_bytes: from.get_stderr_bytes(),
        stdout_hash: text::read_array(from.get_stdout_hash(), "a hash")?,
        stderr_hash: text::read_array(from.get_stderr_hash(), "a hash")?,
        dropped_bytes: from.get_dropped_bytes(),
    };
    if totals.stdout_bytes.checked_add(totals.stderr_bytes).is_none() {
        return Err(WireError::Invalid("more output than there can be"));
    }
    Ok(totals)
}
