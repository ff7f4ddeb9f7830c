//! A pool whose storage fails: what it said before holds afterwards.

mod bits;
mod lab;
mod power;
mod promised;
pub mod revived;
mod syncs;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What a long test has found, for people. (What a test prints is kept from the terminal; what it writes is not.)
fn figures(line: &str) {
    use std::io::Write;
    // A terminal that is gone reads nothing.
    let _ = writeln!(std::io::stderr(), "\n{line}");
}

/// The same numbers for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
