//! Compiled programs: each compiled once for the machine, in a child process, and kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
};

use distwasm_process::files;
use distwasm_proto::digest::Digest;
use distwasm_transport::payload::Payload;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    compiler::{self, CompileLimits},
    folders::{Folders, touch},
    supplies::{MakeError, Recipe},
};
use crate::{jail, peasant::Spawner};

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
    let engine = jail::probe(&Spawner::start(peasant).ok()?).await.ok()?.engine;
    let recipe = Recipe { digest: program, deterministic, call: String::new(), traps_unknown_imports: false };
    Some(open(&Folders::at(folder, engine).program(&recipe)).is_some())
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
