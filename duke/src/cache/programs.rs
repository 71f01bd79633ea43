//! Compiled programs: each compiled once for the machine, in a child process, and kept in the cache.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use distwasm_process::{files, handed::Arguments};
use distwasm_proto::{digest::Digest, limits::COMPILE_WITHIN};
use distwasm_transport::payload::Payload;
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    compiler::{self, CompileLimits},
    folders::{Folders, touch},
    supplies::{MakeError, Recipe},
};
use crate::peasant::{SpawnError, Spawner, describe};

/// The compiled program, if the cache has it. A file to which others may write is not one; peasants check that, too.
pub(crate) fn find(folders: &Folders, recipe: &Recipe) -> Option<PathBuf> {
    let path = folders.program(recipe);
    touch(&open(&path)?);
    Some(path)
}

fn open(path: &Path) -> Option<fs::File> {
    let file = files::open_own(path).ok()?;
    let found = file.metadata().ok()?;
    (files::is_private(&found) && found.len() > 0).then_some(file)
}

/// Compiles a program, and returns the compiled file. Nothing is left of it if it is stopped.
pub(crate) async fn compile(
    folders: &Folders,
    recipe: &Recipe,
    program: Payload,
    spawner: &Spawner,
    limits: CompileLimits,
    stop: &CancellationToken,
) -> Result<PathBuf, MakeError> {
    let path = folders.program(recipe);
    let unfinished = folders.unfinished_program(recipe.digest);
    let compiled = compiler::run(recipe, &unfinished, program, spawner, limits, stop).await;
    let kept = compiled.and_then(|()| {
        let keep = fs::rename(&unfinished, &path);
        keep.map_err(|error| MakeError::Trouble(format!("{} cannot be written: {error}", path.display())))
    });
    if let Err(error) = kept {
        // The file may not exist.
        let _removed = fs::remove_file(&unfinished);
        return Err(error);
    }
    info!(program = %recipe.digest, recipe.deterministic, "compiled a program");
    Ok(path)
}

/// Whether a program is in this machine's folder of compiled programs, as this peasant would run it; `None` if the peasant
/// does not tell its engine. Nothing is changed.
pub async fn is_compiled(folder: &Path, peasant: &Path, program: Digest, deterministic: bool) -> Option<bool> {
    let engine = fingerprint(&Spawner::start(peasant).ok()?).await.ok()?;
    let recipe = Recipe { digest: program, deterministic, call: String::new(), traps_unknown_imports: false };
    Some(open(&Folders::at(folder, engine).program(&recipe)).is_some())
}

/// The fingerprint of the peasant's engine. Fails if the peasant does not work at all.
pub(crate) async fn fingerprint(spawner: &Spawner) -> Result<String, FingerprintError> {
    let child = spawner.spawn(Arguments { shown: vec!["fingerprint".into()], ..Arguments::default() }).await?;
    let output = timeout(COMPILE_WITHIN, child.wait_with_output()).await.map_err(|_| FingerprintError::Slow)??;
    let word = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_word = !word.is_empty() && word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if output.status.success() && is_word {
        return Ok(word);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FingerprintError::Odd(format!("{}; it said: {said}", describe(output.status))))
}

/// Why the peasant does not work.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FingerprintError {
    #[error("the peasant cannot be started")]
    Spawn(#[from] SpawnErrorText),
    #[error("the peasant cannot be listened to")]
    Io(#[from] io::Error),
    #[error("the peasant did not tell its engine in time")]
    Slow,
    #[error("the peasant did not tell its engine: {0}")]
    Odd(String),
}

/// A [`SpawnError`] as text, with its cause.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SpawnErrorText(String);

impl From<SpawnError> for FingerprintError {
    fn from(error: SpawnError) -> FingerprintError {
        FingerprintError::Spawn(SpawnErrorText(distwasm_proto::error_text::chain(&error)))
    }
}

#[cfg(test)]
mod tests {
    use distwasm_proto::digest::Digest;

    use super::*;

    #[test]
    fn a_program_that_others_may_write_is_not_found() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::open(&folder.path().join("cache"), "engine".to_owned()).unwrap();
        let digest = Digest::of([b"program".as_slice()]);
        let recipe = Recipe { digest, deterministic: false, call: String::new(), traps_unknown_imports: false };
        let path = folders.program(&recipe);
        fs::write(&path, "code").unwrap();
        for (mode, is_found) in [(0o600, true), (0o644, true), (0o666, false), (0o620, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(find(&folders, &recipe).is_some(), is_found, "{mode:o}");
        }
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        fs::set_permissions(folder.path().join("elsewhere"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(find(&folders, &recipe).is_none());
    }
}
