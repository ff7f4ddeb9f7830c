//! A run as it can be read: one line an event, kept only when somebody replays a seed; and a digest of it always, so that
//! two runs of one seed can be compared.

use std::fmt::{Arguments, Write};

use clusterctl::core::time::Timestamp;

/// Where the lines of a run go.
#[derive(Debug)]
pub struct Trace {
    detail: Detail,
    digest: blake3::Hasher,
    line: String,
}

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Every event, on standard error.
    Told,
    /// Only the digest.
    Digested,
    /// Nothing: it takes time.
    Silent,
}

impl Trace {
    pub fn new(detail: Detail) -> Self {
        Self { detail, digest: blake3::Hasher::new(), line: String::new() }
    }

    /// Adds a line.
    pub fn tell(&mut self, at: Timestamp, line: Arguments<'_>) {
        if self.detail == Detail::Silent {
            return;
        }
        self.line.clear();
        write!(self.line, "{at} {line}").expect("a text takes everything");
        self.digest.update(self.line.as_bytes());
        if self.detail == Detail::Told {
            eprintln!("{}", self.line);
        }
    }

    /// What tells this run from another.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.finalize().as_bytes()
    }
}
