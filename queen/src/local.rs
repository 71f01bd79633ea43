//! A kingdom within the queen's process: a king and a duke that hand each other messages, and real peasants.

use std::time::Duration;

use distwasm_duke::{RehearsalError, Settings, allowed::AllowedDirs, options::Offer};
use distwasm_jobs::request::{JobRequest, Program};
use distwasm_king::Reign;
use distwasm_process::shutdown::Stop;
use distwasm_proto::{
    error_text::chain,
    failure::Failure,
    limits::{MODULE_MEMORY_BYTES_MAX, SHUTDOWN_WITHIN},
};
use distwasm_transport::link::{KingAddress, local_door};
use tokio::time::timeout;

use crate::{options::Options, prepare::PrepareError};

/// A king and a duke in this process.
pub struct Kingdom {
    /// The address of the king.
    pub address: KingAddress,
    /// How many units of the job run at a time.
    pub slots: u64,
    stop: Stop,
    members: tokio::task::JoinSet<Result<(), String>>,
}

/// The settings of a duke on this machine.
fn settings(options: &Options, address: KingAddress) -> Settings {
    let offer = Offer {
        cpus: options.num_cpus,
        ram_mb: options.ram_limit,
        // There is one job, and it has one program.
        compile_parallel: Some(1),
        compile_within: options.compile_timeout,
    };
    let (peasant, cache) = (options.peasant.clone(), options.cache.clone());
    let settings = Settings::of_this_machine(address, offer, peasant, cache);
    Settings { required_jail: options.require_jail, allowed_dirs: AllowedDirs::All, ..settings }
}

/// Whether the program of a job with nothing to do would run, as far as this machine can tell.
///
/// # Errors
///
/// When it would not run anywhere, with the reason.
pub async fn rehearse(options: &Options, request: &JobRequest) -> Result<(), Failure> {
    let (door, _) = local_door();
    let settings = settings(options, KingAddress::Local(door));
    let memory_bytes = match options.king_address {
        // The memory of the dukes' slots is not known here, and this machine may have less.
        Some(_) => request.min_ram_bytes.max(MODULE_MEMORY_BYTES_MAX),
        None => slot_bytes(&settings, request),
    };
    // A program that a king keeps was tried when it was pushed.
    let Program::Carried(program) = &request.program else { return Ok(()) };
    let (program, guest) = (program.clone(), &request.guest);
    let rehearsed = distwasm_duke::rehearse(&settings, program, guest, &request.archives, memory_bytes);
    match rehearsed.await {
        Ok(()) => Ok(()),
        Err(RehearsalError::Unfit(failure)) => Err(failure),
        Err(RehearsalError::Impossible(why)) => {
            // There was nothing to do, and this may be a machine without peasants.
            tracing::info!(why, "whether the program would run cannot be found out here");
            Ok(())
        }
    }
}

/// The memory of a slot of this machine, as the scheduler deals it out.
fn slot_bytes(settings: &Settings, request: &JobRequest) -> u64 {
    settings.ram_bytes / slots(settings, request)
}

/// Whether the job can run here at all: no other duke can join.
///
/// # Errors
///
/// When this machine does not give its guests the memory that a slot must have.
pub fn check_memory(options: &Options) -> Result<(), PrepareError> {
    let (door, _) = local_door();
    let (wanted_mb, limit_mb) = (options.min_ram, settings(options, KingAddress::Local(door)).ram_bytes >> 20);
    if wanted_mb > limit_mb { Err(PrepareError::MinRam { wanted_mb, limit_mb }) } else { Ok(()) }
}

/// The slots that this machine has for a job.
fn slots(settings: &Settings, request: &JobRequest) -> u64 {
    let by_ram = settings.ram_bytes.checked_div(request.min_ram_bytes).unwrap_or(u64::MAX);
    let slots = if request.one_per_machine { 1 } else { by_ram.min(u64::from(settings.cpus)) };
    slots.max(1)
}

impl Kingdom {
    /// Starts both. Nothing listens on the network.
    pub fn start(options: &Options, request: &JobRequest) -> Kingdom {
        let (door, visitors) = local_door();
        let address = KingAddress::Local(door);
        let settings = settings(options, address.clone());
        let most = request.scheduling.max_parallel.map_or(u64::MAX, u64::from);
        let slots = slots(&settings, request).min(most);
        // King and duke end without a grace time: the queen has everything by then.
        let stop = Stop::new(Duration::ZERO);
        let mut members = tokio::task::JoinSet::new();
        let king = distwasm_king::run_local(visitors, Reign::local(), stop.clone());
        members.spawn(async move {
            king.await;
            Ok(())
        });
        let duke = distwasm_duke::run(settings, stop.clone());
        members.spawn(async move { duke.await.map_err(|error| chain(&error)) });
        Kingdom { address, slots, stop, members }
    }

    /// Waits until the king or the duke ends, and returns the reason.
    pub async fn trouble(&mut self) -> String {
        match self.members.join_next().await {
            Some(Ok(Ok(()))) => "the kingdom of this process ended early".to_owned(),
            Some(Ok(Err(why))) => why,
            Some(Err(panic)) => format!("the kingdom of this process failed: {panic}"),
            None => std::future::pending().await,
        }
    }

    /// Ends both; no peasant is left afterwards.
    pub async fn end(mut self) {
        self.stop.end();
        let ended = async { while self.members.join_next().await.is_some() {} };
        if timeout(2 * SHUTDOWN_WITHIN, ended).await.is_err() {
            tracing::warn!("the king or the duke of this process did not end in time; leaving without them");
        }
    }
}
