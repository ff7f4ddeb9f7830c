//! What a person or a script is told when something does not work.
//!
//! ```text
//!   error: <what, in the user's words>
//!     name: value
//!     code: kebab-code
//!     hint: <command to type>
//! ```

use crate::core::refusal::{Refusal, os_words};
use crate::net::key::KeyError;
use crate::say::say;
use crate::schema::types_capnp;
use crate::wire;

/// The code of what somebody broke off.
const INTERRUPTED: &str = "interrupted";

/// Something that did not work, with the exit code that tells so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is said.
    pub refusal: Refusal,
    /// Of the process, where no job's own counts.
    pub exit: u8,
}

impl Failure {
    /// A failure with a stable code.
    pub fn new(code: &str, message: impl std::fmt::Display) -> Self {
        Self::from(Refusal::new(code, message))
    }

    /// Somebody broke it off: no error, but no success either.
    pub fn interrupted(message: &str) -> Self {
        Self { exit: 130, ..Self::new(INTERRUPTED, message) }
    }

    /// With a command to type.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.refusal.hint = Some(hint.into());
        self
    }

    /// With one more fact.
    pub fn fact(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.refusal = self.refusal.fact(name, value);
        self
    }

    /// As lines for a terminal.
    pub fn text(&self) -> String {
        use std::fmt::Write;
        let Refusal { code, message, facts, hint } = &self.refusal;
        let mut text = format!("error: {message}\n");
        for (name, value) in facts {
            // Further lines stand below the first. Writing to a String does not fail.
            let below = format!("\n{}", " ".repeat(name.chars().count() + 4));
            let _ = writeln!(text, "  {name}: {}", value.replace('\n', &below));
        }
        let _ = writeln!(text, "  code: {code}");
        if let Some(hint) = hint {
            let _ = writeln!(text, "  hint: {hint}");
        }
        text
    }

    /// As one line of JSON.
    pub fn json(&self) -> String {
        let Refusal { code, message, facts, hint } = &self.refusal;
        let facts: serde_json::Map<String, serde_json::Value> =
            facts.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        serde_json::json!({ "v": 1, "error": { "code": code, "message": message, "facts": facts, "hint": hint } })
            .to_string()
    }

    /// Says it on standard error.
    pub fn print(&self, format: super::Format) {
        match format {
            // Behind the ^C that the terminal shows.
            super::Format::Human if self.refusal.code == INTERRUPTED => say!("  {}", self.refusal.message),
            super::Format::Human => {
                let style = anstyle::AnsiColor::Red.on_default().bold();
                let text = self.text().replacen("error:", &format!("{style}error:{style:#}"), 1);
                crate::say::sentence(format_args!("{text}"));
            }
            super::Format::Json | super::Format::Ndjson => say!("{}", self.json()),
        }
    }
}

/// Fails if an answer holds a refusal.
///
/// # Errors
/// The refusal, or that it cannot be read.
pub fn check_refused(
    is_there: bool,
    refused: capnp::Result<types_capnp::refusal::Reader<'_>>,
) -> Result<(), Failure> {
    if is_there { Err(wire::refusal::read(refused?)?.into()) } else { Ok(()) }
}

impl From<Refusal> for Failure {
    /// The code decides about the exit.
    fn from(refusal: Refusal) -> Self {
        let exit = match refusal.code.as_str() {
            "bad-constraint" | "bad-request" | "script-too-big" | "usage" => 2,
            "no-such-job" | "no-such-worker" | "no-such-client" | "no-such-token" | "no-such-context"
            | "no-such-pool" | "no-such-attempt" => 3,
            "unreachable" | "key-mismatch" | "version-skew" => 4,
            code if code.starts_with("auth-") => 5,
            "disk-low" | "queue-full" | "not-running" | "not-unknown" | "nothing-failed"
            | "worker-running" | "db-locked" => 6,
            "unplaceable" => 7,
            _ => 1,
        };
        Self { refusal, exit }
    }
}

impl From<capnp::Error> for Failure {
    fn from(error: capnp::Error) -> Self {
        match error.kind {
            capnp::ErrorKind::Disconnected => Self::new("unreachable", "the connection to the pool was lost"),
            _ => Self::new("internal", format!("internal error (please report): {error}")),
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::new("key-file", error)
    }
}

impl From<wire::WireError> for Failure {
    fn from(error: wire::WireError) -> Self {
        Self::new("internal", format!("internal error (please report): {error}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new("io", os_words(&error))
    }
}

impl From<capnp::NotInSchema> for Failure {
    fn from(error: capnp::NotInSchema) -> Self {
        wire::WireError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_facts_a_code_and_a_way_out() {
        let failure = Failure::new("auth-token-spent", "this token has been used")
            .fact("pool", "head:7700")
            .hint("on head: clusterctl token create --worker");

        insta::assert_snapshot!(failure.text(), @"
        error: this token has been used
          pool: head:7700
          code: auth-token-spent
          hint: on head: clusterctl token create --worker
        ");
        assert_eq!(failure.exit, 5);
    }
}
