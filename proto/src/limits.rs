//! Every limit of the system, each with its reason.
//!
//! A limit that a user may change is the default of a flag; the flag's documentation says so.

mod access;
mod engine;
mod handover;
mod king;
mod links;
mod queen;
mod store;
mod streamed;
mod supplies;
mod unit_files;
mod wires;

use std::time::Duration;

pub use access::{
    BEARER_BYTES_MAX, TOKEN_CLOCK_SKEW, TOKEN_LIFE_MAX, TOKEN_PROJECTS_MAX, TOKENS_BYTES_MAX, TOKENS_LOOK_EVERY,
    TOKENS_LOOK_PAUSE, TOKENS_MAX,
};
pub use engine::*;
pub use handover::*;
pub use king::*;
pub use links::*;
pub use queen::*;
pub use store::*;
pub use streamed::*;
pub use supplies::{
    BLOBS_AHEAD_MAX, CACHE_BYTES_MAX, CACHE_ENTRIES_MAX, COMPILE_ALONE_SLOTS_MAX, COMPILE_DATA_BYTES_MAX,
    COMPILE_DATA_BYTES_MIN, COMPILE_NICENESS, COMPILE_PATIENCE_FACTOR, COMPILE_RAM_DIVISOR, COMPILE_WITHIN,
};
pub use unit_files::*;
pub use wires::{
    CERTIFICATE_BYTES_MAX, HANDSHAKE_WITHIN, HANDSHAKES_MAX, LOCK_TRIES, SOCKET_PATH_BYTES_MAX, TOKEN_FILE_BYTES_MAX,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

// ---- Guests ---------------------------------------------------------------------------------------------------------

/// The longest input or result. The pipe's header has 31 bits for a length.
pub const UNIT_BYTES_MAX: u64 = crate::pipe::BODY_BYTES_MAX as u64;

/// The largest program. The largest seen in practice, a Python interpreter with its library, has 40 MiB.
pub const PROGRAM_BYTES_MAX: u64 = 256 << 20;

/// The most that one memory of a 32-bit module can have.
pub const MODULE_MEMORY_BYTES_MAX: u64 = 4 << 30;

/// Entries in a guest's tables: enough for a module with a hundred thousand functions; they take 8 MiB of the host.
pub const GUEST_TABLE_ELEMENTS_MAX: usize = MIB;

/// Bytes that are kept of a guest's stderr for one unit: this many of its start, and as many of its end.
pub const STDERR_HALF_BYTES: usize = 32 * KIB;

/// All bytes that are kept of a guest's stderr for one unit, with room for the line that says how much was left out.
pub const STDERR_BYTES_MAX: usize = 2 * STDERR_HALF_BYTES + 128;

/// The message of a failure: a sentence, or a sentence and a backtrace.
pub const FAILURE_MESSAGE_BYTES_MAX: usize = 16 * KIB;

/// A failure on the pipe with its header, its kind and its message's length.
pub const FAILURE_FRAME_BYTES_MAX: usize = 16 + FAILURE_MESSAGE_BYTES_MAX + STDOUT_KEPT_BYTES + STDERR_BYTES_MAX;

/// Arguments of a guest, counted with one byte between them. A Linux process gets 2 MiB; no guest needs that many.
pub const GUEST_ARGS_BYTES_MAX: usize = 128 * KIB;

/// Arguments that a peasant is handed in a file: those of its guest, its environment, and a few flags.
pub const HANDED_ARGS_BYTES_MAX: usize = GUEST_ARGS_BYTES_MAX + GUEST_ENV_BYTES_MAX + 64 * KIB;

/// The environment of a guest, counted as it goes to a peasant: one argument per variable, with `--env=` before it. One
/// argument of a Linux process may have 128 KiB.
pub const GUEST_ENV_BYTES_MAX: usize = 128 * KIB;

/// The name of a unit: the longest path that Linux opens.
pub const UNIT_NAME_BYTES_MAX: usize = 4 * KIB;

/// A path on a machine, with the zero byte at its end: the longest that Linux takes.
pub const PATH_BYTES_MAX: usize = 4 * KIB;

/// The description of a unit on the pipe: which of its files are handed over, its number, that of the attempt, its name.
pub const UNIT_DESCRIPTION_BYTES_MAX: u64 = 9 + 12 + UNIT_NAME_BYTES_MAX as u64;

/// All files of all directories that a job shares with its guests, packed. The king holds them as long as the job.
pub const SHARES_BYTES_MAX: u64 = 256 << 20;

/// Directories that a job shares with its guests.
pub const SHARES_MAX: usize = 64;

/// Files and folders in all directories that a job shares: each takes an inode of every duke's disk.
pub const SHARES_ENTRIES_MAX: usize = 100_000;

/// What all directories that a job shares may take of a duke's disk: as many files as there may be, and some larger ones.
pub const SHARES_DISK_BYTES_MAX: u64 = 512 << 20;

/// The unit in which common file systems give space to files. A folder takes at least one, too.
pub const DISK_BLOCK_BYTES: u64 = 4 << 10;

/// The path of a file or folder in a shared directory: what Linux opens, with room for the duke's own folder.
pub const SHARE_PATH_BYTES_MAX: usize = 3 * KIB;

/// Deaths of a peasant under one unit before the unit is given up as the cause.
pub const KILLS_MAX: u32 = 3;

// ---- Pipes ----------------------------------------------------------------------------------------------------------

/// Answers that a peasant gathers before it writes them: one pipe buffer of Linux.
pub const ANSWERS_BYTES: usize = 64 * KIB;

/// How long a peasant may hold finished answers back while more inputs are already in its pipe.
pub const ANSWERS_HELD: Duration = Duration::from_millis(1);

/// How long it may hold finished answers back while the next input takes long.
pub const ANSWERS_WATCHED: Duration = Duration::from_millis(20);

// ---- Messages -------------------------------------------------------------------------------------------------------

/// A gRPC message is full when its words have this many bytes: large enough that the fixed cost of a message is lost,
/// small enough that a lone word behind it waits about a millisecond on a slow network.
pub const MESSAGE_FILL_BYTES: usize = MIB;

/// A part of a payload in one word: it lies in one HTTP/2 frame, and so arrives as one piece of memory.
pub const PIECE_BYTES: usize = FRAME_BYTES as usize;

/// Data of at least this size is sent without a copy, with a system call of its own; shorter data is copied into the
/// message's buffer, which costs less.
pub const CHAINED_BYTES_MIN: usize = 16 * KIB;

/// Words in one gRPC message, so that the reader's work on one message stays short.
pub const MESSAGE_WORDS: usize = 4096;

/// The largest gRPC message that is decoded. The word that fills a message may go over [`MESSAGE_FILL_BYTES`] by as
/// much again.
pub const MESSAGE_BYTES_MAX: usize = 4 * MIB;

/// Words that may wait for a peer, of those that no window counts: many times what gathers while a link is silent for as
/// long as it may be. A peer that lets more gather does not read, and its link ends.
pub const UNCOUNTED_BYTES_MAX: usize = 8 * MIB;

/// Chunks of a message up to this size are copied together as they arrive: keeping one as it is costs 32 bytes and more.
pub const COALESCED_BYTES_MAX: usize = 4 * KIB;

/// A payload up to this size is copied out of the message that it came in, which may be a hundred times larger.
pub const COPIED_BYTES_MAX: usize = 64 * KIB;

/// A payload up to this size is copied into a block that it shares with others.
pub const SHELVED_BYTES_MAX: usize = KIB;

/// The size of such a block: as long as one payload in it is kept, all of it is.
pub const SHELF_BYTES: usize = 16 * KIB;

/// HTTP/2 flow control: bytes in transit on one stream. Larger than bandwidth × delay of a 10 Gbit/s network.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// HTTP/2 flow control: bytes in transit on one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The largest HTTP/2 frame: fewer, larger frames are 25 to 50 % faster than the default of 16 KiB.
pub const FRAME_BYTES: u32 = 256 << 10;

/// How long a silent link may stay silent before HTTP/2 asks whether the peer is there.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// How long the peer may take to answer that before the link counts as lost.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer may take for its first word.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How long a duke may take to name all leases that it has kept: as many as it may have, over a slow link.
pub const INTRODUCTION_WITHIN: Duration = Duration::from_secs(60);

/// How long a queen may take to open its job: to send the largest program and the largest shared directories, at 8
/// megabits a second.
pub const OPENING_WITHIN: Duration = Duration::from_secs(600);

/// How long one attempt to connect may take.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The first bound of the waits between attempts to connect.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The largest wait between attempts to connect.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The largest such wait of a peer whose link broke and that may come back: other processes wait for it.
pub const RETURN_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long a peer whose link broke may take to come back with what it has: a switch or a king that starts again takes
/// less. The default of `--grace`.
pub const GRACE: Duration = Duration::from_secs(30);

/// Labels of a duke, and the characters of one key or value.
pub const LABELS_MAX: usize = 64;
/// Characters of a name: a project, a host, a label's key or value.
pub const NAME_BYTES_MAX: usize = 255;

/// Slots of one duke: four times the cores of the largest machines of today.
pub const DUKE_CPUS_MAX: u32 = 4096;

// ---- Every process --------------------------------------------------------------------------------------------------

/// Descriptors of one process: ten times what a king with all its dukes and queens needs.
pub const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Threads of a runtime that handle events (more do not make one reactor faster), and for short work that blocks.
pub const WORKER_THREADS_MAX: usize = 16;
#[expect(missing_docs, reason = "described with the limit above")]
pub const BLOCKING_THREADS_MAX: usize = 16;

/// Bytes that may wait to be written to stderr.
pub const STDERR_WAITING_BYTES: usize = 4 * MIB;
/// How long a process that is about to end waits for a stderr that takes nothing, and how often if it takes something.
pub const STDERR_PATIENCE: Duration = Duration::from_secs(2);
#[expect(missing_docs, reason = "described with the limit above")]
pub const STDERR_FLUSHES_MAX: u32 = 15;
/// The pause before a stderr that must not block is tried again.
pub const STDERR_PAUSE: Duration = Duration::from_millis(20);
/// Open descriptors where they cannot be counted: stdin, stdout, stderr, and some more.
pub const OPEN_DESCRIPTORS_ASSUMED: u64 = 16;
/// A log line that repeats is not written again for this long; each time the pause doubles, up to the next limit.
pub const REPEATS_PAUSE_FIRST: Duration = Duration::from_secs(5);
#[expect(missing_docs, reason = "described with the limit above")]
pub const REPEATS_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Log lines whose last time is remembered.
pub const REPEATS_TOLD_APART: usize = 256;

// ---- King -----------------------------------------------------------------------------------------------------------

/// Jobs at a time. Each may hold two windows of bytes.
pub const JOBS_MAX: usize = 1024;

/// Dukes at a time.
pub const DUKES_MAX: usize = 10_000;

/// Jobs and dukes of one address at a time. A login node may have many queens, and the dukes of a cluster may be behind
/// one address; but no address takes all of a king. The king's own machine is exempt: all its peers have one address.
pub const PEER_JOBS_MAX: usize = JOBS_MAX / 2;
#[expect(missing_docs, reason = "described with the limit above")]
pub const PEER_DUKES_MAX: usize = DUKES_MAX / 2;

/// Units of a job that may be without a verdict at a time: enough for a thousand slots with 64 units each.
pub const WINDOW_UNITS: u32 = 65_536;

/// Bytes of inputs of a job that the king may hold. A single larger input is held alone.
pub const WINDOW_BYTES: u64 = 64 << 20;

/// Bytes of results of a job that the king may hold. A single larger result is held alone.
pub const RESULTS_BYTES: u64 = 64 << 20;

/// How long a result may be in transit in any case, besides a few times the time of others of its size. Then it is
/// overdue: a job without room does not count it with its results, and its unit may be tried elsewhere.
pub const RESULT_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of overdue results of a job that may be in transit. A single larger one may be, alone.
pub const OVERDUE_BYTES: u64 = 2 * RESULTS_BYTES;

/// How long a mebibyte of results may take before any has arrived: the time of a link of 80 megabits a second.
pub const MEBIBYTE_WITHIN: Duration = Duration::from_millis(100);

/// How often the usable slots of a job without room for results are counted: a disk that pauses for less than this
/// costs the job no slots.
pub const FULL_LOOK: Duration = Duration::from_secs(1);

/// A result up to this size comes unasked, at most one for each attempt that runs. A larger one is offered, and
/// fetched when there is room for it.
pub const RESULT_UNASKED_BYTES_MAX: u64 = 16 << 10;

/// Bytes of inputs at one duke for one job and slot, beyond the two units that each slot may always have.
pub const SLOT_BYTES: u64 = MIB as u64;

/// The work that a slot should have queued: enough to hide any link's latency.
pub const SLOT_QUEUE: Duration = Duration::from_millis(100);

/// Units that a slot may have queued, however short they are.
pub const SLOT_UNITS_MAX: u32 = 1024;

/// Units that a slot has queued, however long they are: one that runs, and the next.
pub const SLOT_UNITS_MIN: u32 = 2;

/// How long a slot serves a job before it may be asked back for a project that has less.
pub const SLOT_TENURE: Duration = Duration::from_secs(1);

/// The largest weight of a job: one slot in a thousand is as little as anybody could mean.
pub const WEIGHT_MAX: u32 = 1000;

/// The highest priority of a job; the lowest is as far below 0.
pub const PRIORITY_MAX: i32 = 100;

/// Projects with this many slots do not take turns with a slot that cannot be divided: it is less than 5 % of what they
/// have, and each turn costs a peasant.
pub const TURNS_BELOW_SLOTS: u32 = 20;

/// How far a project may fall behind others, in terms of [`SLOT_TENURE`] for the smallest weight: taking turns needs
/// one or two, and a project that got no slots for a long time must not get them all for as long afterwards.
pub const CREDIT_TENURES: u32 = 4;

/// How long a duke that could not start peasants for a job is left out of it.
pub const BROKEN_SLOTS_REST: Duration = Duration::from_secs(3);

/// How long a new king keeps units that a queen sends again from other dukes, if fewer dukes have come back than there
/// were: twice the longest wait between their retries, and time for the rest.
pub const DUKES_AWAITED: Duration = Duration::from_secs(3);

/// How often a job that has nothing waiting is searched for stragglers.
pub const STRAGGLER_LOOK: Duration = Duration::from_millis(100);

/// A unit straggles when it has taken this many times as long as finished units, and the patience below.
pub const STRAGGLER_FACTOR: u32 = 4;

/// How long a unit may take in any case after it was handed to its duke: its time in transit, and in the queue.
pub const STRAGGLER_PATIENCE: Duration = Duration::from_millis(500);

/// How long a duke or a queen may be cut off before others benefit: what the duke runs is tried elsewhere, and slots of
/// the queen's job serve other jobs.
pub const AWAY_PATIENCE: Duration = Duration::from_secs(2);

/// Units of one job: more than anybody can run in a lifetime, and sums of their numbers do not overflow.
pub const UNITS_MAX: u64 = 1 << 48;

/// Memory of one duke: more than any machine has, and sums do not overflow.
pub const DUKE_RAM_BYTES_MAX: u64 = 1 << 48;

/// Attempts that a duke that comes back names in one word, or that it may forget, so that a word fits a message.
pub const HELD_ATTEMPTS_NAMED: usize = 4096;

/// Attempts that a duke may bring back: more than any duke has.
pub const HELD_ATTEMPTS_MAX: usize = 1 << 20;

/// Blobs that dukes wait for whose queens have not come back: a few for each job.
pub const WANTS_MAX: usize = 1 << 16;

/// Large results that a duke may have offered at a time: one for each attempt that it may have, and more than any has.
/// Beyond that the oldest offers count as forgotten.
pub const OFFERS_MAX: usize = 1 << 20;

/// How long a king that cannot accept a connection waits before it tries again; the pause doubles up to the next limit,
/// which is the longest that a queen or a duke waits once there is room again.
pub const ACCEPT_PAUSE_FIRST: Duration = Duration::from_millis(10);
#[expect(missing_docs, reason = "described with the limit above")]
pub const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a connection may stay open without a request, after its first one. For that, it has [`HELLO_WITHIN`].
pub const IDLE_WITHIN: Duration = Duration::from_secs(60);

/// Streams of one connection: a duke or a queen has one, and a monitor a few. Each may hold a message that has not come
/// whole.
pub const STREAMS_MAX: u32 = 16;

/// Connections to the HTTP port: monitors ask once in some seconds, and each connection ends with its answer.
pub const HTTP_CONNECTIONS_MAX: usize = 32;

/// Descriptors that a king keeps for itself when peers take all others.
pub const DESCRIPTORS_KEPT: usize = 16;

/// A unit that runs for this long is worth naming to people who wait for its job. The next limits: how often such units
/// are looked for, and among how many attempts, the oldest first.
pub const LONG_UNIT: Duration = Duration::from_secs(2);
#[expect(missing_docs, reason = "described with the limit above")]
pub const LONGEST_LOOK_EVERY: Duration = Duration::from_secs(1);
#[expect(missing_docs, reason = "described with the limit above")]
pub const LONGEST_ATTEMPTS_MAX: usize = 10_000;

/// Events that may wait for a reactor. If the queue is full, connections are not read (back-pressure).
pub const REACTOR_QUEUE: usize = 256;

/// Events that a reactor handles as one batch.
pub const REACTOR_BATCH: usize = 64;

/// How long an ending king waits for the streams to close.
pub const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

// ---- Peasants -------------------------------------------------------------------------------------------------------

/// Linear memory of a guest by default: as much as a program run by hand may need.
pub const GUEST_MEMORY_BYTES: u64 = 1 << 30;

/// Bytes that a peasant reads at once from its duke: several pipe buffers of Linux, since a duke may enlarge its pipes.
pub const PEASANT_READ_BYTES: usize = 256 * KIB;

/// Buffers that grew larger than this for a unit are freed after it, so that one large unit does not take memory
/// forever. Smaller ones are kept, because allocating them for each unit costs page faults.
pub const PEASANT_BUFFER_KEPT_BYTES: usize = 4 * MIB;

/// Linear memory that a pooled slot clears by writing zeroes instead of giving it back to the system: as much as
/// typical guests touch. Giving back and faulting in again costs more than clearing.
pub const POOL_RESIDENT_BYTES: usize = 2 * MIB;

/// With swap, that memory: a swapped-out page may escape the clearing scan, so the scan is left out and less is kept.
pub const POOL_RESIDENT_BYTES_WITH_SWAP: usize = 64 * KIB;

/// The bookkeeping of one instance in the pool: functions, globals, imports. A Python interpreter needs 1 MiB.
pub const POOL_INSTANCE_BYTES_MAX: usize = 64 * MIB;

/// Core modules in one component: those that compilers make have fewer than ten.
pub const COMPONENT_CORE_INSTANCES_MAX: u32 = 1000;

/// Bytes that a guest may write to a stream at once through WASI 0.2, which copies them.
pub const GUEST_WRITE_BYTES: usize = MIB;

/// Bytes that a component may hand to its host in one call, unless its answer may be longer: the engine's default.
pub const HOSTCALL_BYTES_MIN: usize = 128 * MIB;

/// How long `check` waits for a program to be initialised and to answer.
pub const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// Walls that a duke may name: several times those that there are, for newer dukes.
pub const WALLS_MAX: usize = 64;

/// How many files of an answer that is a folder `check` lists.
pub const ENTRIES_SHOWN: usize = 40;

/// How much of an answer `check` shows.
pub const ANSWER_SHOWN_BYTES: usize = 4 * KIB;

/// Names of missing imports that are listed before "and N more".
pub const MISSING_IMPORTS_NAMED: usize = 10;

// ---- Duke -----------------------------------------------------------------------------------------------------------

/// The work that a peasant should have in its pipe: enough to hide the wake-up of a process, little enough that a unit
/// does not wait long behind others while another peasant is idle.
pub const PIPE_QUEUE: Duration = Duration::from_millis(5);

/// Units behind one that takes this long are given to an idle peasant.
pub const RESCUE_AFTER: Duration = Duration::from_millis(100);

/// Units in the pipe of a peasant, however short they are.
pub const PIPE_UNITS_MAX: usize = 256;

/// Bytes of inputs in the pipe of a peasant, beyond the one unit that runs and the next.
pub const PIPE_BYTES: u64 = 256 << 10;

/// Bytes that a pipe to or from a peasant may hold: the most that Linux lets every user have.
pub const PIPE_BUFFER_BYTES: usize = MIB;

/// Inputs up to this size are copied together before they are written into a pipe; longer ones are written without a
/// copy.
pub const GATHERED_BYTES_MAX: usize = 4 * KIB;

/// The buffer of a thread for reads that would go to an address to which the kernel copies slowly: it should stay in the
/// second cache of a processor.
pub const ALIGNED_BYTES: usize = 128 * KIB;

/// Smaller reads go to any address: the slow copy costs less than a microsecond.
pub const ALIGNED_FROM_BYTES: usize = 4 * KIB;

/// How much of a pipe is read at once.
pub const READ_BYTES: usize = 64 * KIB;

/// How much of a large result is read at once; also the size of its chunks.
pub const CHUNK_BYTES: usize = 256 * KIB;

/// Bytes of large results of one job that a duke may hold until the king fetches them. A single larger result is held
/// alone.
pub const HELD_BYTES: u32 = 64 << 20;

/// How long a peasant whose slot was asked back may wait for room for its answer, before its unit is given back: the
/// slot is for a job whose queen takes results.
pub const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// How often a duke looks at its clock while a unit may take too long.
pub const PULSE: Duration = Duration::from_millis(250);

/// If this much has passed between two of these looks, the duke stood still, and that time does not count for the unit.
pub const STANDSTILL: Duration = Duration::from_secs(1);

/// How long a peasant may take to load and initialise its program, unless the job's timeout is longer.
pub const START_WITHIN: Duration = Duration::from_secs(60);

/// Peasants that may end before they are ready, one after the other, before a duke gives up on a job for a while.
pub const STARTS_FAILED_MAX: u32 = 3;

/// How often a compiled program may turn out to be unusable before its duke gives up on the job for a while.
pub const SPOILED_MAX: u32 = 2;

/// How often in a row the only duke (local mode) may give up like that before its job has failed.
pub const STARTS_GIVEN_UP_MAX: u32 = 3;

/// Bytes that are kept of the stderr of a peasant itself: it says a sentence before it ends, if anything.
pub const PEASANT_STDERR_BYTES_MAX: usize = 4 * KIB;

/// Descriptors that a duke needs besides its peasants', in local mode with a king and a queen in the same process.
pub const DUKE_DESCRIPTORS: u64 = 48;

/// Threads of a peasant, and its memory where that of the machine is unknown.
pub const PEASANT_THREADS: u64 = 2;
#[expect(missing_docs, reason = "described with the limit above")]
pub const UNKNOWN_MEMORY_SLOT_BYTES: u64 = 256 << 20;

/// Threads and processes that a duke needs besides its peasants: more threads of its own, and those of a compiler.
pub const DUKE_THREADS: u64 = 32;

/// Dukes on one machine that a king can tell from earlier ones.
pub const SEATS_MAX: usize = 256;
