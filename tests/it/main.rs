//! Real processes, real sockets, real terminals, and files of other versions: what unit tests and the simulation cannot
//! show.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod audit;
mod cancel;
mod census;
mod cluster;
mod command_line;
mod connect_proxy;
mod doctor;
mod documents;
mod first_minute;
mod golden;
mod membership;
mod nat;
mod network;
mod picture;
mod proxy;
mod pty;
mod queue;
mod registration;
mod schema;
mod session;
mod tap;
mod terminal;
mod tidy;
mod trust;
