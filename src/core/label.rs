//! Labels of workers and constraints over them.
//!
//! ```text
//!   any    = all ("||" all)*          key   = [A-Za-z0-9._/-]+
//!   all    = not ("&&" not)*          value = key characters, or a text in double quotes
//!   not    = "!" not | "(" any ")" | key | key "=" value | key "!=" value
//! ```
//!
//! `gpu` alone is met by a worker that has that label, whatever its value; `gpu!=a100` also by one that has none.
//! Nothing here knows what a label means: `os`, `gpu` and `name` are texts like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::limits;
use super::refusal::Refusal;

/// What a worker offers, as `key=value`; ordered by key.
pub type Labels = BTreeMap<String, String>;

/// A predicate over labels. The default is met by every worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Constraint(Option<Term>);

/// A part of a constraint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// The label is there.
    Has(String),
    /// The label has this value.
    Is(String, String),
    /// The term is not met.
    Not(Box<Term>),
    /// Each of at least two is met.
    All(Vec<Term>),
    /// One of at least two is met.
    Any(Vec<Term>),
}

/// Why a text is no constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the constraint at column {column}: {message}")]
pub struct BadConstraint {
    /// Where, in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: &'static str,
    /// The text.
    pub text: String,
}

/// Why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no label ({why}); write it as key=value")]
pub struct BadLabel {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The label that is always the worker's name.
pub const NAME: &str = "name";

/// Reads `key=value`; the value may be empty.
pub fn parse_label(text: &str) -> Result<(String, String), BadLabel> {
    let bad = |why| BadLabel { text: text.to_owned(), why };
    let (key, value) = text.split_once('=').ok_or(bad("there is no ="))?;
    check_label(key, value).map_err(bad)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What `--label` says of a worker. Its name is a label, too, and never one of these.
///
/// # Errors
/// When one of them is no label, or is the name.
pub fn labels_of_worker(given: &[String]) -> Result<Labels, Refusal> {
    let read = |text: &String| match parse_label(text) {
        Err(bad) => Err(Refusal::new("usage", bad)),
        Ok((key, value)) if key == NAME => {
            let text = "the label \"name\" is always the worker's name";
            Err(Refusal::new("usage", text).hint(format!("--name {value}")))
        }
        Ok(label) => Ok(label),
    };
    given.iter().map(read).collect()
}

/// Whether a key and a value are within their bounds.
pub fn check_label(key: &str, value: &str) -> Result<(), &'static str> {
    if key.is_empty() || !key.chars().all(is_word) {
        return Err("a key has letters, digits and . _ / - only");
    }
    if key.len() > limits::LABEL_KEY_BYTES_MAX {
        return Err("the key is longer than 64 bytes");
    }
    if value.len() > limits::LABEL_VALUE_BYTES_MAX {
        return Err("the value is longer than 256 bytes");
    }
    if value.chars().any(char::is_control) {
        return Err("the value has a control character in it");
    }
    Ok(())
}

impl Constraint {
    /// Reads an expression; an empty one is met by every worker. What is read can be written and read again.
    pub fn parse(text: &str) -> Result<Self, BadConstraint> {
        let mut parser = Parser { text, rest: text, depth: 0 };
        if text.len() > limits::CONSTRAINT_BYTES_MAX {
            return Err(parser.bad("it is longer than 4096 bytes"));
        }
        parser.skip_space();
        if parser.rest.is_empty() {
            return Ok(Self(None));
        }
        let term = parser.any()?;
        if !parser.rest.is_empty() {
            return Err(parser.bad("expected && or || or the end"));
        }
        let constraint = Self(Some(term));
        // As it is written again, with a space around each mark, it must still be read: in a record, for ever.
        if constraint.to_string().len() > limits::CONSTRAINT_BYTES_MAX {
            return Err(parser.bad("with a space around each mark it is longer than 4096 bytes"));
        }
        Ok(constraint)
    }

    /// Met by workers that have all of these labels.
    pub fn all_of(labels: impl IntoIterator<Item = (String, String)>) -> Self {
        labels.into_iter().fold(Self(None), |all, (key, value)| all.and(Self(Some(Term::Is(key, value)))))
    }

    /// Met by workers that meet both.
    pub fn and(self, other: Self) -> Self {
        match (self.0, other.0) {
            (None, both) | (both, None) => Self(both),
            (Some(one), Some(two)) => Self(Some(joined(vec![one, two], Term::All))),
        }
    }

    /// Whether every worker meets it.
    pub fn is_any(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a worker with these labels meets it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_none_or(|term| term.matches(labels))
    }

    /// The parts that must all be met, in the order in which they were written.
    pub fn terms(&self) -> Vec<Term> {
        match &self.0 {
            None => Vec::new(),
            Some(Term::All(terms)) => terms.clone(),
            Some(term) => vec![term.clone()],
        }
    }

    /// The keys that it asks for.
    pub fn keys(&self) -> BTreeSet<&str> {
        let mut keys = BTreeSet::new();
        if let Some(term) = &self.0 {
            term.add_keys(&mut keys);
        }
        keys
    }
}

impl fmt::Display for Constraint {
    /// Reads back as the same constraint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |term| term.fmt(f))
    }
}

impl Term {
    /// Whether a worker with these labels meets it.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Term::Has(key) => labels.contains_key(key),
            Term::Is(key, value) => labels.get(key) == Some(value),
            Term::Not(term) => !term.matches(labels),
            Term::All(terms) => terms.iter().all(|term| term.matches(labels)),
            Term::Any(terms) => terms.iter().any(|term| term.matches(labels)),
        }
    }

    /// The term as it is written.
    pub fn text(&self) -> String {
        self.to_string()
    }

    /// Its key, if it asks for a single label.
    pub fn label(&self) -> Option<&str> {
        match self {
            Term::Has(key) | Term::Is(key, _) => Some(key),
            Term::Not(term) => term.label(),
            Term::All(_) | Term::Any(_) => None,
        }
    }

    fn add_keys<'a>(&'a self, keys: &mut BTreeSet<&'a str>) {
        match self {
            Term::Has(key) | Term::Is(key, _) => {
                keys.insert(key);
            }
            Term::Not(term) => term.add_keys(keys),
            Term::All(terms) | Term::Any(terms) => terms.iter().for_each(|term| term.add_keys(keys)),
        }
    }

    /// Writes the term as a part of a larger one, in parentheses where `outer` would tear it apart.
    fn write_in(&self, f: &mut fmt::Formatter<'_>, outer: Binding) -> fmt::Result {
        if self.binding() < outer { write!(f, "({self})") } else { write!(f, "{self}") }
    }

    fn binding(&self) -> Binding {
        match self {
            Term::Any(_) => Binding::Any,
            Term::All(_) => Binding::All,
            Term::Not(_) | Term::Has(_) | Term::Is(..) => Binding::Not,
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Has(key) => f.write_str(key),
            Term::Is(key, value) => write!(f, "{key}={}", Quoted(value)),
            Term::Not(term) => match &**term {
                Term::Is(key, value) => write!(f, "{key}!={}", Quoted(value)),
                term => {
                    f.write_str("!")?;
                    term.write_in(f, Binding::Not)
                }
            },
            Term::All(terms) => write_list(f, terms, " && ", Binding::Not),
            Term::Any(terms) => write_list(f, terms, " || ", Binding::All),
        }
    }
}

/// How tightly a term holds together, loosest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Any,
    All,
    Not,
}

fn write_list(f: &mut fmt::Formatter<'_>, terms: &[Term], between: &str, parts: Binding) -> fmt::Result {
    for (n, term) in terms.iter().enumerate() {
        if n > 0 {
            f.write_str(between)?;
        }
        term.write_in(f, parts)?;
    }
    Ok(())
}

/// A value, in quotes where it must be.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_word) {
            return f.write_str(self.0);
        }
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-')
}

/// One term of a list; lists of the same kind inside it become part of it.
fn joined(parts: Vec<Term>, list: fn(Vec<Term>) -> Term) -> Term {
    let kind = list(Vec::new());
    let mut terms = Vec::with_capacity(parts.len());
    for part in parts {
        match (part, &kind) {
            (Term::All(inner), Term::All(_)) | (Term::Any(inner), Term::Any(_)) => terms.extend(inner),
            (part, _) => terms.push(part),
        }
    }
    if terms.len() == 1 { terms.remove(0) } else { list(terms) }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Term, BadConstraint> {
        let mut terms = vec![self.all()?];
        while self.eat("||") {
            terms.push(self.all()?);
        }
        Ok(joined(terms, Term::Any))
    }

    fn all(&mut self) -> Result<Term, BadConstraint> {
        let mut terms = vec![self.not()?];
        while self.eat("&&") {
            terms.push(self.not()?);
        }
        Ok(joined(terms, Term::All))
    }

    fn not(&mut self) -> Result<Term, BadConstraint> {
        self.depth += 1;
        if self.depth > limits::CONSTRAINT_DEPTH_MAX {
            return Err(self.bad("it is nested more than 64 deep"));
        }
        let term = if self.eat("!") {
            match self.not()? {
                Term::Not(term) => *term,
                term => Term::Not(Box::new(term)),
            }
        } else if self.eat("(") {
            let term = self.any()?;
            if !self.eat(")") {
                return Err(self.bad("expected )"));
            }
            term
        } else {
            self.label()?
        };
        self.depth -= 1;
        Ok(term)
    }

    fn label(&mut self) -> Result<Term, BadConstraint> {
        let key = self.word();
        if key.is_empty() {
            return Err(self.bad("expected a label as gpu or gpu=a100"));
        }
        if key.len() > limits::LABEL_KEY_BYTES_MAX {
            return Err(self.bad("the key before this is longer than 64 bytes"));
        }
        self.skip_space();
        if self.eat("!=") {
            return Ok(Term::Not(Box::new(Term::Is(key, self.value()?))));
        }
        if self.eat("==") || self.eat("=") {
            return Ok(Term::Is(key, self.value()?));
        }
        Ok(Term::Has(key))
    }

    fn value(&mut self) -> Result<String, BadConstraint> {
        let value = if self.rest.starts_with('"') { self.quoted()? } else { self.word() };
        if value.is_empty() && !self.text[..self.at()].trim_end().ends_with('"') {
            return Err(self.bad("expected a value"));
        }
        if value.len() > limits::LABEL_VALUE_BYTES_MAX {
            return Err(self.bad("the value before this is longer than 256 bytes"));
        }
        self.skip_space();
        Ok(value)
    }

    fn quoted(&mut self) -> Result<String, BadConstraint> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(value);
                }
                '\\' => match characters.next() {
                    Some((_, c)) => value.push(c),
                    None => break,
                },
                c => value.push(c),
            }
        }
        Err(self.bad("this quote is not closed"))
    }

    fn word(&mut self) -> String {
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// Takes a mark, and the space behind it.
    fn eat(&mut self, mark: &str) -> bool {
        self.skip_space();
        let Some(rest) = self.rest.strip_prefix(mark) else { return false };
        self.rest = rest;
        self.skip_space();
        true
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn at(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    fn bad(&self, message: &'static str) -> BadConstraint {
        let column = self.text[..self.at()].chars().count() + 1;
        BadConstraint { column, message, text: self.text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &str) -> Labels {
        text.split_whitespace().map(|pair| parse_label(pair).unwrap()).collect()
    }

    fn meets(constraint: &str, worker: &str) -> bool {
        Constraint::parse(constraint).unwrap().matches(&labels(worker))
    }

    #[test]
    fn a_workers_name_is_given_by_name_and_by_no_label() {
        let refused = |label: &str| labels_of_worker(&[label.to_owned()]).unwrap_err();

        let name = refused("name=n7");
        assert_eq!(name.message, "the label \"name\" is always the worker's name");
        assert_eq!((name.hint.as_deref(), name.code.as_str()), (Some("--name n7"), "usage"));
        assert!(refused("gpu").message.contains("there is no ="));
        assert_eq!(labels_of_worker(&["names=x".to_owned()]).unwrap().len(), 1);
    }

    #[test]
    fn expressions_mean_what_they_say() {
        assert!(meets("", ""));
        assert!(meets("gpu=a100 && !spot", "gpu=a100"));
        assert!(!meets("gpu=a100 && !spot", "gpu=a100 spot=yes"));
        assert!(meets("gpu", "gpu="));
        assert!(meets("gpu!=a100", "os=linux"));
        assert!(meets("a || b && c", "a=1"));
        assert!(!meets("(a || b) && c", "a=1"));
        assert!(meets("name=\"w 1\"||os = linux", "os=linux"));
    }

    #[test]
    fn an_error_points_at_the_column() {
        let column = |text: &str| Constraint::parse(text).unwrap_err().column;

        assert_eq!(column("gpu=a100 spot"), 10);
        assert_eq!(column("gpu=a100 &&"), 12);
        assert_eq!(column("gpu="), 5);
        assert_eq!(column("(gpu"), 5);
        assert_eq!(column("größe=1"), 3);
        assert_eq!(column("a=\"b"), 3);
    }

    #[test]
    fn deep_nesting_is_refused_instead_of_recursing() {
        assert!(Constraint::parse(&"(".repeat(1000)).is_err());
        assert!(Constraint::parse(&"!".repeat(1000)).is_err());
    }

    #[test]
    fn what_would_be_too_long_when_it_is_written_again_is_refused() {
        let dense = |terms| vec!["a"; terms].join("||");

        let written = Constraint::parse(&dense(820)).unwrap().to_string();
        assert_eq!(written.len(), limits::CONSTRAINT_BYTES_MAX);
        assert!(Constraint::parse(&written).is_ok());

        assert!(dense(821).len() < limits::CONSTRAINT_BYTES_MAX);
        assert!(Constraint::parse(&dense(821)).is_err());
    }

    #[test]
    fn terms_are_the_parts_that_must_all_be_met() {
        let constraint = Constraint::parse("a=1 && (b || c) && !d").unwrap();

        let terms: Vec<String> = constraint.terms().iter().map(Term::text).collect();

        assert_eq!(terms, ["a=1", "b || c", "!d"]);
        assert_eq!(constraint.keys().into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }

    fn any_term() -> impl Strategy<Value = Term> {
        let leaf = prop_oneof![
            "[a-c]".prop_map(Term::Has),
            ("[a-c]", "[x-y]|[ \"\\\\=&|]{0,3}").prop_map(|(key, value)| Term::Is(key, value)),
        ];
        leaf.prop_recursive(4, 20, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|term| match term {
                    Term::Not(term) => *term,
                    term => Term::Not(Box::new(term)),
                }),
                prop::collection::vec(inner.clone(), 1..4).prop_map(|terms| joined(terms, Term::All)),
                prop::collection::vec(inner, 1..4).prop_map(|terms| joined(terms, Term::Any)),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_constraint_reads_back_as_it_is_written(term in any_term()) {
            let constraint = Constraint(Some(term));

            prop_assert_eq!(Constraint::parse(&constraint.to_string()).unwrap(), constraint);
        }

        #[test]
        fn no_text_breaks_the_parser(text in "[ab=!&|()\" \\\\ü]{0,40}") {
            if let Err(bad) = Constraint::parse(&text) {
                prop_assert!(bad.column <= text.chars().count() + 1);
            }
        }
    }
}
