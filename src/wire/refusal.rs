//! Refusals.

use crate::core::refusal::Refusal;
use crate::schema::types_capnp::refusal;

use super::{WireError, text};

/// A text of a refusal, in bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Facts of a refusal.
const FACTS_MAX: usize = 32;

/// Writes a refusal.
pub fn write(refused: &Refusal, mut to: refusal::Builder<'_>) {
    to.set_code(&refused.code);
    to.set_message(&refused.message);
    to.set_hint(refused.hint.as_deref().unwrap_or(""));
    let mut facts = to.init_facts(text::count(&refused.facts));
    for (n, (name, value)) in (0..).zip(&refused.facts) {
        let mut fact = facts.reborrow().get(n);
        fact.set_key(name);
        fact.set_value(value);
    }
}

/// Reads a refusal.
pub fn read(from: refusal::Reader<'_>) -> Result<Refusal, WireError> {
    let facts = from.get_facts()?;
    text::check_len(facts.len(), "the list of facts", FACTS_MAX)?;
    let fact = |fact: crate::schema::types_capnp::label::Reader<'_>| {
        let name = text::read(fact.get_key(), "a fact", TEXT_BYTES_MAX)?;
        Ok((name, text::read(fact.get_value(), "a fact", TEXT_BYTES_MAX)?))
    };
    Ok(Refusal {
        code: text::read(from.get_code(), "a code", TEXT_BYTES_MAX)?,
        message: text::read(from.get_message(), "a message", TEXT_BYTES_MAX)?,
        facts: facts.iter().map(fact).collect::<Result<_, WireError>>()?,
        hint: text::read_optional(from.get_hint(), "a hint", TEXT_BYTES_MAX)?,
    })
}
