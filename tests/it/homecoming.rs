//! A pool that was killed has its workers back. How fast is for `benches/speed.rs` to judge; here it is shown.
//!
//! `CLUSTERCTL_FLEET=N` takes N workers.

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

#[test]
fn a_pool_that_was_killed_has_all_its_workers_back_whenever_they_dial() {
    let count = fleet();
    let mut cluster = Cluster::start();
    let fleet = Fleet::join(&cluster, count);

    let at_once = fleet.come_home(&mut cluster, Return::AtOnce);
    let as_they_do = fleet.come_home(&mut cluster, Return::AsTheyDo);

    tell("all at once", count, &at_once);
    tell("with their pauses", count, &as_they_do);
}
