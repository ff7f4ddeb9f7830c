//! clusterctl: a cluster that you talk to like a shell.
//!
//! Folders are import permissions: `core` and `schema` know nobody; `wire`, `store`, `net` and `process` are
//! adapters that know the core; `pool`, `worker` and `client` are the three roles and know the adapters, never each
//! other. `ARCHITECTURE.md` tells the rest.

#[cfg(not(target_os = "linux"))]
compile_error!("clusterctl runs on Linux for now: it needs pidfd, child sub-reapers and CLOCK_BOOTTIME");

pub mod cli;
pub mod client;
pub mod core;
pub mod net;
pub mod pool;
pub mod process;
pub mod say;
pub mod schema;
pub mod store;
pub mod wire;
pub mod worker;

/// The program's version as people see it: `0.1.0 (rev 3f2a9c1, protocol 1)`.
pub fn build() -> &'static str {
    static BUILD: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let revision = match env!("CLUSTERCTL_REVISION") {
            "" => String::new(),
            revision => format!("rev {revision}, "),
        };
        format!("{} ({revision}protocol {})", env!("CARGO_PKG_VERSION"), wire::hello::PROTOCOL_MAJOR)
    });
    &BUILD
}
