//! P9: what the pool has of an attempt's streams is what the script wrote, from the first byte on, and all of it once
//! its end was reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use clusterctl::core::attempt::AttemptEnd;
use clusterctl::core::id::Fence;
use clusterctl::core::record::Record;

use super::{Check, Findings, Happened, Promise, Written};

#[derive(Debug, Default)]
pub(super) struct Outputs {
    written: BTreeMap<Fence, Written>,
    kept: BTreeMap<Fence, Written>,
    ends: BTreeMap<Fence, Arc<AttemptEnd>>,
}

impl Check for Outputs {
    fn see(&mut self, event: &Happened, _found: &mut Findings) {
        if let Happened::Ended { fence, written, .. } | Happened::StillRuns { fence, written } = event {
            self.written.insert(*fence, written.clone());
        } else if let Happened::Kept { fence, kept } = event {
            self.kept.insert(*fence, kept.clone());
        } else if let Happened::Recorded(Record::Ended(ended)) = event {
            self.ends.insert(ended.end.fence, Arc::clone(&ended.end));
        }
    }

    fn end(&mut self, found: &mut Findings) {
        let nothing = Written::default();
        for (fence, kept) in &self.kept {
            let written = self.written.get(fence).unwrap_or(&nothing);
            for (name, kept, written) in
                [("stdout", &kept[0], &written[0]), ("stderr", &kept[1], &written[1])]
            {
                if !written.starts_with(kept) {
                    found.broken(Promise::P9, format!("{fence}: {}", difference(name, kept, written)));
                }
            }
        }
        for (fence, end) in &self.ends {
            if end.totals.end() == 0 && !end.outcome.is_success() {
                // It ended without a report, or wrote nothing.
                continue;
            }
            let written = self.written.get(fence).unwrap_or(&nothing);
            let kept = self.kept.get(fence).unwrap_or(&nothing);
            if kept != written {
                let (has, wrote) = (kept.each_ref().map(Vec::len), written.each_ref().map(Vec::len));
                found.broken(
                    Promise::P9,
                    format!("{fence} has ended, it wrote {wrote:?} bytes and {has:?} are kept"),
                );
            }
            let hashes = written.each_ref().map(|bytes| *blake3::hash(bytes).as_bytes());
            if hashes != [end.totals.stdout_hash, end.totals.stderr_hash] {
                found.broken(Promise::P9, format!("{fence} has other hashes than what it wrote"));
            }
        }
    }
}

fn difference(name: &str, kept: &[u8], written: &[u8]) -> String {
    let same = kept.iter().zip(written).take_while(|(kept, written)| kept == written).count();
    format!(
        "of {name}, {} bytes were written and {} kept, alike up to byte {same}",
        written.len(),
        kept.len()
    )
}
