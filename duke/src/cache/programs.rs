//! Compiled programs: each compiled once for the machine, in a child process, and kept in the cache.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use distwasm_process::{files, handed::Arguments};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    limits::{COMPILE_WITHIN, PEASANT_STDERR_BYTES_MAX},
};
use distwasm_transport::payload::Payload;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tracing::info;

use super::{
    folders::{Folders, touch},
    supplies::{MakeError, Recipe},
};
use crate::peasant::{SpawnError, Spawner, describe};

/// The compiled program, if the cache has it. A file to which others may write is not one; peasants check that, too.
pub(crate) fn find(folders: &Folders, recipe: &Recipe) -> Option<PathBuf> {
    let path = folders.program(recipe);
    let file = files::open_own(&path).ok()?;
    let found = file.metadata().ok()?;
    (files::is_private(&found) && found.len() > 0).then(|| {
        touch(&file);
        path
    })
}

/// Compiles a program, and returns the compiled file.
pub(crate) async fn compile(
    folders: &Folders,
    recipe: &Recipe,
    program: Payload,
    spawner: Spawner,
) -> Result<PathBuf, MakeError> {
    let path = folders.program(recipe);
    let unfinished = folders.unfinished_program(recipe.digest);
    let compiled = run_compiler(compile_command(recipe, &unfinished), program, spawner).await;
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

fn compile_command(recipe: &Recipe, output: &Path) -> Arguments {
    let mut args: Vec<OsString> = vec!["compile".into(), "--output".into(), output.into()];
    if !recipe.call.is_empty() {
        args.push(format!("--call={}", recipe.call).into());
    }
    if recipe.deterministic {
        args.push("--deterministic".into());
    }
    Arguments { shown: args, handed: Vec::new() }
}

async fn run_compiler(args: Arguments, program: Payload, spawner: Spawner) -> Result<(), MakeError> {
    let trouble = MakeError::Trouble;
    let unfit = |message: String| MakeError::Unfit(Failure::new(FailureKind::Program, message));
    let mut child = spawner.spawn(args).await.map_err(|error| trouble(distwasm_proto::error_text::chain(&error)))?;
    let (Some(mut stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(trouble("the compiler has no pipes".to_owned()));
    };
    let work = async {
        let feed = async {
            for chunk in program.chunks() {
                // A compiler that ends early says why on stderr.
                if stdin.write_all(chunk).await.is_err() {
                    break;
                }
            }
            drop(stdin);
        };
        let mut said = Vec::new();
        let listen = async {
            let mut limited = stderr.take(PEASANT_STDERR_BYTES_MAX as u64 * 4);
            limited.read_to_end(&mut said).await
        };
        let ((), _, status) = tokio::join!(feed, listen, child.wait());
        (status, String::from_utf8_lossy(&said).trim().to_owned())
    };
    // On expiry the child is dropped, which kills it.
    let ended = timeout(COMPILE_WITHIN, work).await;
    let (status, said) = ended.map_err(|_| unfit(format!("it took longer than {COMPILE_WITHIN:?} to compile")))?;
    let status = status.map_err(|error| trouble(format!("the compiler cannot be waited for: {error}")))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(UNFIT) if !said.is_empty() => Err(unfit(said)),
        Some(_) => Err(trouble(format!("the compiler failed: {}; it said: {said}", describe(status)))),
        // Most likely the child hit a limit. The next compiler would hit it, too.
        None => Err(unfit(format!("the compiler did not finish: {}", describe(status)))),
    }
}

/// The exit status by which the compiler says that the program is to blame.
const UNFIT: i32 = 2;

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
        let recipe = Recipe { digest, deterministic: false, call: String::new() };
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

    #[test]
    fn the_compiler_is_told_how_the_program_is_called() {
        let digest = Digest::of([b"".as_slice()]);
        let told = |call: &str, deterministic| {
            let recipe = Recipe { digest, deterministic, call: call.to_owned() };
            let words =
                compile_command(&recipe, Path::new("c")).shown.into_iter().map(|arg| arg.into_string().unwrap());
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told("", false), "compile --output c");
        assert_eq!(told("-f", true), "compile --output c --call=-f --deterministic");
    }
}
