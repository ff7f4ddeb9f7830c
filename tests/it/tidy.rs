//! What the compiler and clippy cannot watch: who imports whom, what every file says of itself, and words that we do not
//! use.

use std::path::{Path, PathBuf};

/// A source file with the part before its tests.
struct Source {
    /// Below `src`, as `core/label.rs`.
    name: String,
    text: String,
    /// Nothing of a file that is all tests.
    shipped: String,
}

fn sources(below: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                let shipped = if name.ends_with("tests.rs") || name.contains("/tests/") {
                    String::new()
                } else {
                    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
                };
                found.push(Source { name, text, shipped });
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The folder of `src` that a file belongs to.
fn folder(name: &str) -> &str {
    let first = name.split('/').next().unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Whom a folder may import, besides itself.
fn may_import(folder: &str) -> &'static [&'static str] {
    match folder {
        "core" | "schema" | "say" => &[],
        "wire" => &["core", "schema", "build"],
        "store" | "process" => &["core", "schema", "wire"],
        "net" => &["core", "schema"],
        "pool" | "worker" | "client" => {
            &["core", "schema", "wire", "store", "net", "process", "say", "build"]
        }
        "cli" | "lib" | "main" => &[
            "core", "schema", "wire", "store", "net", "process", "pool", "worker", "client", "cli", "say",
            "build",
        ],
        other => panic!("{other} is no folder of the layout"),
    }
}

#[test]
fn imports_point_down() {
    for source in sources("src") {
        let own = folder(&source.name);
        for (_, rest) in
            source.shipped.match_indices("crate::").map(|(at, mark)| source.shipped.split_at(at + mark.len()))
        {
            let imported: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let allowed = imported == own || may_import(own).contains(&imported.as_str());
            assert!(allowed, "src/{} may not import crate::{imported}", source.name);
        }
    }
}

#[test]
fn the_core_is_told_and_never_asks() {
    for source in sources("src").iter().filter(|source| folder(&source.name) == "core") {
        for word in [
            "async fn",
            ".await",
            "tokio::",
            "std::fs",
            "std::net",
            "Instant::now",
            "SystemTime",
            "HashMap",
            "HashSet",
            "thread::",
        ] {
            assert!(!source.shipped.contains(word), "src/{} uses {word}", source.name);
        }
    }
}

#[test]
fn only_the_stores_commit_opens_a_batch() {
    for source in sources("src") {
        let opens = source.shipped.contains(".into_effects(");
        assert_eq!(opens, source.name == "store/mod.rs", "src/{}", source.name);
    }
}

#[test]
fn unsafe_code_is_in_process_alone_and_says_why_it_is_sound() {
    for source in sources("src") {
        let blocks = source.text.matches("unsafe {").count();
        assert!(blocks == 0 || folder(&source.name) == "process", "src/{} has unsafe code", source.name);
        let reasons = source.text.matches("SAFETY:").count();
        assert!(reasons >= blocks, "src/{}: {blocks} unsafe blocks, {reasons} reasons", source.name);
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for source in sources("src").iter().chain(&sources("tests")) {
        assert!(source.text.starts_with("//! "), "{} does not begin with //!", source.name);
    }
}

#[test]
fn no_file_is_named_for_what_has_no_name() {
    let banned = ["utils", "util", "common", "helpers", "helper", "misc", "types"];
    for source in sources("src") {
        let stem = Path::new(&source.name).file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(!banned.contains(&stem.as_str()), "src/{}", source.name);
    }
}

#[test]
fn files_stay_readable() {
    for source in sources("src") {
        let text = if source.shipped.is_empty() { &source.text } else { &source.shipped };
        let lines = text.lines().count();
        assert!(lines <= 520, "src/{} has {lines} lines: which noun wants a file of its own?", source.name);
    }
}

#[test]
fn nothing_is_left_undone() {
    let marks =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X:")];
    for source in sources("src").iter().chain(&sources("tests")) {
        for mark in marks {
            assert!(!source.text.contains(mark), "{} has {mark}", source.name);
        }
    }
}

#[test]
fn tests_wait_for_conditions() {
    // The fixture polls, and where time is virtual nobody waits for it; nobody else sleeps.
    let may_sleep = |name: &str| name == "it/cluster.rs" || name.starts_with("sim/rpc/");
    for source in sources("tests").iter().filter(|source| !may_sleep(&source.name)) {
        for call in [concat!("thread::", "sleep("), concat!("time::", "sleep(")] {
            assert!(!source.text.contains(call), "tests/{} sleeps", source.name);
        }
    }
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let manifest = include_str!("../../Cargo.toml");
    let sections = manifest.split("\n[").filter(|section| section.contains("dependencies]\n"));
    let mut seen = 0;
    for section in sections {
        let mut explained = false;
        for line in section.lines().skip(1).filter(|line| !line.is_empty()) {
            if line.starts_with('#') {
                explained = true;
            } else {
                assert!(
                    explained
                        || line.starts_with("capnp")
                        || line.starts_with("tracing-")
                        || line.starts_with("serde_")
                        || line.starts_with("anstyle"),
                    "no reason for {line}"
                );
                explained = false;
                seen += 1;
            }
        }
    }
    assert!(seen > 20);
}
