//! Tries whether a program runs on this machine, without a king and without a unit: does what a job does before its
//! first unit.

use std::sync::Arc;

use distwasm_proto::{
    digest::Digest,
    error_text::chain,
    failure::Failure,
    guest::GuestSettings,
    ids::{BaronId, JobId},
    limits::START_WITHIN,
};
use distwasm_transport::payload::Payload;
use thiserror::Error;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    Settings,
    baron::{self, HeldRoom, What},
    cache::{Cache, Recipe},
    programs::{self, CompileError},
    spawn::Spawner,
    work::Work,
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
    let engine = programs::fingerprint(&spawner).await.map_err(|error| impossible(chain(&error)))?;
    let cache = Cache::open(&settings.cache, engine).map_err(|error| impossible(chain(&error)))?;
    let digest = Digest::of(program.chunks().map(AsRef::as_ref));
    let recipe = Recipe { digest, deterministic: guest.deterministic, call: guest.call.clone() };
    let compiled = match cache.find(&recipe) {
        Some(compiled) => compiled,
        None => cache.compile(&recipe, program, spawner.clone()).await.map_err(|error| match error {
            CompileError::Unfit(failure) => RehearsalError::Unfit(failure),
            CompileError::Trouble(why) => impossible(why),
        })?,
    };
    let mut folders = Vec::new();
    for share in &guest.shares {
        let archive = archives.iter().find(|(digest, _)| *digest == share.digest).map(|(_, archive)| archive);
        let Some(archive) = archive else { continue };
        let kept = match cache.find_share(share.digest) {
            Some(kept) => kept,
            None => {
                let (cache, digest, archive) = (cache.clone(), share.digest, archive.clone());
                let kept = tokio::task::spawn_blocking(move || cache.keep_share(digest, &archive));
                let kept = kept.await.map_err(|error| impossible(error.to_string()))?;
                kept.map_err(|error| impossible(chain(&error)))?
            }
        };
        folders.push(kept);
    }
    let work = Work { compiled, memory_bytes, guest: Arc::new(guest.clone()), folders };
    initialise(work, spawner).await
}

/// Starts a peasant, waits until it is ready or says why it is not, and ends it.
async fn initialise(work: Work, spawner: Spawner) -> Result<(), RehearsalError> {
    let (news, mut said) = mpsc::channel(1);
    let (handle, life) = baron::hire(BaronId(0), JobId(0), work, spawner, HeldRoom::default(), news);
    let listen = async {
        let first = timeout(START_WITHIN, said.recv()).await;
        handle.kill();
        // The channel closes when the peasant has ended.
        while said.recv().await.is_some() {}
        first
    };
    let (first, ()) = tokio::join!(listen, life);
    match first.map(|news| news.map(|news| news.what)) {
        Ok(Some(What::Ready)) => Ok(()),
        Ok(Some(What::Unfit(failure))) => Err(RehearsalError::Unfit(failure)),
        Ok(Some(What::Unloadable(why) | What::Gone(why))) => Err(RehearsalError::Impossible(why)),
        Ok(Some(What::AnswerBegun { .. } | What::Answered(_)) | None) | Err(_) => {
            Err(RehearsalError::Impossible(format!("the peasant was not ready within {START_WITHIN:?}")))
        }
    }
}
