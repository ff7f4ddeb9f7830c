//! The client: the command line and the REPL, everything that a person or a script sees of a pool.
//!
//! It holds capabilities and draws what they answer; it decides nothing about jobs.

pub mod commands;
pub mod connection;
pub mod context;
pub mod duration;
pub mod editor;
pub mod error;
pub mod follow;
pub mod hand;
pub mod json;
pub mod out;
pub mod private_pool;
pub mod progress;
pub mod render;
pub mod repl;
pub mod selector;
pub mod tagger;
pub mod tail;
pub mod watch;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One document.
    Json,
    /// One document a line.
    Ndjson,
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// As usual.
    Normal,
    /// Ids alone, and no sentences.
    Quiet,
}

/// What every command goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// How results are written.
    pub format: Format,
    /// How much is said.
    pub verbosity: Verbosity,
}

impl Manner {
    /// Whether sentences are said on standard error.
    pub fn speaks(&self) -> bool {
        self.verbosity == Verbosity::Normal && self.format == Format::Human
    }
}
