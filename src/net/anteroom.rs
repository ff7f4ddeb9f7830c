//! The anteroom: the places of those who have connected and are not known yet, for all threads of a pool together.
//!
//! Nobody is kept out for good: from some number on a newcomer makes another one leave, at random, but first of those
//! who have not said a word, and of the source that has most. So a flood from anywhere displaces itself, and whoever
//! shakes hands at once gets through. Sources from which a known key came lately have some places of their own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::core::limits;

/// A source is known for so long after a known key came from it.
const SOURCE_KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Shared between the threads that accept.
#[derive(Clone, Debug, Default)]
pub struct Anteroom(Arc<Mutex<Places>>);

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    anteroom: Anteroom,
    number: u64,
    source: Source,
    leave: CancellationToken,
}

/// Where somebody comes from, as far as one holder of addresses can be told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source(IpAddr);

#[derive(Debug, Default)]
struct Places {
    last: u64,
    taken: BTreeMap<u64, Taken>,
    known: BTreeMap<Source, Instant>,
}

#[derive(Debug)]
struct Taken {
    source: Source,
    kind: Kind,
    word: Word,
    leave: CancellationToken,
}

/// Whose places they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Everybodys,
    KnownSources,
}

/// Whether a peer has begun to shake hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    None,
    Said,
}

impl Anteroom {
    /// A place for somebody from there, if there is one for it.
    pub fn enter(&self, from: IpAddr) -> Option<Place> {
        let mut random = [0; 8];
        // Without randomness the oldest go, and no worse.
        let _ = getrandom::fill(&mut random);
        let source = Source::of(from);
        let (number, leave) = self.places().enter(source, Instant::now(), u64::from_le_bytes(random))?;
        Some(Place { anteroom: self.clone(), number, source, leave })
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.places().taken.len()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().expect("nobody panics with the anteroom")
    }
}

impl Place {
    /// Waits until the place is needed for somebody else. Cancel-safe.
    pub async fn needed(&self) {
        self.leave.cancelled().await;
    }

    /// Its peer has begun to shake hands; `false` if the place was needed before that. (Then nothing should be answered:
    /// a peer that has heard nothing dials again.)
    pub fn has_spoken(&self) -> bool {
        match self.anteroom.places().taken.get_mut(&self.number) {
            Some(taken) => {
                taken.word = Word::Said;
                true
            }
            None => false,
        }
    }

    /// Its peer has a key that is known.
    pub fn is_known(&self) {
        self.anteroom.places().remember(self.source, Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.anteroom.places().taken.remove(&self.number);
    }
}

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl Places {
    fn enter(&mut self, source: Source, now: Instant, random: u64) -> Option<(u64, CancellationToken)> {
        if self.taken.values().filter(|taken| taken.source == source).count()
            >= limits::UNKNOWN_PEERS_PER_SOURCE_MAX
        {
            return None;
        }
        let kind = self.kind_for(source, now);
        if kind == Kind::Everybodys && !self.make_room(source, random) {
            return None;
        }
        self.last += 1;
        let leave = CancellationToken::new();
        self.taken.insert(self.last, Taken { source, kind, word: Word::None, leave: leave.clone() });
        Some((self.last, leave))
    }

    fn kind_for(&self, source: Source, now: Instant) -> Kind {
        let is_known = self.known.get(&source).is_some_and(|at| now.duration_since(*at) < SOURCE_KNOWN_FOR);
        let own = self.taken.values().filter(|taken| taken.kind == Kind::KnownSources).count();
        if is_known && own < limits::UNKNOWN_PEERS_OF_KNOWN_SOURCES {
            Kind::KnownSources
        } else {
            Kind::Everybodys
        }
    }

    /// Lets one leave if it has to be; `false` if that is the newcomer.
    fn make_room(&mut self, newcomer: Source, random: u64) -> bool {
        let places = limits::UNKNOWN_PEERS_MAX - limits::UNKNOWN_PEERS_OF_KNOWN_SOURCES;
        let from = limits::UNKNOWN_PEERS_DROPPED_FROM;
        let common = || self.taken.iter().filter(|(_, taken)| taken.kind == Kind::Everybodys);
        let count = common().count();
        // As likely as the places between the two numbers are taken; certain when there is none.
        let (dice, choice) = (random % (places - from) as u64, random / (places - from) as u64);
        if dice >= count.saturating_sub(from) as u64 {
            return true;
        }
        let mut by_source: BTreeMap<Source, usize> = BTreeMap::from([(newcomer, 1)]);
        common().for_each(|(_, taken)| *by_source.entry(taken.source).or_default() += 1);
        let most = by_source.values().max().copied().unwrap_or_default();
        let of_most = |taken: &Taken| by_source[&taken.source] == most;
        let numbers = |word: Word| -> Vec<u64> {
            common().filter(|(_, t)| t.word == word && of_most(t)).map(|(number, _)| *number).collect()
        };
        let silent = numbers(Word::None);
        let candidates = if silent.is_empty() { numbers(Word::Said) } else { silent };
        if candidates.is_empty() {
            return false;
        }
        let victim = candidates[usize::try_from(choice % candidates.len() as u64).unwrap_or_default()];
        if let Some(taken) = self.taken.remove(&victim) {
            taken.leave.cancel();
        }
        true
    }

    fn remember(&mut self, source: Source, now: Instant) {
        self.known.insert(source, now);
        if self.known.len() > limits::KNOWN_SOURCES_MAX
            && let Some(oldest) = self.known.iter().min_by_key(|(_, at)| **at).map(|(source, _)| *source)
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn source(n: u32) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::from(n)))
    }

    /// A full anteroom of strangers, each from a source of its own, who say nothing.
    fn crowd(places: &mut Places) {
        for n in 1000..1200 {
            let _ = places.enter(source(n), Instant::now(), u64::from(n) * 0x9e37_79b9);
        }
    }

    #[test]
    fn one_source_has_at_most_eight_places() {
        let mut places = Places::default();

        let let_in = (0..20).filter(|_| places.enter(source(1), Instant::now(), u64::MAX).is_some()).count();

        assert_eq!(let_in, 8);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_one_that_has_said_nothing() {
        let mut places = Places::default();
        crowd(&mut places);
        let (number, token) = places.enter(source(1), Instant::now(), 0).unwrap();
        places.taken.get_mut(&number).unwrap().word = Word::Said;

        crowd(&mut places);

        assert!(places.taken.contains_key(&number) && !token.is_cancelled());
    }

    #[test]
    fn whoever_has_most_places_makes_room() {
        let mut places = Places::default();
        for n in 0..5 {
            for _ in 0..8 {
                places.enter(source(n), Instant::now(), u64::MAX).unwrap();
            }
        }
        let (few, _) = places.enter(source(99), Instant::now(), 0).unwrap();

        for n in 100..110 {
            places.enter(source(n), Instant::now(), 0).unwrap();
        }

        assert!(places.taken.contains_key(&few));
    }

    #[test]
    fn known_sources_have_places_of_their_own() {
        let mut places = Places::default();
        places.remember(source(7), Instant::now());
        crowd(&mut places);

        let (number, token) = places.enter(source(7), Instant::now(), 0).unwrap();
        crowd(&mut places);

        assert!(places.taken.contains_key(&number) && !token.is_cancelled());
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());

        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn whatever_comes_the_anteroom_and_its_memory_stay_small(
            comers in prop::collection::vec((0u32..2000, any::<u64>(), any::<bool>()), 0..3000)
        ) {
            let mut places = Places::default();
            for (n, random, known) in comers {
                if known {
                    places.remember(source(n), Instant::now());
                }
                let _ = places.enter(source(n), Instant::now(), random);
                prop_assert!(places.taken.len() <= limits::UNKNOWN_PEERS_MAX);
                prop_assert!(places.known.len() <= limits::KNOWN_SOURCES_MAX);
            }
        }
    }
}
