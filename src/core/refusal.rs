//! An expected "no", as a value that people and scripts can read.
//!
//! It knows no words of its own: whoever refuses gives them.

/// A refusal. It travels in results, never as an exception.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, in kebab case.
    pub code: String,
    /// One line, lower case, for people.
    pub message: String,
    /// Shown below it, as `name: value`.
    pub facts: Vec<(String, String)>,
    /// A command to type.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without facts and hint.
    pub fn new(code: &str, message: impl std::fmt::Display) -> Self {
        Self { code: code.to_owned(), message: message.to_string(), facts: Vec::new(), hint: None }
    }

    /// With a command to type.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With one more fact.
    pub fn fact(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.facts.push((name.to_owned(), value.to_string()));
        self
    }
}

/// What the operating system says, without its number, in lower case.
pub fn os_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
