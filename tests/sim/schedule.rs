//! What is to come, in order of virtual time; what comes at the same time comes in the order in which it was planned.

use std::collections::BTreeMap;

use clusterctl::core::time::Timestamp;

/// The future.
#[derive(Debug)]
pub struct Schedule<E> {
    events: BTreeMap<(Timestamp, u64), E>,
    planned: u64,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { events: BTreeMap::new(), planned: 0 }
    }
}

impl<E> Schedule<E> {
    /// Plans an event. Whoever changes its mind lets the event come and passes it over.
    pub fn plan(&mut self, at: Timestamp, event: E) {
        self.planned += 1;
        self.events.insert((at, self.planned), event);
    }

    /// The next event, with its time.
    pub fn next(&mut self) -> Option<(Timestamp, E)> {
        let ((at, _), event) = self.events.pop_first()?;
        Some((at, event))
    }
}
