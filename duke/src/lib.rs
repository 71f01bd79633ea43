//! The duke: the supervisor of one machine. He keeps one baron for each peasant, compiles each program once, and works
//! for one king.
//!
//! [`run`] is the whole duke. What he decides is decided by the pure [`roster`].

mod baron;
mod cache;
mod king_link;
pub mod machine;
pub mod options;
mod programs;
mod reactor;
pub mod roster;
mod shares;
mod spawn;
mod supplies;
mod work;

use std::{collections::BTreeMap, path::PathBuf};

use distwasm_proto::{backoff::Backoff, link::KingAddress, stop::Stop, time::Clock};
use thiserror::Error;
use tracing::{debug, info, warn};

use cache::Cache;
pub use cache::CacheError;
use king_link::{KingLink, LinkError, Machine};
pub use programs::FingerprintError;
use reactor::Household;
use spawn::Spawner;

/// What a duke offers, and to whom.
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
}

/// Why a duke could not start.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DukeError {
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
    #[error("failed to use {} as a peasant (--peasant names another)", .path.display())]
    Peasant { path: PathBuf, source: FingerprintError },
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Works for the king until `stop` says so: in peace, when what runs is done, or at once. A king that is not there, or
/// goes, is waited for.
///
/// # Errors
///
/// When this machine cannot run peasants at all.
pub async fn run(settings: Settings, stop: Stop) -> Result<(), DukeError> {
    let spawner = Spawner::start(&settings.peasant).map_err(DukeError::Thread)?;
    let engine = programs::fingerprint(&spawner)
        .await
        .map_err(|source| DukeError::Peasant { path: settings.peasant.clone(), source })?;
    let cache = Cache::open(&settings.cache, engine)?;
    let household = Household { clock: Clock::start(), cache, spawner };
    let machine = Machine {
        hostname: settings.hostname,
        cpus: settings.cpus,
        ram_bytes: settings.ram_bytes,
        labels: settings.labels,
    };
    info!(
        king = %settings.king,
        host = machine.hostname,
        cpus = machine.cpus,
        ram_mb = machine.ram_bytes >> 20,
        peasant = %settings.peasant.display(),
        "the duke is ready"
    );
    let mut backoff = Backoff::default();
    let mut told_no_king = false;
    // Without a link there is nothing to be finished in peace.
    let shutdown = stop.drains();
    while !shutdown.is_cancelled() {
        let opened = tokio::select! {
            opened = KingLink::open(&settings.king, &machine) => opened,
            () = shutdown.cancelled() => break,
        };
        let ending = match opened {
            Ok(link) => {
                info!(king = %settings.king, "serving the king");
                backoff.reset();
                told_no_king = false;
                reactor::work(household.clone(), link, &stop).await
            }
            Err(error) => Err(error),
        };
        match ending {
            Ok(()) => break,
            // The king of the same process ends at the same time; any other runs again elsewhere what was not done.
            Err(_) if shutdown.is_cancelled() => break,
            // A king who is not there yet is told of once.
            Err(error @ LinkError::Connect(_)) if told_no_king => debug!(king = %settings.king, %error, "no king yet"),
            Err(error) => {
                told_no_king = matches!(error, LinkError::Connect(_));
                warn!(king = %settings.king, %error, "no link to the king; trying again");
            }
        }
        let wait = backoff.next(fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => break,
        }
    }
    info!("the duke has left");
    Ok(())
}
