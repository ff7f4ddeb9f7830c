//! Constraints as people type them: one that is read means the same when it is written and read again.
#![no_main]

use clusterctl::core::label::Constraint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(constraint) = Constraint::parse(text) {
        let again = Constraint::parse(&constraint.to_string()).expect("what is written is read");
        assert_eq!(again, constraint);
    }
});
