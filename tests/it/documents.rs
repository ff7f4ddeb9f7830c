//! What the documents say is true: the README's transcript and picture are the program's own, and what a document names
//! is there.
//!
//! `CLUSTERCTL_REGENERATE=1 cargo test --test it documents` writes transcript and picture anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clusterctl::core::access::Role;
use clusterctl::core::id::TokenId;
use clusterctl::net::token::Token;

use crate::cluster::Site;
use crate::{picture, session};

/// The README's block begins behind this line.
const TRANSCRIPT: &str =
    "<!-- Written by CLUSTERCTL_REGENERATE=1 cargo test --test it documents -->\n```console\n";
/// The picture is of a window of this height.
const PICTURE_ROWS: u16 = 32;
const DOCUMENTS: [&str; 4] = ["README.md", "ARCHITECTURE.md", "docs/learned.md", "docs/protocol.md"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

#[test]
fn the_transcript_and_the_picture_in_the_readme_are_the_programs_own() {
    let site = Site::new();
    let terminal = session::play(&site.home("ann"));
    let (text, picture) = (terminal.text(), picture::draw(&terminal.screen(), PICTURE_ROWS, "clusterctl"));
    // The shell's last prompt, at which nothing is typed.
    let text = text.trim_end_matches("\n$");
    let readme = read("README.md");
    let (before, rest) = readme.split_once(TRANSCRIPT).expect("the README has a transcript");
    let (shown, after) = rest.split_once("\n```\n").expect("the transcript ends");
    if std::env::var_os("CLUSTERCTL_REGENERATE").is_some() {
        std::fs::write(root().join("README.md"), format!("{before}{TRANSCRIPT}{text}\n```\n{after}"))
            .unwrap();
        std::fs::write(root().join("docs/terminal.svg"), picture).unwrap();
        return;
    }

    assert_same(shown, text);
    assert_same(&read("docs/terminal.svg"), &picture);
}

#[track_caller]
fn assert_same(written: &str, made: &str) {
    let (written, made) = (steady(written), steady(made));
    for (written, made) in written.lines().zip(made.lines()) {
        assert_eq!(written, made, "write it anew with CLUSTERCTL_REGENERATE=1");
    }
    assert_eq!(written.lines().count(), made.lines().count(), "write it anew with CLUSTERCTL_REGENERATE=1");
}

/// The same text whenever and wherever it is made: durations are `0.0s`, slots `N`.
fn steady(text: &str) -> String {
    let mut words = Vec::new();
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "<>:".contains(c)) {
        let bare = word.trim_end_matches(|c: char| c.is_whitespace() || "<>:".contains(c));
        let number = bare.strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok());
        words.push(if number { word.replacen(bare, "0.0s", 1) } else { word.to_owned() });
    }
    let slots = std::thread::available_parallelism().unwrap();
    // A machine under load shows how long a job waited.
    words
        .concat()
        .replace(" · queued 0.0s", "")
        .replace(&format!("{slots} slots"), "N slots")
        .replace("2 slots", "N slots")
}

#[test]
fn what_a_document_names_is_there() {
    let sources = ["src", "tests", "benches", "schema"].map(|below| all_below(&root().join(below)));
    let sources: String = sources
        .iter()
        .flatten()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect::<Vec<_>>()
        .join("\n");
    for document in DOCUMENTS {
        let text = read(document);
        for name in spans(&text) {
            let first = name.split(['/', ' ', ':']).next().unwrap_or_default();
            let is_path =
                ["src", "tests", "schema", "docs", "benches", ".ci"].contains(&first) && name.contains('/');
            if is_path && !name.contains(['*', '{', ' ']) {
                let path = name.split("::").next().unwrap_or_default();
                assert!(root().join(path).exists(), "{document} names {path}");
            }
            // A test, by its claim.
            let last = name.rsplit("::").next().unwrap_or_default();
            let is_claim =
                last.matches('_').count() >= 3 && last.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if is_claim {
                assert!(sources.contains(&format!("fn {last}(")), "{document} names {last}");
            }
        }
        for variable in variables(&text) {
            assert!(sources.contains(&variable), "{document} names {variable}");
        }
        for target in links(&text).filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path =
                root().join(document).parent().unwrap().join(target.split('#').next().unwrap_or_default());
            assert!(path.exists(), "{document} links to {target}");
        }
    }
}

#[test]
fn the_token_that_the_protocol_shows_is_one() {
    let protocol = read("docs/protocol.md");
    let shown = protocol.lines().find(|line| line.starts_with("CCT1-")).unwrap();

    let token: Token = shown.parse().unwrap();

    assert_eq!((token.role, token.id), (Role::Client, TokenId(7)));
}

/// What stands between backticks outside of blocks, each on one line.
fn spans(text: &str) -> Vec<String> {
    let outside: Vec<&str> = text.split("\n```").step_by(2).collect();
    outside.join("\n").split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

fn variables(text: &str) -> BTreeSet<String> {
    let of = |(at, _)| -> String {
        text[at..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect()
    };
    text.match_indices("CLUSTERCTL_").map(of).collect()
}

fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn all_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { all_below(&path) } else { vec![path] }).collect()
}
