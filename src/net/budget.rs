//! One budget for what all peers of a pool make it keep: the peer that has most is the first to go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

/// Shared between all connections of a pool, on whichever thread.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bound: usize,
    /// What all have, those that are being cut among them.
    total: AtomicUsize,
    shares: Mutex<Shares>,
}

#[derive(Debug, Default)]
struct Shares {
    last: u64,
    open: BTreeMap<u64, Arc<Share>>,
}

#[derive(Debug, Default)]
struct Share {
    bytes: AtomicUsize,
    is_cut: AtomicBool,
    cut: CancellationToken,
}

/// What one connection has of a budget. Dropping it gives all back.
#[derive(Debug)]
pub struct Account {
    budget: Budget,
    number: u64,
    share: Arc<Share>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bound: usize) -> Self {
        Self(Arc::new(Inner { bound, total: AtomicUsize::new(0), shares: Mutex::default() }))
    }

    /// A share for a connection.
    pub fn open(&self) -> Account {
        let share = Arc::new(Share::default());
        let mut shares = self.shares();
        shares.last += 1;
        let number = shares.last;
        shares.open.insert(number, Arc::clone(&share));
        Account { budget: self.clone(), number, share }
    }

    /// What all connections have, in bytes.
    pub fn total(&self) -> usize {
        self.0.total.load(Ordering::Relaxed)
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.0.shares.lock().expect("nobody panics with the shares")
    }

    /// Cuts the largest until the others fit. What is being cut counts no more: it is on its way out.
    fn shed(&self) {
        let shares = self.shares();
        loop {
            let staying = || shares.open.values().filter(|share| !share.is_cut.load(Ordering::Relaxed));
            let bytes = |share: &Share| share.bytes.load(Ordering::Relaxed);
            if staying().map(|share| bytes(share)).sum::<usize>() <= self.0.bound {
                return;
            }
            let Some(largest) = staying().max_by_key(|share| bytes(share)) else { return };
            largest.is_cut.store(true, Ordering::Relaxed);
            largest.cut.cancel();
        }
    }
}

impl Account {
    /// Has so much now, instead of what it had.
    pub fn set(&self, bytes: usize) {
        let before = self.share.bytes.swap(bytes, Ordering::Relaxed);
        if bytes <= before {
            self.budget.0.total.fetch_sub(before - bytes, Ordering::Relaxed);
            return;
        }
        let more = bytes - before;
        let total = self.budget.0.total.fetch_add(more, Ordering::Relaxed) + more;
        if total > self.budget.0.bound {
            self.budget.shed();
        }
    }

    /// Waits until it has to go, because it has most. Cancel-safe.
    pub async fn cut(&self) {
        self.share.cut.cancelled().await;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0);
        self.budget.shares().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cut(account: &Account) -> bool {
        account.share.cut.is_cancelled()
    }

    #[test]
    fn the_largest_goes_first_and_nobody_else_as_long_as_the_others_fit() {
        let budget = Budget::new(100);
        let [small, large, middle] = [(); 3].map(|()| budget.open());
        small.set(10);
        large.set(60);
        middle.set(30);
        assert!(!is_cut(&large), "all fit");

        small.set(11);
        small.set(30);

        assert_eq!([is_cut(&small), is_cut(&large), is_cut(&middle)], [false, true, false]);
    }

    #[test]
    fn what_a_connection_had_is_given_back_with_it() {
        let budget = Budget::new(100);
        let account = budget.open();
        account.set(70);
        account.set(50);
        assert_eq!(budget.total(), 50);

        drop(account);

        assert_eq!(budget.total(), 0);
        assert!(budget.shares().open.is_empty());
    }
}
