//! Every contract between the processes of distwasm: messages, frames, ids, limits, exit statuses.
//!
//! Nothing here does anything by itself: the messages are carried by `distwasm-transport`, and what each process needs
//! from its machine is in `distwasm-process`.

pub mod arguments;
pub mod digest;
pub mod error_text;
pub mod exit;
pub mod failure;
pub mod file_type;
pub mod guest;
pub mod ids;
pub mod limits;
pub mod pipe;
pub mod program_name;
pub mod secret;
pub mod statuses;
pub mod text;
pub mod time;
pub mod walls;
pub mod wire;

/// The version of the gRPC protocol, said in each hello. Peers of another version are refused with a reason.
pub const PROTOCOL: u32 = 6;

/// The version of this build, for hellos, logs and `--version`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
