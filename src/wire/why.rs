//! Answers to "why is it not running?".

use crate::core::limits;
use crate::core::view::{TermCount, Why};
use crate::schema::pool_capnp::why;

use super::{WireError, task, text};

/// Writes an answer.
pub fn write(answer: &Why, mut to: why::Builder<'_>) {
    to.set_state(task::write_state(answer.state));
    to.set_text(&answer.text);
    to.set_ahead(answer.ahead);
    to.set_fitting(answer.fitting);
    to.set_workers(answer.workers);
    let mut terms = to.init_constraints(text::count(&answer.terms));
    for (n, term) in (0..).zip(&answer.terms) {
        let mut unmet = terms.reborrow().get(n);
        unmet.set_text(&term.text);
        unmet.set_met(term.met);
        let mut seen = unmet.init_seen(text::count(&term.seen));
        for (n, (label, count)) in (0..).zip(&term.seen) {
            let mut one = seen.reborrow().get(n);
            one.set_text(label);
            one.set_count(*count);
        }
    }
}

/// Reads an answer.
pub fn read(from: why::Reader<'_>) -> Result<Why, WireError> {
    let constraints = from.get_constraints()?;
    text::check_len(constraints.len(), "the list of terms", limits::CONSTRAINT_BYTES_MAX)?;
    let terms = constraints.iter().map(|term| {
        let seen = term.get_seen()?;
        text::check_len(seen.len(), "the list of labels", limits::LABELS_MAX)?;
        let seen = seen.iter().map(|one| Ok((text::read(one.get_text(), "a label", 1024)?, one.get_count())));
        Ok(TermCount {
            text: text::read(term.get_text(), "a term", 2 * limits::CONSTRAINT_BYTES_MAX)?,
            met: term.get_met(),
            seen: seen.collect::<Result<_, WireError>>()?,
        })
    });
    Ok(Why {
        state: task::read_state(from.get_state()?),
        text: text::read(from.get_text(), "the answer", 3 * limits::CONSTRAINT_BYTES_MAX)?,
        ahead: from.get_ahead(),
        terms: terms.collect::<Result<_, WireError>>()?,
        fitting: from.get_fitting(),
        workers: from.get_workers(),
    })
}
