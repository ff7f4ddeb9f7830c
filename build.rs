//! Generates `schema::*` from the committed compiled requests, so that building needs no `capnp`, and notes the revision.

use std::path::Path;
use std::process::Command;

const SCHEMAS: [&str; 5] = ["types", "pool", "worker", "record", "executor"];

fn main() {
    let out_dir = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for name in SCHEMAS {
        let request = Path::new("schema/compiled").join(name).with_extension("request");
        println!("cargo::rerun-if-changed={}", request.display());
        let file = std::fs::File::open(&request).expect("the compiled schema is committed");
        capnpc::codegen::CodeGenerationCommand::new()
            .output_directory(&out_dir)
            .default_parent_module(vec!["schema".into()])
            .run(file)
            .expect("the compiled schema is whole");
    }
    println!(
        "cargo::rustc-env=CLUSTERCTL_REVISION={}",
        git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default()
    );
    // It grows with every commit and every checkout.
    let moves = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists());
    if let Some(path) = moves {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What git says, in a checkout.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
