//! Refusals.

use crate::core::refusal::Refusal;
use crate::schema::types_capnp::refusal;

use super::{WireError, text};

/// A text of a refusal, in bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Facts of a refusal.
const FACTS_MAX: usize = 32;

/// Writes a refusal. What repeats too much of what somebody sent is cut: a "no" must arrive.
pub fn write(refused: &Refusal, mut to: refusal::Builder<'_>) {
    to.set_code(cut(&refused.code));
    to.set_message(cut(&refused.message));
    to.set_hint(cut(refused.hint.as_deref().unwrap_or("")));
    let shown = &refused.facts[..refused.facts.len().min(FACTS_MAX)];
    let mut facts = to.init_facts(text::count(shown));
    for (n, (name, value)) in (0..).zip(shown) {
        let mut fact = facts.reborrow().get(n);
        fact.set_key(cut(name));
        fact.set_value(cut(value));
    }
}

fn cut(text: &str) -> &str {
    text::cut(text, TEXT_BYTES_MAX)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::job::{BadSpec, JobSpec};
    use crate::wire::message;

    fn through_a_message(refused: &Refusal) -> Refusal {
        let bytes = message::encode::<refusal::Owned>(|to| write(refused, to));
        message::decode::<refusal::Owned, _>(&bytes, read).unwrap()
    }

    #[test]
    fn a_refusal_that_repeats_what_was_sent_arrives_however_long_that_was() {
        let variable = (vec![b'='; 500_000], Vec::new());
        let bad = JobSpec { env: vec![variable], ..JobSpec::new(":") }.check().unwrap_err();
        assert!(matches!(bad, BadSpec::Variable(_)));

        let arrived = through_a_message(&Refusal::new("bad-request", &bad));

        assert_eq!(arrived.code, "bad-request");
        assert_eq!(arrived.message, bad.to_string()[..TEXT_BYTES_MAX]);
    }

    #[test]
    fn of_too_many_facts_the_first_arrive() {
        let many = (0..FACTS_MAX + 1).fold(Refusal::new("x", "y"), |refused, n| refused.fact("n", n));

        assert_eq!(through_a_message(&many).facts, many.facts[..FACTS_MAX]);
    }
}
