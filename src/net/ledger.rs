//! What the two sides of a connection hold of each other: calls that are open and capabilities, counted from the messages
//! of `rpc.capnp` that pass in both directions.
//!
//! capnp-rpc itself has no bounds: what a peer asks and never takes is kept for ever. Nothing of that is known here but
//! its size. A call is open until it was answered *and* the caller has said that it is finished with the answer, since
//! until then either the request or the answer is kept:
//!
//! ```text
//!   call ──return──> answered ──finish──> gone
//!     │                 └─ at once, if the answer says that no finish is needed
//!     └────finish────> given up ──return──> gone
//! ```

use std::collections::{BTreeMap, BTreeSet};

use capnp::struct_list;
use capnp_rpc::rpc_capnp::{
    cap_descriptor, finish, message, message_target, payload, promised_answer, resolve, return_,
};

use super::excess::Excess;
use crate::core::limits;

/// The counts of one connection.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Calls of the peer.
    theirs: Calls,
    /// Our calls.
    ours: Calls,
    /// Our capabilities that the peer holds.
    given: Capabilities,
    /// The peer's capabilities that we hold.
    taken: Capabilities,
}

/// What a ledger says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of the peer that are open.
    pub their_calls: usize,
    /// The frames of these, in bytes.
    pub their_bytes: usize,
    /// Our calls that are open.
    pub our_calls: usize,
    /// The frames of these, in bytes.
    pub our_bytes: usize,
    /// Calls of the peer that it gave up, and that were not answered since.
    pub given_up: usize,
    /// Our capabilities that the peer holds.
    pub given: usize,
    /// The peer's capabilities that we hold.
    pub taken: usize,
}

#[derive(Debug, Default)]
struct Calls {
    open: BTreeMap<u32, Open>,
    given_up: BTreeSet<u32>,
    bytes: usize,
    /// Capabilities that the open calls carry, however often the same.
    carried: usize,
}

#[derive(Debug)]
struct Open {
    bytes: usize,
    carried: usize,
    /// How many unanswered calls it waits for, one behind the other.
    behind: usize,
    state: State,
}

impl Open {
    fn asked(bytes: usize) -> Self {
        Self { bytes, carried: 0, behind: 0, state: State::Asked }
    }
}

#[derive(Debug)]
enum State {
    Asked,
    /// With the capabilities in the answer.
    Answered(Vec<u32>),
}

#[derive(Debug, Default)]
struct Capabilities(BTreeMap<u32, u32>);

impl Ledger {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            their_calls: self.theirs.open.len(),
            their_bytes: self.theirs.bytes,
            our_calls: self.ours.open.len(),
            our_bytes: self.ours.bytes,
            given_up: self.theirs.given_up.len(),
            given: self.given.0.len(),
            taken: self.taken.0.len(),
        }
    }

    /// A message of the peer. What cannot be read is left to capnp-rpc, which refuses it.
    ///
    /// # Errors
    /// When it goes beyond a bound.
    pub(super) fn incoming(&mut self, message: message::Reader<'_>, bytes: usize) -> Result<(), Excess> {
        let Ok(which) = message.which() else { return Ok(()) };
        match which {
            message::Bootstrap(Ok(bootstrap)) => {
                self.theirs.begin(bootstrap.get_question_id(), Open::asked(bytes));
            }
            message::Call(Ok(call)) => {
                let table = table_of(call.get_params())?;
                let mut open = Open::asked(bytes);
                open.carried = table.map_or(0, |table| table.len() as usize);
                let target = match call.get_target().map(message_target::Reader::which) {
                    Ok(Ok(message_target::PromisedAnswer(Ok(answer)))) => Some(answer),
                    _ => None,
                };
                for answer in target.into_iter().chain(table.into_iter().flatten().filter_map(promised)) {
                    check_steps(answer)?;
                    open.behind = open.behind.max(1 + self.theirs.behind(answer.get_question_id()));
                }
                if open.behind > limits::CALLS_IN_A_ROW_MAX {
                    return Err(Excess::CallsInARow);
                }
                self.theirs.begin(call.get_question_id(), open);
                self.take(table);
            }
            message::Return(Ok(answer)) => {
                let table = results_of(answer)?;
                // An answer to what we gave up is not looked at.
                if self.ours.answer(answer, bytes, Vec::new()) == Answered::Awaited {
                    self.take(table);
                }
            }
            message::Finish(Ok(finish)) => {
                for id in self.theirs.finish(finish) {
                    self.given.release(id, 1);
                }
            }
            message::Resolve(Ok(resolve)) => {
                if let Ok(resolve::Cap(Ok(descriptor))) = resolve.which()
                    && let Some(id) = hosted(descriptor)
                {
                    self.taken.add(id);
                }
            }
            message::Release(Ok(release)) => {
                self.given.release(release.get_id(), release.get_reference_count())
            }
            _ => {}
        }
        self.check()
    }

    /// A message of ours.
    ///
    /// # Errors
    /// When the peer makes us keep more than it may.
    pub(super) fn outgoing(&mut self, message: message::Reader<'_>, bytes: usize) -> Result<(), Excess> {
        let Ok(which) = message.which() else { return Ok(()) };
        match which {
            message::Bootstrap(Ok(bootstrap)) => {
                self.ours.begin(bootstrap.get_question_id(), Open::asked(bytes));
            }
            message::Call(Ok(call)) => {
                let table = table_of(call.get_params())?;
                self.give(table);
                self.ours.begin(call.get_question_id(), Open::asked(bytes));
            }
            message::Return(Ok(answer)) => {
                let given = self.give(results_of(answer)?);
                self.theirs.answer(answer, bytes, given);
            }
            message::Finish(Ok(finish)) => drop(self.ours.finish(finish)),
            message::Resolve(Ok(resolve)) => {
                if let Ok(resolve::Cap(Ok(descriptor))) = resolve.which()
                    && let Some(id) = hosted(descriptor)
                {
                    self.given.add(id);
                }
            }
            message::Release(Ok(release)) => {
                self.taken.release(release.get_id(), release.get_reference_count())
            }
            _ => {}
        }
        self.check()
    }

    fn take(&mut self, table: Option<Table<'_>>) {
        table.into_iter().flatten().filter_map(hosted).for_each(|id| self.taken.add(id));
    }

    fn give(&mut self, table: Option<Table<'_>>) -> Vec<u32> {
        let given: Vec<u32> = table.into_iter().flatten().filter_map(hosted).collect();
        given.iter().for_each(|id| self.given.add(*id));
        given
    }

    /// Whether the peer keeps to its bounds. Ours are kept by whoever calls.
    fn check(&self) -> Result<(), Excess> {
        let calls = &self.theirs;
        if calls.open.len() > limits::OPEN_CALLS_MAX as usize {
            return Err(Excess::OpenCalls);
        }
        if calls.bytes > limits::OPEN_CALLS_BYTES_MAX {
            return Err(Excess::OpenCallsBytes);
        }
        if calls.given_up.len() > limits::CALLS_GIVEN_UP_MAX {
            return Err(Excess::CallsGivenUp);
        }
        let most = limits::EXPORTS_MAX as usize;
        if calls.carried > most || self.taken.0.len() > most || self.given.0.len() > most {
            return Err(Excess::Capabilities);
        }
        Ok(())
    }
}

/// Whether somebody still waited for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    Awaited,
    GivenUp,
}

impl Calls {
    fn begin(&mut self, id: u32, call: Open) {
        // A number that is in use is refused by capnp-rpc, and ends the connection.
        if !self.open.contains_key(&id) && !self.given_up.contains(&id) {
            self.bytes += call.bytes;
            self.carried += call.carried;
            self.open.insert(id, call);
        }
    }

    /// How long a row an unanswered call is at the end of.
    fn behind(&self, id: u32) -> usize {
        match self.open.get(&id) {
            Some(Open { state: State::Asked, behind, .. }) => *behind,
            _ => 0,
        }
    }

    fn answer(&mut self, answer: return_::Reader<'_>, bytes: usize, given: Vec<u32>) -> Answered {
        let id = answer.get_answer_id();
        if self.given_up.remove(&id) {
            return Answered::GivenUp;
        }
        if answer.get_no_finish_needed() {
            self.remove(id);
        } else if let Some(open) = self.open.get_mut(&id) {
            self.bytes = self.bytes - open.bytes + bytes;
            self.carried -= open.carried;
            *open = Open { state: State::Answered(given), ..Open::asked(bytes) };
        }
        Answered::Awaited
    }

    /// The capabilities of an answer that go with it.
    fn finish(&mut self, finish: finish::Reader<'_>) -> Vec<u32> {
        let id = finish.get_question_id();
        match self.remove(id) {
            // It was answered with the word that no finish is needed.
            None => Vec::new(),
            Some(State::Asked) => {
                self.given_up.insert(id);
                Vec::new()
            }
            Some(State::Answered(given)) if finish.get_release_result_caps() => given,
            Some(State::Answered(_)) => Vec::new(),
        }
    }

    fn remove(&mut self, id: u32) -> Option<State> {
        let open = self.open.remove(&id)?;
        self.bytes -= open.bytes;
        self.carried -= open.carried;
        Some(open.state)
    }
}

impl Capabilities {
    fn add(&mut self, id: u32) {
        *self.0.entry(id).or_default() += 1;
    }

    fn release(&mut self, id: u32, count: u32) {
        if let Some(references) = self.0.get_mut(&id) {
            *references = references.saturating_sub(count);
            if *references == 0 {
                self.0.remove(&id);
            }
        }
    }
}

type Table<'a> = struct_list::Reader<'a, cap_descriptor::Owned>;

/// A message's capabilities; more than a connection may have are not even looked at. (A list of nothing takes no room,
/// whatever its length, and capnp-rpc makes something of each.)
fn table_of(payload: capnp::Result<payload::Reader<'_>>) -> Result<Option<Table<'_>>, Excess> {
    let Ok(table) = payload.and_then(payload::Reader::get_cap_table) else { return Ok(None) };
    if table.len() > limits::EXPORTS_MAX {
        return Err(Excess::Capabilities);
    }
    Ok(Some(table))
}

fn results_of(answer: return_::Reader<'_>) -> Result<Option<Table<'_>>, Excess> {
    match answer.which() {
        Ok(return_::Results(payload)) => table_of(payload),
        _ => Ok(None),
    }
}

/// The number of a capability that its sender has.
fn hosted(descriptor: cap_descriptor::Reader<'_>) -> Option<u32> {
    match descriptor.which().ok()? {
        cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id) => Some(id),
        _ => None,
    }
}

/// An answer of ours whose capability the sender means.
fn promised(descriptor: cap_descriptor::Reader<'_>) -> Option<promised_answer::Reader<'_>> {
    match descriptor.which() {
        Ok(cap_descriptor::ReceiverAnswer(Ok(answer))) => Some(answer),
        _ => None,
    }
}

fn check_steps(answer: promised_answer::Reader<'_>) -> Result<(), Excess> {
    match answer.get_transform() {
        Ok(steps) if steps.len() > limits::PIPELINE_STEPS_MAX => Err(Excess::PipelineSteps),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use capnp::message::{Builder, HeapAllocator};
    use proptest::prelude::*;

    use super::*;

    /// What may pass: a call of the peer, our answer, and what takes them back.
    #[derive(Clone, Debug)]
    enum Passing {
        Call { id: u32, exports: Vec<u32> },
        Return { id: u32, gives: Vec<u32> },
        Finish { id: u32, releases: bool },
        Release { id: u32, count: u32 },
        OurRelease { id: u32, count: u32 },
    }

    use Passing::{Call, Finish, OurRelease, Release, Return};

    fn build(passing: &Passing) -> Builder<HeapAllocator> {
        let mut builder = Builder::new_default();
        let message = builder.init_root::<message::Builder<'_>>();
        let fill = |payload: payload::Builder<'_>, ids: &[u32]| {
            let mut table = payload.init_cap_table(u32::try_from(ids.len()).unwrap());
            for (n, id) in (0..).zip(ids) {
                table.reborrow().get(n).set_sender_hosted(*id);
            }
        };
        match passing {
            Call { id, exports } => {
                let mut call = message.init_call();
                call.set_question_id(*id);
                call.reborrow().init_target().set_imported_cap(0);
                fill(call.init_params(), exports);
            }
            Return { id, gives } => {
                let mut answer = message.init_return();
                answer.set_answer_id(*id);
                // As capnp-rpc does it.
                answer.set_no_finish_needed(gives.is_empty());
                fill(answer.init_results(), gives);
            }
            Finish { id, releases } => {
                let mut finish = message.init_finish();
                finish.set_question_id(*id);
                finish.set_release_result_caps(*releases);
            }
            Release { id, count } | OurRelease { id, count } => {
                let mut release = message.init_release();
                release.set_id(*id);
                release.set_reference_count(*count);
            }
        }
        builder
    }

    fn pass(ledger: &mut Ledger, passing: &Passing) -> Result<(), Excess> {
        let builder = build(passing);
        let message = builder.get_root_as_reader::<message::Reader<'_>>().unwrap();
        match passing {
            Call { .. } | Finish { .. } | Release { .. } => ledger.incoming(message, 10),
            Return { .. } | OurRelease { .. } => ledger.outgoing(message, 10),
        }
    }

    /// Calls that are open, found by looking at everything that has passed.
    fn open_calls(history: &[Passing]) -> usize {
        let of = |id: u32, n: usize| {
            let after = &history[n + 1..];
            let answered = after.iter().find_map(|p| match p {
                Return { id: other, gives } if *other == id => Some(gives.is_empty()),
                _ => None,
            });
            let finished = after.iter().any(|p| matches!(p, Finish { id: other, .. } if *other == id));
            answered != Some(true) && !finished
        };
        history.iter().enumerate().filter(|(n, p)| matches!(p, Call { id, .. } if of(*id, *n))).count()
    }

    fn call(id: u32) -> Passing {
        Call { id, exports: Vec::new() }
    }

    #[test]
    fn a_call_is_open_until_it_was_answered_and_finished() {
        let mut ledger = Ledger::default();
        for passing in [call(1), call(2), call(3), call(4)] {
            pass(&mut ledger, &passing).unwrap();
        }
        pass(&mut ledger, &Return { id: 1, gives: vec![7] }).unwrap();
        pass(&mut ledger, &Return { id: 2, gives: Vec::new() }).unwrap();
        pass(&mut ledger, &Finish { id: 3, releases: true }).unwrap();
        let counts = ledger.counts();
        assert_eq!((counts.their_calls, counts.their_bytes, counts.given_up, counts.given), (2, 20, 1, 1));

        pass(&mut ledger, &Finish { id: 1, releases: true }).unwrap();
        pass(&mut ledger, &Return { id: 3, gives: Vec::new() }).unwrap();
        pass(&mut ledger, &Return { id: 4, gives: Vec::new() }).unwrap();

        assert_eq!(ledger.counts(), Counts::default());
    }

    #[test]
    fn the_first_call_beyond_the_bound_is_refused() {
        let mut ledger = Ledger::default();
        for id in 0..limits::OPEN_CALLS_MAX {
            assert_eq!(pass(&mut ledger, &call(id)), Ok(()));
        }

        assert_eq!(pass(&mut ledger, &call(9999)), Err(Excess::OpenCalls));
    }

    #[test]
    fn capabilities_are_bounded_either_way_and_in_calls_that_carry_them() {
        let (mut taken, mut given, mut carried) = Default::default();
        let many = |from: u32| (from..from + 1000).collect::<Vec<u32>>();

        assert_eq!(pass(&mut taken, &Call { id: 1, exports: many(0) }), Ok(()));
        pass(&mut taken, &Return { id: 1, gives: Vec::new() }).unwrap();
        assert_eq!(pass(&mut taken, &Call { id: 2, exports: many(1000) }), Err(Excess::Capabilities));
        assert_eq!(pass(&mut carried, &Call { id: 1, exports: vec![5; 1000] }), Ok(()));
        assert_eq!(pass(&mut carried, &Call { id: 2, exports: vec![5; 1000] }), Err(Excess::Capabilities));
        for (id, from) in [(1, 0), (2, 1000)] {
            pass(&mut given, &call(id)).unwrap();
            let within = pass(&mut given, &Return { id, gives: many(from) });
            assert_eq!(within.is_err(), id == 2);
        }
    }

    #[test]
    fn a_list_of_nothing_is_as_long_as_it_says() {
        let mut builder = Builder::new_default();
        let call = builder.init_root::<message::Builder<'_>>().init_call();
        call.init_params().init_cap_table(limits::EXPORTS_MAX + 1);

        let message = builder.get_root_as_reader::<message::Reader<'_>>().unwrap();

        assert_eq!(Ledger::default().incoming(message, 10), Err(Excess::Capabilities));
    }

    fn passing() -> impl Strategy<Value = Passing> {
        let ids = || prop::collection::vec(0u32..6, 0..4);
        prop_oneof![
            (0u32..12, ids()).prop_map(|(id, exports)| Call { id, exports }),
            (0u32..12, ids()).prop_map(|(id, gives)| Return { id, gives }),
            (0u32..12, any::<bool>()).prop_map(|(id, releases)| Finish { id, releases }),
            (0u32..6, 1u32..3).prop_map(|(id, count)| Release { id, count }),
            (0u32..6, 1u32..3).prop_map(|(id, count)| OurRelease { id, count }),
        ]
    }

    proptest! {
        #[test]
        fn the_counts_agree_with_all_that_has_passed(wished in prop::collection::vec(passing(), 0..80)) {
            let (mut ledger, mut history) = (Ledger::default(), Vec::<Passing>::new());
            let (mut called, mut answered, mut finished) = (0, BTreeSet::new(), BTreeSet::new());
            let (mut taken, mut given) = (BTreeMap::<u32, u32>::new(), BTreeMap::<u32, u32>::new());
            for wish in wished {
                // What peers say that keep to the protocol: numbers of calls grow, and each is answered and finished once.
                let passing = match wish {
                    Call { exports, .. } => {
                        called += 1;
                        exports.iter().for_each(|id| *taken.entry(*id).or_default() += 1);
                        Call { id: called, exports }
                    }
                    Return { id, gives } if id >= 1 && id <= called && answered.insert(id) => {
                        let gives = if finished.contains(&id) { Vec::new() } else { gives };
                        gives.iter().for_each(|id| *given.entry(*id).or_default() += 1);
                        Return { id, gives }
                    }
                    Finish { id, .. } if id >= 1 && id <= called && finished.insert(id) => Finish { id, releases: false },
                    Release { id, count } if given.get(&id).is_some_and(|had| *had >= count) => {
                        *given.entry(id).or_default() -= count;
                        Release { id, count }
                    }
                    OurRelease { id, count } if taken.get(&id).is_some_and(|had| *had >= count) => {
                        *taken.entry(id).or_default() -= count;
                        OurRelease { id, count }
                    }
                    _ => continue,
                };
                history.push(passing.clone());
                prop_assert_eq!(pass(&mut ledger, &passing), Ok(()));

                let counts = ledger.counts();
                let left = |held: &BTreeMap<u32, u32>| held.values().filter(|count| **count > 0).count();
                prop_assert_eq!(counts.their_calls, open_calls(&history));
                prop_assert_eq!(counts.their_bytes, 10 * counts.their_calls);
                prop_assert_eq!(counts.given_up, finished.difference(&answered).count());
                prop_assert_eq!((counts.taken, counts.given), (left(&taken), left(&given)));
            }
        }

        #[test]
        fn no_message_breaks_the_ledger(words in prop::collection::vec(any::<[u8; 8]>(), 0..60)) {
            let segment: Vec<u8> = words.concat();
            let segments = [&segment[..]];
            let reader = capnp::message::Reader::new(capnp::message::SegmentArray::new(&segments), Default::default());
            if let Ok(message) = reader.get_root::<message::Reader<'_>>() {
                let mut ledger = Ledger::default();
                let _ = ledger.incoming(message, segment.len());
                let _ = ledger.outgoing(message, segment.len());
            }
        }
    }
}
