//! clusterctl: a cluster that you talk to like a shell.
//!
//! Folders are import permissions: `core` and `schema` know nobody; `wire`, `store`, `net` and `process` are
//! adapters that know the core; `pool`, `worker` and `client` are the three roles and know the adapters, never each
//! other. `ARCHITECTURE.md` tells the rest.

#[cfg(not(target_os = "linux"))]
compile_error!("clusterctl runs on Linux for now: it needs pidfd, child sub-reapers and CLOCK_BOOTTIME");

pub mod client;
pub mod core;
pub mod net;
pub mod pool;
pub mod process;
pub mod schema;
pub mod store;
pub mod wire;
pub mod worker;
