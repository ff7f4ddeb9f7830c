//! A set of task indices, kept as ranges: an array of a million tasks that waits is one range.

use std::collections::BTreeMap;

/// Disjoint inclusive ranges that do not touch, by their first index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: BTreeMap<u32, u32>,
    len: u64,
}

impl RangeSet {
    /// The set of these ranges, inclusive at both ends, in any order; those that run backwards are empty.
    pub fn of(ranges: &[(u32, u32)]) -> Self {
        let mut set = Self::default();
        for &(first, last) in ranges {
            set.insert_range(first, last);
        }
        set
    }

    /// How many indices there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether an index is in the set.
    pub fn contains(&self, index: u32) -> bool {
        self.ranges.range(..=index).next_back().is_some_and(|(_, &last)| last >= index)
    }

    /// The lowest index.
    pub fn first(&self) -> Option<u32> {
        self.ranges.keys().next().copied()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }

    /// The indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges().flat_map(|(first, last)| first..=last)
    }

    /// The indices above `after` (all for `None`), ascending.
    pub fn iter_after(&self, after: Option<u32>) -> impl Iterator<Item = u32> + '_ {
        let from = match after {
            None => Some(0),
            Some(after) => after.checked_add(1),
        };
        self.ranges()
            .filter_map(move |(first, last)| {
                from.filter(|&from| last >= from).map(|from| (first.max(from), last))
            })
            .flat_map(|(first, last)| first..=last)
    }

    /// Adds an index.
    pub fn insert(&mut self, index: u32) {
        self.insert_range(index, index);
    }

    /// Adds a range, inclusive at both ends.
    pub fn insert_range(&mut self, mut first: u32, mut last: u32) {
        if first > last {
            return;
        }
        self.remove_range(first, last);
        if let Some((&before, &end)) = self.ranges.range(..first).next_back()
            && end + 1 == first
        {
            self.cut(before);
            first = before;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.cut(next)
        {
            last = end;
        }
        self.put(first, last);
    }

    /// Takes an index out; whether it was in.
    pub fn remove(&mut self, index: u32) -> bool {
        self.remove_range(index, index) == 1
    }

    /// Takes a range out, inclusive at both ends; how many indices of it were in.
    pub fn remove_range(&mut self, first: u32, last: u32) -> u64 {
        let before = self.len;
        if first > last {
            return 0;
        }
        let start =
            self.ranges.range(..first).next_back().filter(|&(_, &end)| end >= first).map(|(&start, _)| start);
        let touched: Vec<u32> =
            start.into_iter().chain(self.ranges.range(first..=last).map(|(&f, _)| f)).collect();
        let mut removed = 0;
        for range_first in touched {
            let range_last = self.cut(range_first).expect("the range was just found");
            removed += u64::from(range_last.min(last) - range_first.max(first)) + 1;
            if range_first < first {
                self.put(range_first, first - 1);
            }
            if range_last > last {
                self.put(last + 1, range_last);
            }
        }
        debug_assert_eq!(before - removed, self.len);
        removed
    }

    /// What is in this set and in `other`.
    pub fn intersection(&self, other: &RangeSet) -> RangeSet {
        let mut both = RangeSet::default();
        for (first, last) in other.ranges() {
            let from = self.ranges.range(..=first).next_back().map_or(first, |(&start, _)| start);
            for (&start, &end) in self.ranges.range(from..=last) {
                both.insert_range(start.max(first), end.min(last));
            }
        }
        both
    }

    /// What is in this set and not in `other`.
    pub fn difference(&self, other: &RangeSet) -> RangeSet {
        let mut rest = self.clone();
        for (first, last) in other.ranges() {
            rest.remove_range(first, last);
        }
        rest
    }

    fn put(&mut self, first: u32, last: u32) {
        self.ranges.insert(first, last);
        self.len += u64::from(last - first) + 1;
    }

    fn cut(&mut self, first: u32) -> Option<u32> {
        let last = self.ranges.remove(&first)?;
        self.len -= u64::from(last - first) + 1;
        Some(last)
    }
}

impl FromIterator<u32> for RangeSet {
    fn from_iter<I: IntoIterator<Item = u32>>(indices: I) -> Self {
        let mut set = Self::default();
        for index in indices {
            set.insert(index);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one_range() {
        let mut set = RangeSet::of(&[(1, 3), (5, 9)]);

        set.insert(4);

        assert_eq!(set.ranges().collect::<Vec<_>>(), [(1, 9)]);
    }

    #[test]
    fn the_whole_range_of_indices_fits() {
        let mut set = RangeSet::of(&[(0, u32::MAX)]);
        assert_eq!(set.len(), 1 << 32);

        assert!(set.remove(u32::MAX));
        assert!(set.remove(0));

        assert_eq!(set.len(), (1 << 32) - 2);
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((0u8..3, 0u32..60, 0u32..12), 0..60), other in prop::collection::btree_set(0u32..60, 0..20)) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for (what, first, more) in steps {
                let last = first + more;
                match what {
                    0 => { set.insert_range(first, last); model.extend(first..=last); }
                    1 => {
                        let removed = set.remove_range(first, last);
                        let before = model.len();
                        model.retain(|n| !(first..=last).contains(n));
                        prop_assert_eq!(removed, (before - model.len()) as u64);
                    }
                    _ => { prop_assert_eq!(set.remove(first), model.remove(&first)); }
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert!(set.iter().eq(model.iter().copied()));
                prop_assert!(set.iter_after(Some(first)).eq(model.range(first + 1..).copied()));
                prop_assert_eq!(set.contains(first), model.contains(&first));
                let ranges: Vec<_> = set.ranges().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{:?}", ranges);
            }
            let other_set: RangeSet = other.iter().copied().collect();
            prop_assert!(set.intersection(&other_set).iter().eq(model.intersection(&other).copied()));
            prop_assert!(set.difference(&other_set).iter().eq(model.difference(&other).copied()));
        }
    }
}
