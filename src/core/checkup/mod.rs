//! What `doctor` says: one check a line, each with a way out unless all is well.
//!
//! Whoever looks at machine and pool hands over what was found; what that means is decided here.

pub mod machine;
pub mod pool;

use super::refusal::Refusal;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

impl Verdict {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How bad it is.
    pub verdict: Verdict,
    /// What was looked at, in one word.
    pub what: &'static str,
    /// What was found, on one line.
    pub words: String,
    /// What to do about it; there is always something, unless all is well.
    pub remedy: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(what: &'static str, words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, what, words: words.into(), remedy: None }
    }

    /// It works, and somebody should know.
    pub fn warn(what: &'static str, words: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, what, words: words.into(), remedy: Some(remedy.into()) }
    }

    /// It does not work, or is not safe.
    pub fn fail(what: &'static str, words: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, what, words: words.into(), remedy: Some(remedy.into()) }
    }

    /// Somebody said no.
    pub fn refused(what: &'static str, refusal: &Refusal) -> Self {
        let facts: Vec<String> = refusal
            .facts
            .iter()
            .map(|(name, value)| format!("{name} {}", value.replace('\n', " ")))
            .collect();
        let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
        let remedy = refusal.hint.clone().unwrap_or_else(|| "CLUSTERCTL_LOG=debug says more".to_owned());
        Self::fail(what, format!("{}{facts}", refusal.message), remedy)
    }
}

/// One line a check: verdict, what, words, and behind them what to do.
pub fn text(checks: &[Check]) -> String {
    let widest = checks.iter().map(|check| check.what.len()).max().unwrap_or_default();
    let line = |check: &Check| {
        let Check { verdict, what, words, remedy } = check;
        let remedy = remedy.as_ref().map(|remedy| format!(". {remedy}")).unwrap_or_default();
        let line = format!("{:<5} {what:<widest$}  {words}{remedy}", verdict.as_str());
        // Some of it is a stranger's, and none of it may speak to the terminal.
        line.replace(|c: char| c.is_control(), "?") + "\n"
    };
    checks.iter().map(line).collect()
}

/// The worst of them.
pub fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_check_and_a_way_out_behind_what_is_not_well() {
        let refusal = Refusal::new("key-mismatch", "another key").fact("presented", "sha256:00");
        let checks = [
            Check::ok("client", "0.1.0"),
            Check::warn("output", "81% of its limit", "Raise: pool serve --output-limit 20G"),
            Check::refused("network", &refusal),
        ];
        let hostile = [Check::ok("auth", "known as \x1b[31mred\n")];

        let text = text(&checks);

        assert_eq!(
            text,
            "ok    client   0.1.0\n\
             warn  output   81% of its limit. Raise: pool serve --output-limit 20G\n\
             FAIL  network  another key (presented sha256:00). CLUSTERCTL_LOG=debug says more\n"
        );
        assert_eq!(super::text(&hostile), "ok    auth  known as ?[31mred?\n");
        assert_eq!(
            (worst(&checks), worst(&checks[..2]), worst(&[])),
            (Verdict::Fail, Verdict::Warn, Verdict::Ok)
        );
    }
}
