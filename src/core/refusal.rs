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
    /// A refusal without facts and hint. Numbers of the operating system's errors are no words.
    pub fn new(code: &str, message: impl std::fmt::Display) -> Self {
        let message = without_numbers(&message.to_string());
        Self { code: code.to_owned(), message, facts: Vec::new(), hint: None }
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

/// A text without each ` (os error 2)` in it.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or(part, |(_, rest)| rest))
}

/// What the operating system says, without its number, in lower case.
pub fn os_words(error: &std::io::Error) -> String {
    let text = without_numbers(&error.to_string());
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_systems_numbers_are_not_said() {
        let error = std::io::Error::from_raw_os_error(2);

        assert_eq!(os_words(&error), "no such file or directory");
        let chain = format!("cannot make it: {error}: {error}, so there");
        assert_eq!(
            Refusal::new("x", chain).message,
            "cannot make it: No such file or directory: No such file or directory, so there"
        );
    }
}
