//! Tokens as people paste them: one that is read is written as it was, but for white space and case.
#![no_main]

use clusterctl::net::token::Token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<Token>() {
        let again: Token = token.to_string().parse().expect("what is written is read");
        assert_eq!(again.to_string(), token.to_string());
    }
});
