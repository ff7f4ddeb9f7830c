//! What agent and executor say to each other: frames, and the words in them, in both directions.
#![no_main]

use clusterctl::wire::executor::{decode_from, decode_to, next_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some((body, length))) = next_frame(rest) {
        assert!(length > 0 && length <= rest.len());
        let _ = decode_to(body);
        let _ = decode_from(body);
        rest = &rest[length..];
    }
});
