//! Real processes, real sockets, real terminals: what unit tests and the simulation cannot show.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod cancel;
mod census;
mod cluster;
mod command_line;
mod first_minute;
mod network;
mod queue;
mod tap;
mod tidy;
