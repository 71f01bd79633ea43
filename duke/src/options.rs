//! The duke's command line: the flags as typed, and the settings that follow from them.

use std::{collections::BTreeMap, env, path::PathBuf, time::Duration};

use clap::Parser;
use distwasm_process::{flags, logging::LogFormat, token_flags::TokenFlags, version::version};
use distwasm_proto::{
    limits::{DUKE_CPUS_MAX, GRACE, NAME_BYTES_MAX},
    text::is_name,
};
use distwasm_transport::{
    address::Address,
    credentials::{Credentials, CredentialsError},
    link::KingAddress,
};

use tracing::info;

use crate::{Settings, allowed::AllowedDirs, cache::CompileLimits, jail::RequiredJail, machine};

/// Offers this machine's processors to a distwasm king, and runs peasants for it.
///
/// May be started before the king; it keeps trying. On Ctrl-C, SIGTERM or SIGHUP it takes no new units, and ends when
/// its running units are done. A second one ends it at once.
#[derive(Debug, Parser)]
#[command(name = "duke", version = version())]
pub struct Options {
    /// Where the king is
    #[arg(short, long, value_name = "HOST:PORT", env = "DISTWASM_KING_ADDRESS")]
    pub king_address: Address,

    /// How the king lets it in.
    #[command(flatten)]
    pub token: TokenFlags,

    /// The name under which this machine appears [default: this machine's name]
    #[arg(long, value_name = "NAME", env = "DISTWASM_HOSTNAME", value_parser = parse_hostname)]
    pub hostname: Option<String>,

    /// Peasants to run at a time [default: the processors that this process may use]
    #[arg(short = 'j', long, visible_alias = "jobs", value_name = "N", env = "DISTWASM_NUM_CPUS", value_parser = flags::whole_number(1..=DUKE_CPUS_MAX))]
    pub num_cpus: Option<u32>,

    /// Memory for all guests together, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576 bytes) [default: half
    /// of this machine's]
    #[arg(long, value_name = "SIZE", env = "DISTWASM_RAM_LIMIT", value_parser = flags::positive_megabytes)]
    pub ram_limit: Option<u64>,

    /// A label of this machine, such as zone=eu; may be given several times
    #[arg(long = "label", value_name = "K=V", env = "DISTWASM_LABELS", value_delimiter = ',', value_parser = parse_label)]
    pub labels: Vec<(String, String)>,

    /// The peasant program [default: `peasant` beside this program, else in PATH]
    #[arg(long, value_name = "PATH", env = "DISTWASM_PEASANT")]
    pub peasant: Option<PathBuf>,

    /// Folder for compiled programs [default: distwasm in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "DISTWASM_CACHE")]
    pub cache: Option<PathBuf>,

    /// A folder in which jobs may read inputs and write results (`queen --shared`), with all that is beneath it; may be given
    /// several times [default: none]
    #[arg(long = "allow-dir", value_name = "DIR", env = "DISTWASM_ALLOW_DIR")]
    pub allow_dirs: Vec<PathBuf>,

    /// Programs to compile at a time [default: 1 for up to 4 peasants, else 2]
    #[arg(long, value_name = "N", env = "DISTWASM_COMPILE_PARALLEL", value_parser = flags::whole_number(1..=DUKE_CPUS_MAX))]
    pub compile_parallel: Option<u32>,

    /// Processor time for compiling one program, such as 300s or 20min; it may take 10 times as long on a busy machine
    #[arg(long, value_name = "DURATION", default_value = "300s", env = "DISTWASM_COMPILE_TIMEOUT", value_parser = flags::positive_duration)]
    pub compile_timeout: Duration,

    /// Graceful shutdown: how long running units may take to end, such as 60s or 10min; later ones run again elsewhere
    #[arg(long, value_name = "DURATION", default_value = "60s", env = "DISTWASM_DRAIN", value_parser = flags::duration)]
    pub drain: Duration,

    /// When the connection to the king breaks: how long to keep running units and finished results, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", env = "DISTWASM_GRACE", value_parser = flags::duration)]
    pub grace: Duration,

    /// Refuse to work unless the jail of peasants has these walls; `peasant jail` tells which hold here
    #[arg(long, value_name = "WALLS", value_enum, default_value_t, env = "DISTWASM_REQUIRE_JAIL")]
    pub require_jail: RequiredJail,

    /// Format of log lines; RUST_LOG selects which are written
    #[arg(long, value_enum, default_value_t, env = "DISTWASM_LOG_FORMAT")]
    pub log_format: LogFormat,
}

fn parse_hostname(text: &str) -> Result<String, String> {
    if text.is_empty() || !is_name(text) {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes, and no control characters"));
    }
    Ok(text.to_owned())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

impl Options {
    /// The settings, with defaults for flags that were not given.
    ///
    /// # Errors
    ///
    /// When there is no token, and there must be one.
    pub fn settings(self) -> Result<Settings, CredentialsError> {
        let TokenFlags { token_file, insecure } = &self.token;
        let credentials = Credentials::find(&self.king_address, token_file.as_deref(), *insecure)?;
        let king = KingAddress::Remote(self.king_address, credentials);
        let offer = Offer {
            cpus: self.num_cpus,
            ram_mb: self.ram_limit,
            compile_parallel: self.compile_parallel,
            compile_within: self.compile_timeout,
        };
        Ok(Settings {
            hostname: self.hostname.unwrap_or_else(machine::hostname),
            labels: self.labels.into_iter().collect(),
            grace: self.grace,
            required_jail: self.require_jail,
            allowed_dirs: AllowedDirs::Beneath(self.allow_dirs.into()),
            ..Settings::of_this_machine(king, offer, self.peasant, self.cache)
        })
    }
}

/// How much of a machine a user offers. `None` takes the default.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Peasants at a time.
    pub cpus: Option<u32>,
    /// Memory of all guests together, in MB.
    pub ram_mb: Option<u64>,
    /// Programs that are compiled at a time.
    pub compile_parallel: Option<u32>,
    /// Processor time for compiling one program.
    pub compile_within: Duration,
}

impl Settings {
    /// The settings of a duke on this machine, with defaults for what was not given.
    pub fn of_this_machine(
        king: KingAddress,
        offer: Offer,
        peasant: Option<PathBuf>,
        cache: Option<PathBuf>,
    ) -> Settings {
        let cpus = offer.cpus.unwrap_or_else(machine::cpus);
        let ram_bytes = offer.ram_mb.map(|mb| mb.saturating_mul(1 << 20));
        let ram_bytes = ram_bytes.unwrap_or_else(|| machine::guest_memory_bytes(cpus));
        Settings {
            king,
            hostname: machine::hostname(),
            cpus,
            ram_bytes,
            labels: BTreeMap::new(),
            peasant: peasant.unwrap_or_else(find_peasant),
            cache: cache.unwrap_or_else(cache_folder),
            grace: GRACE,
            required_jail: RequiredJail::None,
            allowed_dirs: AllowedDirs::Beneath([].into()),
            compile: CompileLimits::of_machine(cpus, ram_bytes, offer.compile_parallel, offer.compile_within),
        }
    }
}

/// `peasant` beside this program, else in PATH. It is looked up here because processes are started without an
/// environment. Returns the bare name if it is not found, for the error message.
pub fn find_peasant() -> PathBuf {
    let is_program = |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = beside.into_iter().chain(env::split_paths(&path));
    folders.find_map(|folder| Some(folder.join("peasant")).filter(is_program)).unwrap_or_else(|| "peasant".into())
}

/// The folder for compiled programs, unless another one is named.
pub fn cache_folder() -> PathBuf {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    if let Some(caches) = absolute("XDG_CACHE_HOME") {
        return caches.join("distwasm");
    }
    let temporary = env::temp_dir().join(format!("distwasm-cache-{}", rustix::process::geteuid().as_raw()));
    match absolute("HOME") {
        Some(home) if home.is_dir() => home.join(".cache/distwasm"),
        // System users often have a HOME that does not exist; it is not created.
        Some(home) => {
            let (home, cache) = (home.display(), temporary.display());
            info!(%home, %cache, "HOME is not a folder; compiled programs are kept elsewhere (--cache)");
            temporary
        }
        None => temporary,
    }
}
