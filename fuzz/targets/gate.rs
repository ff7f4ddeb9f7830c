//! The frame gate: whatever comes, what it passes on is what came, and it never holds more than came and a page.
#![no_main]

use clusterctl::core::limits;
use clusterctl::core::time::Timestamp;
use clusterctl::net::gate::{Gate, GateState};
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncReadExt;

fuzz_target!(|data: &[u8]| {
    let state = GateState::new(limits::FRAME_BYTES_MAX_FIRST, Timestamp(0));
    let mut gate = Gate::new(data, state, || Timestamp(0));
    let mut passed = Vec::new();
    // An error is the gate's "no"; what it passed before that still is what came.
    let _ = futures::executor::block_on(gate.read_to_end(&mut passed));
    assert!(data.starts_with(&passed));
});
