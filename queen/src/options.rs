//! The options of a run: parsed from the command line, then checked once and turned into [`Prepared`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, builder::BoolishValueParser};
use distwasm_jobs::{
    Folders,
    job_note::JobNote,
    request::JobRequest,
    run_limits::{FailureLimit, RunLimits},
};
use distwasm_process::{flags, guest_flags::GuestFlags, logging::LogFormat, version::version};
use distwasm_proto::{
    limits::{DUKE_CPUS_MAX, NAME_BYTES_MAX},
    time::Time,
};
use distwasm_transport::address::Address;
use thiserror::Error;

use crate::{
    failures_file::{self, FailureFile, FailuresUnread, default_failures_path},
    guest_options::{self, GuestOptionsError},
    program::{ProgramError, project_of, read_program},
    scheduling_options::SchedulingOptions,
};

/// Runs one WebAssembly program over every file below a folder, and writes a folder of results.
///
/// Without --king-address everything happens on this machine. An input whose output exists is done: run the same
/// command again to resume.
///
/// Exit status: 0 all done, 1 some units failed, 2 the job could not run, or not to its end, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "queen", version = version(), after_help = "More to read: queen help kinds|outputs|failures")]
pub struct Options {
    /// The program: a WebAssembly module or component, binary or text
    #[arg(short, long, value_name = "PROGRAM", env = "DISTWASM_BINARY")]
    pub binary: PathBuf,

    /// The king to submit to [default: none; everything runs on this machine]
    #[arg(short, long, value_name = "HOST:PORT", env = "DISTWASM_KING_ADDRESS")]
    pub king_address: Option<Address>,

    /// Run on this machine, even if DISTWASM_KING_ADDRESS names a king
    #[arg(long, env = "DISTWASM_LOCAL", value_parser = BoolishValueParser::new())]
    pub local: bool,

    /// A label for the job; slots are shared fairly between projects [default: the program's name without extension]
    #[arg(short, long, value_name = "NAME", env = "DISTWASM_PROJECT")]
    pub project: Option<String>,

    /// Folder of inputs; every file below it is an input
    #[arg(short, long, value_name = "DIR", default_value = "input", env = "DISTWASM_INPUT")]
    pub input: PathBuf,

    /// Folder of outputs, which get the names of their inputs; created if missing
    #[arg(short, long, value_name = "DIR", default_value = "output", env = "DISTWASM_OUTPUT")]
    pub output: PathBuf,

    /// Memory that each slot must have, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576 bytes)
    #[arg(short, long, value_name = "SIZE", default_value_t = 0, env = "DISTWASM_MIN_RAM", value_parser = flags::megabytes)]
    pub min_ram: u64,

    /// Run at most one unit at a time on each machine, with all its memory
    #[arg(long, env = "DISTWASM_ONE_PER_MACHINE", value_parser = BoolishValueParser::new())]
    pub one_per_machine: bool,

    /// How this job is scheduled among others.
    #[command(flatten)]
    pub scheduling: SchedulingOptions,

    /// How long one unit may take, such as 30s or 5min [default: no limit]
    #[arg(long, value_name = "DURATION", env = "DISTWASM_TIMEOUT", value_parser = flags::positive_duration)]
    pub timeout: Option<Duration>,

    /// How often a failed unit is tried again
    #[arg(long, value_name = "N", default_value_t = 0, env = "DISTWASM_RETRIES", value_parser = flags::whole_number(0..=u32::MAX))]
    pub retries: u32,

    /// Stop the job when more than N units have failed, or more than P% of the finished ones, judged from the 100th
    /// finished unit on [default: never]
    #[arg(long, value_name = "N|P%", env = "DISTWASM_MAX_FAILURES")]
    pub max_failures: Option<FailureLimit>,

    /// How long the whole run may take, such as 30min or 8h; finished outputs are kept [default: no limit]
    #[arg(long, value_name = "DURATION", env = "DISTWASM_TIME_LIMIT", value_parser = flags::positive_duration)]
    pub time_limit: Option<Duration>,

    /// How long to try to reconnect to the job when the connection to the king breaks, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", env = "DISTWASM_GRACE", value_parser = flags::duration)]
    pub grace: Duration,

    /// Send only the inputs that are named in the failures file of an earlier run into this output folder
    #[arg(long, env = "DISTWASM_RETRY_FAILED", value_parser = BoolishValueParser::new())]
    pub retry_failed: bool,

    /// File of failures, one JSON object per line; must not be in the input folder [default: OUTPUT.failures.jsonl]
    #[arg(long, value_name = "FILE", env = "DISTWASM_FAILURES")]
    pub failures: Option<PathBuf>,

    /// The settings of the guest program
    #[command(flatten)]
    pub guest: GuestFlags,

    /// Call fsync for each output before it counts as done
    #[arg(long, env = "DISTWASM_SYNC", value_parser = BoolishValueParser::new())]
    pub sync: bool,

    /// Print a summary as JSON to stdout
    #[arg(long, env = "DISTWASM_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Print only errors and failures
    #[arg(short, long, env = "DISTWASM_QUIET", conflicts_with = "verbose", value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// Print more: each failure as it happens, and the logs of king and duke; give it twice for even more
    #[arg(short, long, action = clap::ArgAction::Count, env = "DISTWASM_VERBOSE")]
    pub verbose: u8,

    /// Without a king: peasants to run at a time [default: the processors that this process may use]
    #[arg(visible_short_alias = 'j', long, visible_alias = "jobs", value_name = "N", env = "DISTWASM_NUM_CPUS", value_parser = flags::whole_number(1..=DUKE_CPUS_MAX))]
    pub num_cpus: Option<u32>,

    /// Without a king: memory for all guests together, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576
    /// bytes) [default: half of this machine's memory]
    #[arg(long, value_name = "SIZE", env = "DISTWASM_RAM_LIMIT", value_parser = flags::positive_megabytes)]
    pub ram_limit: Option<u64>,

    /// Without a king: the peasant program [default: `peasant` beside this program, else in PATH]
    #[arg(long, value_name = "PATH", env = "DISTWASM_PEASANT")]
    pub peasant: Option<PathBuf>,

    /// Without a king: folder for compiled programs [default: distwasm in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "DISTWASM_CACHE")]
    pub cache: Option<PathBuf>,

    /// Flags that were typed and have no effect, with the reason.
    #[arg(skip)]
    pub idle_flags: Vec<String>,

    /// Format of log lines; RUST_LOG selects which lines are printed
    #[arg(long, value_enum, default_value_t, env = "DISTWASM_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// Why a run cannot begin.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum OptionsError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("failed to find the input folder {} (--input names another)", .path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("failed to read the input folder {}", .path.display())]
    InputHidden { path: PathBuf, source: io::Error },
    #[error("the input {} is not a folder", .path.display())]
    InputNoFolder { path: PathBuf },
    #[error("failed to use {} as the output folder (--output names another)", .path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("the output {} is not a folder (--output names another)", .path.display())]
    OutputNoFolder { path: PathBuf },
    #[error("the folders overlap: input {} and output {}; outputs would be taken for inputs", .input.display(), .output.display())]
    Overlap { input: PathBuf, output: PathBuf },
    #[error("another queen is writing to the output folder {}", .path.display())]
    OutputBusy { path: PathBuf },
    #[error("a project's name has 1 to {NAME_BYTES_MAX} bytes")]
    Project,
    #[error(
        "each slot must have {wanted_mb} MB (--min-ram), and this machine gives its guests {limit_mb} MB (--ram-limit)"
    )]
    MinRam { wanted_mb: u64, limit_mb: u64 },
    #[error(transparent)]
    Guest(#[from] GuestOptionsError),
    #[error("failed to read the failures of earlier runs (--retry-failed)")]
    Earlier(#[from] FailuresUnread),
    #[error("failed to open the file of failures {} (--failures)", .path.display())]
    Failures { path: PathBuf, source: io::Error },
    #[error("the file of failures {} (--failures) is in the input folder, and would be an input", .path.display())]
    FailuresAmongInputs { path: PathBuf },
    #[error("the file of failures {} (--failures) has the name of an output: that of the input {}", .path.display(), .input.display())]
    FailuresAmongOutputs { path: PathBuf, input: PathBuf },
}

/// Everything that a run needs, checked.
#[derive(Debug)]
pub struct Prepared {
    /// The job for the king.
    pub request: JobRequest,
    /// Where inputs and outputs are.
    pub folders: Folders,
    /// The failures of this run and of earlier ones.
    pub failures: FailureFile,
    /// The note about the job beside the output folder, if a king gets the job.
    pub note: Option<JobNote>,
    /// Open and locked for as long as the run lasts.
    pub _output_lock: fs::File,
}

impl Options {
    /// Checks everything that can be checked before the run starts, and creates the output folder.
    ///
    /// # Errors
    ///
    /// When the run cannot begin, with the reason.
    pub fn prepare(&self) -> Result<Prepared, OptionsError> {
        let program = read_program(&self.binary)?;
        let project = self.project.clone().unwrap_or_else(|| project_of(&self.binary));
        if project.is_empty() || project.len() > NAME_BYTES_MAX {
            return Err(OptionsError::Project);
        }
        let (guest, archives) = guest_options::prepare(&self.guest, &project)?;
        let input =
            fs::canonicalize(&self.input).map_err(|source| OptionsError::Input { path: self.input.clone(), source })?;
        if !input.is_dir() {
            return Err(OptionsError::InputNoFolder { path: self.input.clone() });
        }
        let hidden = |source| OptionsError::InputHidden { path: self.input.clone(), source };
        drop(fs::read_dir(&input).map_err(hidden)?);
        let (output, lock) = self.claim_output(&input)?;
        let failures = self.failures_path(&input, &output)?;
        let only = if self.retry_failed { Some(failures_file::names(&failures)?.into()) } else { None };
        let failures = FailureFile::open(failures, self.failures.as_ref().map(|_| output.as_path()));
        let key = fastrand::u64(..);
        let note = self.king_address.as_ref().map(|king| JobNote::new(&output, king.to_string(), key));
        let request = JobRequest {
            key,
            replaces: note.as_ref().and_then(JobNote::earlier),
            project,
            program,
            min_ram_bytes: self.min_ram.saturating_mul(1 << 20),
            one_per_machine: self.one_per_machine,
            scheduling: self.scheduling.scheduling(),
            timeout: self.timeout,
            retries: self.retries,
            guest,
            archives,
        };
        // A file that the user named must be usable. The default file is needed only once there is a failure.
        if let (Some(path), Some(error)) = (&self.failures, failures.error()) {
            return Err(OptionsError::Failures {
                path: path.clone(),
                source: io::Error::new(error.kind(), error.to_string()),
            });
        }
        let folders = Folders { input, output, sync: self.sync, only };
        Ok(Prepared { request, folders, failures, note, _output_lock: lock })
    }

    /// The path of the failures file.
    fn failures_path(&self, input: &Path, output: &Path) -> Result<PathBuf, OptionsError> {
        let Some(path) = &self.failures else { return Ok(default_failures_path(output)) };
        let cannot_open = |source| OptionsError::Failures { path: path.clone(), source };
        if path.is_symlink() && !path.exists() {
            return Err(cannot_open(io::Error::other("it is a link to nothing")));
        }
        let resolved = resolve(path).map_err(cannot_open)?;
        if resolved.starts_with(input) {
            return Err(OptionsError::FailuresAmongInputs { path: path.clone() });
        }
        match resolved.strip_prefix(output).map(|below| input.join(below)) {
            Ok(input) if input.symlink_metadata().is_ok() => {
                Err(OptionsError::FailuresAmongOutputs { path: path.clone(), input })
            }
            _ => Ok(resolved),
        }
    }

    /// The limits of the run; its time counts from zero of the run's clock.
    pub fn limits(&self) -> RunLimits {
        let ends_at = self.time_limit.map(|limit| Time::default().after(limit));
        RunLimits { failures: self.max_failures, ends_at }
    }

    fn claim_output(&self, input: &Path) -> Result<(PathBuf, fs::File), OptionsError> {
        let path = &self.output;
        let cannot_use = |source| OptionsError::Output { path: path.clone(), source };
        // Checked before the folder is created, so that an overlap leaves no new folder behind.
        let overlap = |output: &Path| {
            let overlaps = output.starts_with(input) || input.starts_with(output);
            let error = OptionsError::Overlap { input: self.input.clone(), output: path.clone() };
            if overlaps { Err(error) } else { Ok(()) }
        };
        overlap(&resolve(path).map_err(cannot_use)?)?;
        fs::create_dir_all(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => OptionsError::OutputNoFolder { path: path.clone() },
            _ => cannot_use(error),
        })?;
        let output = fs::canonicalize(path).map_err(cannot_use)?;
        overlap(&output)?;
        rustix::fs::access(&output, rustix::fs::Access::WRITE_OK).map_err(|errno| cannot_use(errno.into()))?;
        let lock = fs::File::open(&output).map_err(cannot_use)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OptionsError::OutputBusy { path: path.clone() }),
            // Some network file systems do not support locks.
            Err(fs::TryLockError::Error(error)) => {
                tracing::debug!(%error, "the output folder cannot be locked");
            }
        }
        Ok((output, lock))
    }
}

/// The path, with the links in its existing part resolved.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for ancestor in absolute.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(existing) => {
                let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
                return Ok(existing.components().chain(rest.components()).collect());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(absolute)
}
