//! A cluster whose pool is started by rounds, each with something that befalls it.

use std::sync::Arc;

use super::figures;
use super::promised::Promised;
use super::revived::{Counts, End, Fault, Revived, Shim};
use crate::cluster::{Cluster, Site, wait_until};

/// What is done when one process of a pool has ended and before the next one starts.
pub type Between = Arc<dyn Fn() + Send + Sync>;

/// A pool that is down, with a worker and clients. What `between` has is let go before the site is.
pub struct Lab {
    pub promised: Promised,
    shim: Shim,
    between: Between,
    cluster: Cluster,
}

impl Lab {
    /// None, said loudly, where there is no C compiler.
    pub fn at(site: Site, between: Between) -> Option<Self> {
        let shim = Shim::compile(site.path())?;
        let mut cluster = Cluster::at(site);
        cluster.join("w1", &["--slots", "4"]);
        let promised = Promised::new(&cluster);
        cluster.kill_pool();
        Some(Self { promised, shim, between, cluster })
    }

    /// Plays once while this befalls the pool, and looks whether all that was said holds; with how the pool ended.
    pub fn round(&mut self, fault: Option<&Fault>) -> (Option<End>, Counts) {
        let _told = Told(fault);
        let (operator, address) = (&self.cluster.operator, &self.cluster.address);
        let load = |command: &mut _| self.shim.load(command, fault);
        let pool = Revived::start(operator, address, load, Arc::clone(&self.between));
        self.promised.play();
        let (end, counts) = (pool.first_end(), self.shim.counts());
        // What it has in memory alone does not count.
        if end.is_none() {
            pool.kill();
            wait_until("the pool has ended", || pool.first_end().is_some());
        }
        self.promised.holds();
        (end, counts)
    }
}

/// Says in which round a test has failed.
struct Told<'a>(Option<&'a Fault>);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            figures(&format!("in the round of {:?}", self.0));
        }
    }
}
