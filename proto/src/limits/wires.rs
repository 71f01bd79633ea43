//! The limits of connections before their first request: sockets, handshakes, keys.

use std::time::Duration;

use super::MIB;

/// The longest path of a Unix socket that its address can hold.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How often a king tries to take the lock of its socket: an ending king may just have removed the file, and a starting one
/// has it for some microseconds while it looks whether its king is dead.
pub const LOCK_TRIES: u32 = 100;

/// How long a connection over TCP may take for its first byte and, with TLS, for its handshake: a few round trips of the
/// slowest network.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Connections that may be that far at a time. Beyond that, the oldest one ends, so that peers that begin nothing keep
/// nobody out.
pub const HANDSHAKES_MAX: usize = 1024;

/// The file of a token: one line.
pub const TOKEN_FILE_BYTES_MAX: u64 = 4 << 10;

/// A certificate or a key in a file that a user names.
pub const CERTIFICATE_BYTES_MAX: u64 = MIB as u64;
