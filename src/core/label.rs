//! Labels of workers and constraints over them.
//!
//! Nothing here knows what a label means: `os`, `gpu` and `name` are texts like any other.

use std::collections::BTreeMap;
use std::fmt;

/// What a worker offers, as `key=value`; ordered by key.
pub type Labels = BTreeMap<String, String>;

/// A predicate over labels. The default is met by every worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    text: String,
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
