//! What tests need in C, compiled where the test keeps its files.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::skipped;

/// A file of `tests/lab`, compiled with these options. None, said loudly, where there is no C compiler.
pub fn compiled(source: &str, options: &[&str], into: &Path, what: &str) -> Option<PathBuf> {
    let output = into.join(Path::new(source).file_stem().unwrap());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(source);
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Wextra", "-Werror"]).args(options).arg("-o").arg(&output).arg(source);
    match compiler.output() {
        Err(_) => {
            skipped(&format!("{what} (needs a C compiler)"));
            None
        }
        Ok(compiled) => {
            assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            Some(output)
        }
    }
}
