//! Files that a duke opens and hands to its peasants as descriptors.

use super::{KIB, MIB};

/// Descriptors in one message of a Unix socket: the most that Linux takes (`SCM_MAX_FD`).
pub const HANDED_DESCRIPTORS_MAX: usize = 253;

/// Units whose descriptors go in one message: the cost of a message is lost among them, and a peasant soon has the first.
/// With two descriptors for each unit they fit one message.
pub const HANDED_UNITS_MAX: usize = 16;

/// Units in the pipe of a peasant whose files its duke has open: four messages, so that the peasant has work while the
/// duke looks after the files of those that are answered. Files on their way count against `RLIMIT_NOFILE`, over all
/// processes of a user.
pub const REFERENCED_UNITS_MAX: usize = 64;

/// Descriptors of a duke for one such unit: its input, its output, and the folder of the output.
pub const REFERENCED_UNIT_DESCRIPTORS: u64 = 3;

/// Answers about files that a peasant gathers before it writes them: one message's worth, so that the duke goes on with
/// their files while the peasant has more to do.
pub const REFERENCED_ANSWERS_HELD: usize = HANDED_UNITS_MAX;

/// Inputs up to this size are read at once, and output is gathered up to this size. A guest that reads or writes as much
/// in one call has it without a copy.
pub const FILE_BUFFER_BYTES: usize = 64 * KIB;

/// Bytes of a file that a guest gets at once through WASI 0.2, which copies them.
pub const GUEST_READ_BYTES: usize = MIB;

/// Descriptors of a process in the jail: the files that its guest has open in shared directories, those that were handed
/// to it in one message, and a few of its own.
pub const JAIL_DESCRIPTORS_MAX: u64 = 1024;

/// Descriptors for which each process makes room before it has threads. To make room later, the kernel waits about 15
/// milliseconds each time.
pub const DESCRIPTORS_EXPECTED: u64 = 1024;

/// Descriptors of a peasant at its duke: three pipes, the process itself, a socket, and the files of one unit.
pub const PEASANT_DESCRIPTORS: u64 = 5 + REFERENCED_UNIT_DESCRIPTORS;

/// The longest output in a file, unless a queen wishes otherwise: a program that never ends writing does not fill the
/// disk, and few programs write more.
pub const FILE_OUTPUT_BYTES_MAX: u64 = 16 << 30;

/// Inputs of this size and more a queen without a king has its duke open. For smaller ones, opening and naming files at the
/// duke takes more time than the way of a few bytes through memory and a pipe.
pub const IN_PLACES_FROM_BYTES: u64 = 16 * KIB as u64;
