//! The one message that is read from somebody whose key is not known.
#![no_main]

use clusterctl::net::enrol::read_request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut stream = data;
    let _ = futures::executor::block_on(read_request(&mut stream));
});
