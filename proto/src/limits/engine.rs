//! Limits of the engine that runs guests: their stack, and compiling them.

use std::time::Duration;

use super::MIB;

/// Stack of a guest. What wasmtime gives by default; deep recursion ends in a trap, not in a crash.
pub const GUEST_STACK_BYTES: usize = MIB;

/// The smallest stack of a guest that can be asked for: less does not carry a program through its initialisation.
pub const GUEST_STACK_BYTES_MIN: u64 = 64 << 10;

/// The largest. A module runs on the stack of its peasant's process, and Linux keeps 128 MiB free for that to grow.
pub const GUEST_STACK_BYTES_MAX: u64 = 64 << 20;

/// Stack for the functions that a guest calls, beside its own. They take a few KiB.
pub const HOST_STACK_BYTES: usize = MIB;

/// How often `check` says that it is still compiling. Most programs are compiled before that.
pub const COMPILING_SHOWN_EVERY: Duration = Duration::from_secs(5);
