//! The generated code of `schema/*.capnp`, one module a file, silenced. `wire` is the only reader of it besides the
//! objects that the roles offer each other.
#![allow(clippy::all, clippy::nursery, clippy::pedantic, clippy::restriction)]
#![allow(missing_docs, unreachable_pub, unused_qualifications)]

capnp::generated_code!(pub mod types_capnp);
capnp::generated_code!(pub mod pool_capnp);
capnp::generated_code!(pub mod worker_capnp);
capnp::generated_code!(pub mod record_capnp);
capnp::generated_code!(pub mod executor_capnp);
