//! The audit trail: what callers did goes into the history with the turn that does it; what is decided at the door is
//! counted by the minute, so that whoever knocks for ever does not fill it.

use std::collections::BTreeMap;

use crate::core::audit::{AuditEntry, AuditKind};
use crate::core::limits;
use crate::core::record::HistoryItem;
use crate::core::time::Now;

use super::timer::Timer;
use super::{Pool, Viewer};

/// Something that was decided at the door.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// What.
    pub what: AuditKind,
    /// About whom; empty: nobody who is known.
    pub who: String,
    /// Where that came from.
    pub source: String,
    /// Why, as far as there is something to say.
    pub detail: String,
}

/// Decisions of the present minute, with how often each came again after it was first written.
#[derive(Debug, Default)]
pub(super) struct Minute(BTreeMap<Decision, u32>);

impl Pool {
    /// Somebody was let in, or was not. The first of a kind is written at once, the others of its minute together.
    pub fn decided(&mut self, now: Now, mut decision: Decision) {
        if self.minute.0.len() >= limits::AUDIT_SOURCES_MAX && !self.minute.0.contains_key(&decision) {
            "others".clone_into(&mut decision.source);
            decision.who.clear();
        }
        if self.minute.0.is_empty() {
            self.timers.insert((now.at + limits::AUDIT_WINDOW, Timer::Audit));
        }
        let first = !self.minute.0.contains_key(&decision);
        if first {
            self.write_decision(now, &decision, 1);
            self.minute.0.insert(decision, 0);
        } else if let Some(count) = self.minute.0.get_mut(&decision) {
            *count = count.saturating_add(1);
        }
    }

    /// The minute is over.
    pub(super) fn end_minute(&mut self, now: Now) {
        for (decision, count) in std::mem::take(&mut self.minute).0 {
            if count > 0 {
                self.write_decision(now, &decision, count);
            }
        }
    }

    fn write_decision(&mut self, now: Now, decision: &Decision, count: u32) {
        let Decision { what, who, source, detail } = decision.clone();
        let entry = AuditEntry { at: now.wall, what, who, source, about: String::new(), detail, count };
        self.turn.remember(HistoryItem::Audit(entry));
    }

    /// Somebody who was let in does something.
    pub(super) fn audit(
        &mut self,
        now: Now,
        viewer: &Viewer,
        what: AuditKind,
        about: String,
        detail: String,
    ) {
        let (who, source) = (viewer.name().to_owned(), viewer.source().to_owned());
        let entry = AuditEntry { at: now.wall, what, who, source, about, detail, count: 1 };
        self.turn.remember(HistoryItem::Audit(entry));
    }
}
