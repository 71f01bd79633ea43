//! The duke: the supervisor of one machine. It keeps one baron for each peasant, compiles each program once, and works
//! for one king.
//!
//! [`run`] is the whole duke. The pure [`roster`] makes its decisions.

pub mod allowed;
pub mod border;
pub mod cache;
pub mod jail;
mod king_link;
mod local_hands;
pub mod machine;
pub mod options;
pub mod peasant;
pub mod places;
pub mod reactor;
mod rehearsal;
pub mod roster;
mod seat;
mod stored;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use distwasm_process::{clock::Clock, memory, randomness, shutdown::Stop};
use distwasm_proto::limits::TRANSFER_WINDOW_BYTES;
use distwasm_transport::link::KingAddress;
use thiserror::Error;
use tracing::{info, warn};

use allowed::AllowedDirs;
pub use cache::CacheError;
use cache::{Cache, CompileLimits};
use jail::{JailError, ProbeError, RequiredJail};
use king_link::KingLink;
use local_hands::LocalHands;
use peasant::Spawner;
use reactor::{Introduction, Reactor, ReactorSettings};
pub use rehearsal::{RehearsalError, rehearse};
use seat::Seat;

/// How a duke works: what it offers, and to which king.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the king is.
    pub king: KingAddress,
    /// The name under which the machine appears.
    pub hostname: String,
    /// Peasants at a time.
    pub cpus: u32,
    /// Memory of all guests together, in bytes.
    pub ram_bytes: u64,
    /// The machine's labels.
    pub labels: BTreeMap<String, String>,
    /// The peasant program.
    pub peasant: PathBuf,
    /// The folder for compiled programs and shared directories.
    pub cache: PathBuf,
    /// How long it keeps its work when the link to the king has broken.
    pub grace: Duration,
    /// The walls of the jail that must hold.
    pub required_jail: RequiredJail,
    /// The folders that jobs may name.
    pub allowed_dirs: AllowedDirs,
    /// What compilers may take.
    pub compile: CompileLimits,
}

/// Threads that a duke occupies for its whole life: the one that starts processes.
pub const BLOCKING_THREADS: usize = 1;

/// Why a duke cannot work.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DukeError {
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
    #[error("failed to use {} as a peasant (--peasant names another)", .path.display())]
    Peasant { path: PathBuf, source: ProbeError },
    #[error("failed to make up a secret")]
    Randomness(#[source] std::io::Error),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("no peasant can be started: {0}")]
    Hopeless(String),
    #[error("the king does not let this duke in: {0}")]
    Refused(String),
}

/// Works for the king until `stop` ends it, gracefully after the running units or at once. Waits for a king that cannot
/// be reached or goes away.
///
/// # Errors
///
/// When this machine cannot run peasants at all, or the king does not let this duke in.
pub async fn run(settings: Settings, stop: Stop) -> Result<(), DukeError> {
    if let Some(bytes) = memory::usable_bytes().filter(|bytes| settings.ram_bytes > *bytes) {
        let (offered_mb, machine_mb) = (settings.ram_bytes >> 20, bytes >> 20);
        warn!(offered_mb, machine_mb, "guests may take more memory than this machine has (--ram-limit)");
    }
    let spawner = Spawner::start(&settings.peasant).map_err(DukeError::Thread)?;
    let probed = jail::probe(&spawner).await;
    let jail = probed.map_err(|source| DukeError::Peasant { path: settings.peasant.clone(), source })?;
    // With a king in the same process this is the only duke, and no other takes its place.
    let is_alone = matches!(settings.king, KingAddress::Local(_));
    jail.check(settings.required_jail)?;
    jail.log(is_alone);
    let cpus = slots_that_fit(settings.cpus);
    let spawner = spawner.demanding(&jail.holds).with_files_of(machine::units_with_files(cpus));
    let cache = Cache::open(&settings.cache, jail.engine)?;
    let spawner = spawner.with_store(cache.clone());
    let seat = if is_alone { Seat::anywhere() } else { Seat::take(&settings.cache, &settings.hostname) };
    let seat = seat.map_err(DukeError::Randomness)?;
    let boot = randomness::bytes().map_err(DukeError::Randomness)?;
    let introduction = Introduction {
        hostname: settings.hostname,
        cpus,
        ram_bytes: settings.ram_bytes,
        labels: settings.labels,
        walls: jail.holds.iter().map(ToString::to_string).collect(),
        boot: u64::from_be_bytes(boot),
        seat: seat.secret,
    };
    info!(
        king = %settings.king,
        host = introduction.hostname,
        cpus = introduction.cpus,
        ram_mb = introduction.ram_bytes >> 20,
        peasant = %settings.peasant.display(),
        "the duke is ready"
    );
    let clock = Clock::start();
    let (hands, reports) = LocalHands::new(cache, spawner, settings.compile, settings.allowed_dirs);
    let (grace, parallel) = (settings.grace, settings.compile.parallel);
    let window_bytes = TRANSFER_WINDOW_BYTES;
    let reactor = Reactor::new(ReactorSettings { introduction, grace, parallel, is_alone, window_bytes }, hands);
    let link = KingLink::new(settings.king, clock);
    reactor::run(reactor, reports, link, clock, &stop).await?;
    info!("the duke has left");
    Ok(())
}

/// The number of slots to offer: no more than peasants can run.
fn slots_that_fit(wanted: u32) -> u32 {
    let (fit, bound) = machine::peasants_that_fit(wanted);
    // Offers one slot in any case: only trying shows whether a peasant can run at all.
    let slots = fit.max(1);
    if let Some(bound) = bound {
        warn!("offering {slots} of {wanted} slots: this process has no room for more peasants within {bound}");
    }
    slots
}
