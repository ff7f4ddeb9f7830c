//! The schema and what was made of it: building reads the committed requests alone, so they must be those of the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use capnp::message::{Reader, ReaderOptions};
use capnp::schema_capnp::{code_generator_request, node};
use capnp::serialize::OwnedSegments;

fn schema() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schema")
}

/// The names of our own files, without their ending.
fn names() -> Vec<String> {
    let files =
        fs::read_dir(schema()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.strip_suffix(".capnp")?.to_owned())).collect();
    names.sort_unstable();
    assert_eq!(names, ["executor", "pool", "record", "types", "worker"]);
    names
}

fn compiled(name: &str) -> Vec<u8> {
    fs::read(schema().join("compiled").join(name).with_extension("request")).unwrap()
}

fn read(request: &[u8]) -> Reader<OwnedSegments> {
    capnp::serialize::read_message(request, ReaderOptions::new()).unwrap()
}

#[test]
fn the_compiled_requests_are_those_of_the_schema_files() {
    let listed = fs::read_to_string(schema().join("compiled/sha256")).unwrap();
    let mut listed: Vec<(&str, &str)> = listed.lines().map(|line| line.split_once("  ").unwrap()).collect();
    listed.sort_unstable_by_key(|(_, file)| *file);
    let mut files: Vec<String> = names().iter().map(|name| format!("{name}.capnp")).collect();
    files.push("capnp/stream.capnp".to_owned());
    files.sort_unstable();

    let hash = |file: &String| {
        let hash = ring::digest::digest(&ring::digest::SHA256, &fs::read(schema().join(file)).unwrap());
        (data_encoding::HEXLOWER.encode(hash.as_ref()), file.clone())
    };
    let files: Vec<(String, String)> = files.iter().map(hash).collect();

    let same = files.iter().map(|(hash, file)| (hash.as_str(), file.as_str())).eq(listed);
    assert!(
        same,
        "the schema was changed since it was compiled: run schema/compile.sh, and commit what it makes"
    );
}

#[test]
fn compiling_the_schema_again_gives_the_committed_bytes() {
    for name in names() {
        let committed = compiled(&name);
        let message = read(&committed);
        let version =
            message.get_root::<code_generator_request::Reader<'_>>().unwrap().get_capnp_version().unwrap();
        let version = format!("{}.{}.{}", version.get_major(), version.get_minor(), version.get_micro());
        let installed = Command::new("capnp").arg("--version").output().ok().map(|output| output.stdout);
        let installed = installed.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
        if installed.trim().rsplit(' ').next() != Some(&version) {
            crate::cluster::skipped(&format!(
                "compiling the schema again: capnp {version} is not installed (Debian: capnproto)"
            ));
            return;
        }

        let file = format!("{name}.capnp");
        let compiling =
            Command::new("capnp").args(["compile", "-I.", "-o-", &file]).current_dir(schema()).output();

        let made = compiling.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(made.stdout == committed, "schema/compiled/{name}.request: run schema/compile.sh");
    }
}

/// Its prose is the specification, so there must be some: behind every type, and behind every method.
#[test]
fn every_type_and_every_method_has_prose() {
    let mut missing = Vec::new();
    let mut methods = 0;
    for name in names() {
        let request = compiled(&name);
        let message = read(&request);
        let request: code_generator_request::Reader<'_> = message.get_root().unwrap();
        let source_info = request.get_source_info().unwrap();
        let prefix = format!("{name}.capnp:");
        for node in request.get_nodes().unwrap() {
            let display_name = node.get_display_name().unwrap().to_str().unwrap();
            // A method's parameters are a type without a place of their own.
            if !display_name.starts_with(&prefix) || display_name.contains('$') {
                continue;
            }
            let info = source_info.iter().find(|info| info.get_id() == node.get_id());
            if info.is_none_or(|info| info.get_doc_comment().unwrap().is_empty()) {
                missing.push(display_name.to_owned());
            }
            if let node::Interface(interface) = node.which().unwrap() {
                for (n, method) in (0..).zip(interface.get_methods().unwrap()) {
                    methods += 1;
                    let member = info.map(|info| info.get_members().unwrap().get(n));
                    if member.is_none_or(|member| member.get_doc_comment().unwrap().is_empty()) {
                        missing
                            .push(format!("{display_name}.{}", method.get_name().unwrap().to_str().unwrap()));
                    }
                }
            }
        }
    }
    assert!(methods > 30, "the requests hold what was looked for");
    assert_eq!(missing, [""; 0], "without a comment behind it");
}
