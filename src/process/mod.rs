//! Processes: the executor that owns jobs, the keepers that run them, and the agent's end of the line to an executor.
//!
//! The only unsafe code of the program is here. Nothing here knows of a pool: an executor is told fences and launches.
#![allow(unsafe_code)]

mod cgroup;
pub mod clock;
pub mod detach;
pub mod executor;
pub mod executor_client;
pub mod facts;
pub mod first;
pub mod inspect;
mod journal;
pub mod keeper;
mod launch;
pub mod limit;
pub mod listeners;
mod packet;
mod removal;
pub mod run_as;
mod signal;
mod spawn;
mod spool;
pub mod systemd;
pub mod title;
mod tree;
mod workspace;

pub use journal::{JournalOf, forget_journals, read_journals};
