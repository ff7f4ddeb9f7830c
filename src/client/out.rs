//! Bytes of jobs on our own streams, as they are.

use std::io::{ErrorKind, Write};

use crate::core::output::Stream;

/// Writes bytes to our own stream of the same name. Nobody has to read standard error: what is closed there is passed
/// over.
///
/// # Errors
/// When nobody reads our standard output any longer.
pub fn write(stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes)?;
            stdout.flush()
        }
        Stream::Stderr => match std::io::stderr().lock().write_all(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        },
    }
}
