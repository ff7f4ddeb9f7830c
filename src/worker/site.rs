//! Where an agent works: what it finds around it, on a machine or in a simulation.

use std::future::Future;
use std::rc::Rc;

use super::registration::{RegisterFailure, Registrar};
use crate::core::attempt::Held;
use crate::core::id::Incarnation;
use crate::core::membership::Facts;
use crate::core::time::Timestamp;
use crate::process::JournalOf;
use crate::process::executor_client::ExecutorLine;

/// Where an agent works.
pub trait Site: 'static {
    /// Meets the executor, or starts one.
    fn meet(&self) -> impl Future<Output = anyhow::Result<Met>>;

    /// What the executors before it have left, and nobody has forgotten.
    fn journals(&self) -> Vec<JournalOf>;

    /// The pool knows of these: they need not be kept.
    fn forget_journals(&self, journals: &[JournalOf]);

    /// Of the machine's present boot.
    fn boot_id(&self) -> String;

    /// What the pool is told of this worker; when the dialling began is the dial's number, which grows with each.
    fn facts(&self, incarnation: Incarnation, began: Timestamp) -> Facts;

    /// Dials the pool, and says hello.
    fn dial(self: Rc<Self>) -> impl Future<Output = Result<Registrar, RegisterFailure>>;

    /// The place that has no room for more, as people read it, if there is one; and what was so before.
    fn full(&self, before: Option<&str>) -> Option<String>;

    /// So that two who do the same do not do it at once.
    fn random(&self) -> u32;

    /// The pool does not know this worker: its next join is its first.
    fn forget_identity(&self);
}

/// An executor that was met.
pub struct Met {
    /// The line to it.
    pub line: ExecutorLine,
    /// Which one it is.
    pub incarnation: Incarnation,
    /// What it has.
    pub held: Vec<Held>,
}
