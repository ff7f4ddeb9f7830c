//! The last lines of what goes by, without keeping the rest.

use std::collections::VecDeque;

use crate::core::output::Chunk;

/// Keeps the last lines, each in the stream that it belongs to.
#[derive(Debug)]
pub struct Tail {
    lines: usize,
    kept: VecDeque<(u32, Chunk)>,
    /// Ends of lines among what is kept.
    ends: usize,
}

impl Tail {
    /// Of so many lines.
    pub fn new(lines: usize) -> Self {
        Self { lines, kept: VecDeque::new(), ends: 0 }
    }

    /// Takes bytes of a task.
    pub fn push(&mut self, task: u32, chunk: Chunk) {
        self.ends += ends(&chunk.bytes);
        self.kept.push_back((task, chunk));
        // One end more than lines: the last line may have none, and the first must be whole.
        while let Some((_, first)) = self.kept.front()
            && self.ends - ends(&first.bytes) > self.lines
        {
            self.ends -= ends(&first.bytes);
            self.kept.pop_front();
        }
    }

    /// The last lines, in the order in which they came.
    pub fn finish(mut self) -> Vec<(u32, Chunk)> {
        let open = self.kept.back().is_some_and(|(_, last)| last.bytes.last() != Some(&b'\n'));
        let mut surplus = (self.ends + usize::from(open)).saturating_sub(self.lines);
        while surplus > 0
            && let Some((task, chunk)) = self.kept.pop_front()
        {
            let cut = nth_end(&chunk.bytes, surplus);
            surplus -= surplus.min(ends(&chunk.bytes));
            let Some(at) = cut else { continue };
            let position = chunk.position + at as u64 + 1;
            if let Some(rest) = chunk.from_position(position) {
                self.kept.push_front((task, rest));
            }
        }
        if self.lines == 0 { Vec::new() } else { self.kept.into() }
    }
}

fn ends(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Where the n-th end of a line is, from 1.
fn nth_end(bytes: &[u8], n: usize) -> Option<usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(n - 1).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::output::Stream;

    fn tail(chunks: &[&[u8]], lines: usize) -> Vec<u8> {
        let mut tail = Tail::new(lines);
        let mut position = 0;
        for bytes in chunks {
            tail.push(0, Chunk { position, stream: Stream::Stdout, offset: position, bytes: bytes.to_vec() });
            position += bytes.len() as u64;
        }
        tail.finish().into_iter().flat_map(|(_, chunk)| chunk.bytes).collect()
    }

    #[test]
    fn the_last_lines_are_whole_lines() {
        assert_eq!(tail(&[b"a\nb\nc\n"], 2), b"b\nc\n");
        assert_eq!(tail(&[b"a\nb", b"b\nc"], 1), b"c");
        assert_eq!(tail(&[b"a\nb", b"b\nc"], 2), b"bb\nc");
        assert_eq!(tail(&[b"a\n"], 9), b"a\n");
        assert_eq!(tail(&[b"a\n"], 0), b"");
        assert_eq!(tail(&[], 3), b"");
    }

    proptest! {
        #[test]
        fn it_is_what_tail_prints(parts in prop::collection::vec("[ab\n]{1,6}", 0..12), lines in 0usize..6) {
            let whole = parts.concat();
            let all: Vec<&str> = whole.split_inclusive('\n').collect();
            let expected = all[all.len().saturating_sub(lines)..].concat();

            let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();

            prop_assert_eq!(tail(&parts, lines), expected.into_bytes());
        }
    }
}
