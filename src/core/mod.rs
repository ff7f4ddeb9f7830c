//! The pure core: what a pool and an agent decide, without a clock, randomness, file, socket, task or `async`.
//!
//! Everything here is told the time as `now: Timestamp` and is given its randomness, so that the same calls give the
//! same answers in a unit test, in a simulation and in a pool.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod access;
pub mod agent;
pub mod attempt;
pub mod audit;
pub mod checkup;
pub mod id;
pub mod job;
pub mod label;
pub mod lifetime;
pub mod limits;
pub mod membership;
pub mod outcome;
pub mod output;
pub mod pool;
pub mod range;
pub mod record;
pub mod refusal;
pub mod scheduler;
pub mod size;
pub mod space;
pub mod succession;
pub mod time;
pub mod timing;
pub mod unit;
pub mod view;
