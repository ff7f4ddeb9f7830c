//! Files that this version wrote, and that every later one must read for ever.
//!
//! Each lies in `fixtures/` under the version of its format. A file is not changed once a version that writes it was
//! released: if a later encoder gives other bytes, it gets a file of its own (`executor-v2.frames`, `store-v2`) beside
//! the old one, and the tests of reading go over both.
//!
//! To write the present ones anew, on purpose: `CLUSTERCTL_WRITE_GOLDEN=1 cargo test --test it golden`.

mod executor;
mod store;

use std::path::{Path, PathBuf};

use capnp::introspect::{Introspect, TypeVariant};
use capnp::schema::StructSchema;
use clusterctl::core::id::{AttemptNumber, Fence, JobId, JobNonce, TaskId};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(name)
}

/// Whether the fixtures are to be written instead of compared.
fn writing() -> bool {
    std::env::var_os("CLUSTERCTL_WRITE_GOLDEN").is_some()
}

fn fence(job: u64, index: u32, attempt: u32) -> Fence {
    Fence {
        nonce: JobNonce(0x1000 + job),
        task: TaskId { job: JobId(job), index },
        attempt: AttemptNumber(attempt),
    }
}

/// How many kinds the schema has of something: a new one needs a golden value.
fn members_of_union<S: Introspect>() -> usize {
    let TypeVariant::Struct(schema) = S::introspect().which() else { panic!("a union is in a struct") };
    usize::from(StructSchema::from(schema).get_union_fields().unwrap().len())
}
