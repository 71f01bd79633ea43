//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use distwasm_process::token_flags::TokenFlags;
use distwasm_transport::address::Address;

/// Measures the whole system, and the references that it is compared with.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub struct Options {
    /// What to measure.
    #[command(flatten)]
    pub run: Run,
    /// A part of a measurement, as a process of its own.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Run this case only; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub case: Vec<crate::cases::Name>,
    /// How often each contestant runs
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub runs: usize,
    /// Folder for inputs and outputs [default: /dev/shm if it exists, else the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Multiplies the number of units, for a quick look
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub scale: f64,
    /// Folder for the results
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    pub results: PathBuf,
    /// Only print the results
    #[arg(long)]
    pub no_results: bool,
    /// Peasants, and threads of the loops [default: the processors that this process may use]
    #[arg(long, value_name = "N")]
    pub cpus: Option<usize>,
    /// Before each run, wait up to this many seconds until nothing else keeps the machine busy
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub calm: u64,
    /// How queens and dukes reach the king
    #[arg(long, value_enum, default_value_t)]
    pub wire: Wire,
    /// In the case `growth`, continue up to a million files
    #[arg(long)]
    pub long: bool,
}

/// What the bytes between king and peers go over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// The king's socket
    #[default]
    Socket,
    /// TCP on this machine, with TLS and a token
    Tls,
    /// TCP on this machine, in plaintext
    Plain,
}

/// The processes of a measurement.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads the inputs, calls the guest in this process on several threads, and writes the outputs
    #[command(hide = true)]
    Loop(Loop),
    /// Reads one input, calls the guest in this process, and writes the output
    #[command(hide = true)]
    One(One),
    /// Dukes that answer without peasants
    #[command(hide = true)]
    EchoDuke(EchoDuke),
    /// Peers that flood a king
    #[command(hide = true)]
    Flood(Flood),
}

/// How a loop answers its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// By one instance of the guest for each thread
    Kept,
    /// By a new instance of the guest for each input
    Fresh,
    /// By one instance of the guest for each thread, which reads and writes the files itself
    Tight,
    /// Without WebAssembly
    Native,
}

/// The task of a loop without WebAssembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Sums, as `examples/summer` does
    Sum,
    /// Upper case, as `tests/guests/upper.wat` does
    Upper,
    /// Searches for hashes, as `examples/hash` does
    Hash,
    /// Echo, as `bench/guests/trap.wat` does
    Echo,
}

/// A loop in one process.
#[derive(Args, Debug)]
pub struct Loop {
    /// What answers the inputs
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// How many threads share the inputs
    #[arg(long)]
    pub threads: usize,
    /// The guest, compiled by `peasant compile`
    #[arg(long, required_unless_present = "task")]
    pub compiled: Option<PathBuf>,
    /// With `--kind native`: the task
    #[arg(long, value_enum)]
    pub task: Option<Task>,
    /// Folder of inputs
    #[arg(long)]
    pub input: PathBuf,
    /// Folder of outputs
    #[arg(long)]
    pub output: PathBuf,
}

/// One input.
#[derive(Args, Debug)]
pub struct One {
    /// The guest, compiled by `peasant compile`
    #[arg(long)]
    pub compiled: PathBuf,
    /// The input
    pub input: PathBuf,
    /// The output
    pub output: PathBuf,
}

/// Simulated dukes in one process.
#[derive(Args, Debug)]
pub struct EchoDuke {
    /// The king's address
    #[arg(long, value_name = "HOST:PORT")]
    pub king_address: Address,
    /// How the king lets them in
    #[command(flatten)]
    pub token: TokenFlags,
    /// How many dukes
    #[arg(long, default_value_t = 1)]
    pub dukes: usize,
    /// Slots of each
    #[arg(long, default_value_t = 64)]
    pub cpus: u32,
    /// How long a unit takes; 0 to answer at once
    #[arg(long, default_value_t = 0)]
    pub unit_us: u64,
}

/// What a king is flooded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FloodKind {
    /// Nothing: one processor is kept busy
    Busy,
    /// Connections that say nothing
    Connections,
    /// Long programs whose ends never come
    Programs,
    /// Inputs that no duke takes
    Inputs,
    /// Inputs in pieces of one byte
    Pieces,
    /// Dukes that join, ask for what they may not have, and leave
    Dukes,
}

/// Peers that flood a king.
#[derive(Args, Debug)]
pub struct Flood {
    /// The king's address
    #[arg(long, value_name = "HOST:PORT")]
    pub king_address: Address,
    /// How the king lets them in
    #[command(flatten)]
    pub token: TokenFlags,
    /// With what
    #[arg(long, value_enum)]
    pub kind: FloodKind,
}
