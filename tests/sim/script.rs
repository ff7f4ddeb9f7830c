//! A script of the simulation: how long it runs, what it writes, how it ends, and how it takes a signal.
//!
//! It is text, travels in a spec as any script does, and is read where it runs. Every byte that it writes depends on
//! attempt, stream and offset, so that a byte that went astray is known.

use std::time::Duration;

use clusterctl::core::id::Fence;
use clusterctl::core::output::Stream;

/// What a model keeper runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// From start to end, if nobody ends it before.
    pub run: Duration,
    /// Every third task of an array takes so much longer.
    pub drags: Duration,
    /// Its exit code.
    pub exit: u8,
    /// How long it takes to end after TERM or INT; none: only KILL ends it.
    pub yields: Option<Duration>,
    /// Whether bash can be started at all.
    pub spawns: Spawns,
    /// When it writes what, in order of time.
    pub writes: Vec<Write>,
}

/// Whether bash starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spawns {
    Yes,
    No,
}

/// One `write` of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// After the start.
    pub after: Duration,
    pub stream: Stream,
    pub length: usize,
}

impl Script {
    /// The script as bash source would stand in a spec.
    pub fn text(&self) -> Vec<u8> {
        let yields = self.yields.map_or("never".to_owned(), |after| after.as_millis().to_string());
        let spawns = if self.spawns == Spawns::Yes { "spawns" } else { "fails" };
        let (run, drags) = (self.run.as_millis(), self.drags.as_millis());
        let mut text = format!("sim {run} {drags} {} {yields} {spawns}", self.exit);
        for write in &self.writes {
            let stream = if write.stream == Stream::Stdout { "out" } else { "err" };
            text.push_str(&format!(" {stream}:{}:{}", write.after.as_millis(), write.length));
        }
        text.into_bytes()
    }

    /// Reads what `text` wrote; panics at anything else, since then a script was changed on its way.
    pub fn read(text: &[u8]) -> Self {
        let text = std::str::from_utf8(text).expect("a script arrives as it was written");
        let mut words = text.split(' ').skip(1);
        let mut word = || words.next().expect("a script arrives whole");
        let millis = |word: &str| Duration::from_millis(word.parse().unwrap());
        let run = millis(word());
        let drags = millis(word());
        let exit = word().parse().unwrap();
        let yields = Some(word()).filter(|word| *word != "never").map(millis);
        let spawns = if word() == "spawns" { Spawns::Yes } else { Spawns::No };
        let write = |word: &str| {
            let mut parts = word.split(':');
            let stream = if parts.next() == Some("out") { Stream::Stdout } else { Stream::Stderr };
            let after = millis(parts.next().unwrap());
            Write { after, stream, length: parts.next().unwrap().parse().unwrap() }
        };
        Self { run, drags, exit, yields, spawns, writes: words.map(write).collect() }
    }
}

impl Script {
    /// The script as a task of an array runs it.
    pub fn of_task(self, index: u32) -> Self {
        let run = if index % 3 == 2 { self.run + self.drags } else { self.run };
        Self { run, ..self }
    }
}

/// What an attempt writes at an offset of one of its streams.
pub fn content(fence: Fence, stream: Stream, offset: u64, length: usize) -> Vec<u8> {
    let seed = fence.nonce.0
        ^ (u64::from(fence.task.index) << 8)
        ^ (u64::from(fence.attempt.0) << 40)
        ^ if stream == Stream::Stdout { 0 } else { 0x5555 };
    let byte = |at: u64| (seed.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (offset..offset + length as u64).map(byte).collect()
}
