//! Tries whether a program runs on this machine, without a king and without a unit: does what a job does before its
//! first unit.

use std::sync::Arc;

use distwasm_proto::{
    digest::Digest,
    error_text::chain,
    failure::Failure,
    guest::{GuestSettings, Places},
    ids::{BaronId, JobId},
    limits::START_WITHIN,
};
use distwasm_transport::payload::Payload;
use thiserror::Error;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Settings,
    allowed::AllowedDirs,
    cache::{Cache, MakeError, Supply},
    jail,
    peasant::{self, HeldRoom, PeasantEvent, PeasantSettings, Spawner},
};

/// Why a program would not run.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RehearsalError {
    #[error("{}", .0.message)]
    Unfit(Failure),
    /// This machine cannot tell; the program may be fine.
    #[error("{0}")]
    Impossible(String),
}

impl From<MakeError> for RehearsalError {
    fn from(error: MakeError) -> RehearsalError {
        match error {
            MakeError::Unfit(failure) => RehearsalError::Unfit(failure),
            MakeError::Trouble(why) => RehearsalError::Impossible(why),
            MakeError::Stopped => RehearsalError::Impossible("it was stopped".to_owned()),
        }
    }
}

/// Compiles a program, unless the cache has it, and lets a peasant initialise it with these settings and
/// `memory_bytes` of memory.
///
/// # Errors
///
/// When the program would not run, or this machine cannot find out.
pub async fn rehearse(
    settings: &Settings,
    program: Payload,
    guest: &GuestSettings,
    archives: &[(Digest, Payload)],
    memory_bytes: u64,
) -> Result<(), RehearsalError> {
    let impossible = RehearsalError::Impossible;
    let spawner = Spawner::start(&settings.peasant).map_err(|error| impossible(error.to_string()))?;
    let jail = jail::probe(&spawner).await.map_err(|error| impossible(chain(&error)))?;
    jail.check(settings.required_jail).map_err(|error| impossible(chain(&error)))?;
    let spawner = spawner.demanding(&jail.holds);
    let cache = Cache::open(&settings.cache, jail.engine).map_err(|error| impossible(chain(&error)))?;
    let digest = Digest::of(program.chunks().map(AsRef::as_ref));
    let mut supplies = Vec::new();
    for supply in Supply::of_job(digest, guest) {
        let archive = archives.iter().find(|(digest, _)| *digest == supply.digest()).map(|(_, archive)| archive);
        let blob = if supply.digest() == digest { Some(&program) } else { archive };
        let made = match (cache.find(&supply), blob) {
            (Some(found), _) => found,
            (None, Some(blob)) => {
                let never = CancellationToken::new();
                cache.make(supply, blob.clone(), &spawner, settings.compile, never).await?
            }
            (None, None) => continue,
        };
        supplies.push(made);
    }
    // No unit comes, so no file is opened.
    let guest = GuestSettings { places: Places::default(), ..guest.clone() };
    let settings = PeasantSettings { supplies, memory_bytes, guest: Arc::new(guest), takes_files: false };
    initialise(settings, spawner).await
}

/// Starts a peasant, waits until it is ready or says why it is not, and ends it.
async fn initialise(settings: PeasantSettings, spawner: Spawner) -> Result<(), RehearsalError> {
    let (news, mut said) = mpsc::channel(1);
    let (handle, life) =
        peasant::hire(BaronId(0), JobId(0), settings, spawner, AllowedDirs::All, HeldRoom::default(), news);
    let listen = async {
        let first = timeout(START_WITHIN, said.recv()).await;
        handle.kill();
        // The channel closes when the peasant has ended.
        while said.recv().await.is_some() {}
        first
    };
    let (first, ()) = tokio::join!(listen, life);
    match first.map(|news| news.map(|news| news.event)) {
        Ok(Some(PeasantEvent::Ready)) => Ok(()),
        Ok(Some(PeasantEvent::Unfit(failure))) => Err(RehearsalError::Unfit(failure)),
        Ok(Some(PeasantEvent::Unloadable(why) | PeasantEvent::Gone(why))) => Err(RehearsalError::Impossible(why)),
        Ok(Some(PeasantEvent::AnswerBegun { .. } | PeasantEvent::Answered(_)) | None) | Err(_) => {
            Err(RehearsalError::Impossible(format!("the peasant was not ready within {START_WITHIN:?}")))
        }
    }
}
