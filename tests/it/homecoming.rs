//! A pool that was killed has its workers back. How fast is for `benches/speed.rs` to judge; here it is shown, and only
//! what is broken takes too long.
//!
//! `CLUSTERCTL_FLEET=N` takes N workers.

use std::time::Duration;

use clusterctl::core::timing::Timing;

use crate::cluster::Cluster;
use crate::fleet::{Fleet, Homecoming, Return};

fn fleet() -> usize {
    std::env::var("CLUSTERCTL_FLEET").map_or(50, |text| text.parse().expect("CLUSTERCTL_FLEET is a number"))
}

fn tell(how: &str, count: usize, back: &Homecoming) {
    println!(
        "{count} workers, {how}: half after {:.2} s, all after {:.2} s, shown as ready after {:.2} s ({:.0}/s); \
         {} µs of the pool's processors for each",
        back.half.as_secs_f64(),
        back.all.as_secs_f64(),
        back.shown.as_secs_f64(),
        back.rate(),
        back.pool_cpu.as_micros()
    );
}

/// Generous: a machine that is busy otherwise, with a build that is not optimized, takes a second, or five. Still less, for
/// fifty, than the pause of an agent that was refused.
fn at_most(count: usize) -> Duration {
    let dials = 10 * Timing::default().dial_pause_max;
    // Thirty times what is promised for each.
    dials + Duration::from_millis(100) * u32::try_from(count).unwrap()
}

#[test]
fn a_pool_that_was_killed_has_all_its_workers_back_whenever_they_dial() {
    let count = fleet();
    let mut cluster = Cluster::start();
    let fleet = Fleet::join(&cluster, count);

    let at_once = fleet.come_home(&mut cluster, Return::AtOnce);
    let as_they_do = fleet.come_home(&mut cluster, Return::AsTheyDo);

    tell("all at once", count, &at_once);
    tell("with their pauses", count, &as_they_do);
    for back in [at_once, as_they_do] {
        assert!(back.shown <= at_most(count), "{:?} until all were back", back.shown);
    }
}
