//! Saying things: results to standard output, sentences to standard error.
//!
//! `println!` panics when its reader has gone, as in `clusterctl jobs | head -1`; these do not.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// The exit code of a process whose standard output nobody reads any longer, as by SIGPIPE.
pub const STDOUT_CLOSED: u8 = 141;

/// Writes to standard output what somebody asked for. A reader that has gone ends us quietly; any other failure loudly,
/// since a result that was cut off must not pass for a whole one.
pub fn result(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(STDOUT_CLOSED.into()),
        Err(error) => {
            sentence(format_args!("error: cannot write to standard output: {error}\n  code: io\n"));
            std::process::exit(1);
        }
    }
}

/// Writes to standard error; whoever does not read it misses nothing that counts.
pub fn sentence(text: Arguments<'_>) {
    let _ = anstream::stderr().lock().write_fmt(text);
}

/// Writes to standard output what nobody asked for: the lines of a server, which lives on without a reader.
pub fn greeting(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_fmt(text).and_then(|()| stdout.flush());
}

/// A line of results.
macro_rules! tell {
    ($($text:tt)*) => { $crate::say::result(format_args!("{}\n", format_args!($($text)*))) };
}

/// A line of a sentence.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::sentence(format_args!("{}\n", format_args!($($text)*))) };
}

/// A line of a greeting.
macro_rules! greet {
    ($($text:tt)*) => { $crate::say::greeting(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {greet, say, tell};
