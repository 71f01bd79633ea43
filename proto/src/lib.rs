//! Every contract between the processes of distwasm: messages, frames, ids, limits, exit statuses.
//!
//! Nothing here is the logic of one side only. This crate has the contracts between two programs, and the few things
//! that every program must do in one way: begin and end, read flags, log, write files that last.

#[cfg(feature = "grpc")]
pub mod address;
#[cfg(feature = "grpc")]
pub mod allowance;
pub mod backoff;
#[cfg(feature = "grpc")]
pub mod chunks;
#[cfg(feature = "grpc")]
pub mod digest;
pub mod exit;
pub mod failure;
pub mod files;
#[cfg(feature = "grpc")]
pub mod flags;
pub mod foreign;
#[cfg(feature = "grpc")]
pub mod guest;
pub mod ids;
pub mod limits;
#[cfg(feature = "grpc")]
pub mod link;
#[cfg(feature = "grpc")]
pub mod logging;
#[cfg(feature = "grpc")]
pub mod memory;
#[cfg(feature = "grpc")]
pub mod payload;
pub mod pipe;
#[cfg(feature = "grpc")]
pub mod process;
pub mod repeats;
#[cfg(feature = "grpc")]
pub mod stderr;
#[cfg(feature = "grpc")]
pub mod stop;
#[cfg(feature = "grpc")]
pub mod stream;
pub mod time;
#[cfg(feature = "grpc")]
pub mod transfer;

/// The gRPC messages and services, generated from `distwasm/v1/king.proto`, where they are documented.
#[cfg(feature = "grpc")]
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::restriction, clippy::pedantic, reason = "generated")]
pub mod wire {
    tonic::include_proto!("distwasm.v1");

    /// The descriptors of all messages, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// The version of the gRPC protocol, said in each hello. Peers of another version are refused with a reason.
pub const PROTOCOL: u32 = 2;

/// The version of this build, for hellos, logs and `--version`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
