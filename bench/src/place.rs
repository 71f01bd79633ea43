//! Locations: the repository, the programs, and a folder for one case.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    options::{Run, Wire},
    processes,
};

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A command for a program beside this one, without distwasm's variables in its environment.
///
/// # Errors
///
/// When it does not exist.
pub fn program(name: &str) -> Result<Command> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{} is missing: `cargo build --release --workspace --bins` makes it", path.display());
    let mut command = Command::new(path);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("DISTWASM_") || key == "RUST_LOG" {
            command.env_remove(key);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// A folder for one case, deleted afterwards.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
    /// How long to wait for calm before each run.
    calm: Duration,
    wire: Wire,
}

impl Place {
    /// Makes a folder, by default on a memory file system.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn new(options: &Run) -> Result<Place> {
        let memory = Path::new("/dev/shm");
        let parent = match &options.folder {
            Some(folder) => folder.clone(),
            None if memory.is_dir() => memory.to_owned(),
            None => std::env::temp_dir(),
        };
        let folder = tempfile::Builder::new().prefix("distwasm-bench-").tempdir_in(&parent);
        let folder = folder.with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        Ok(Place { folder, calm: Duration::from_secs(options.calm), wire: options.wire })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// How queens and dukes reach the king.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Waits until nothing else keeps the machine busy, up to a limit.
    pub fn await_calm(&self) {
        processes::await_calm(self.calm);
    }

    /// A new folder in it.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Compiles a program for the loops. Returns its path.
    ///
    /// # Errors
    ///
    /// When it does not compile.
    pub fn compile(&self, guest: &Path) -> Result<PathBuf> {
        let name = guest.file_name().context("a guest without a name")?.to_string_lossy().into_owned();
        let output = self.path().join(format!("{name}.compiled"));
        let mut command = program("peasant")?;
        command.arg("compile").arg("--output").arg(&output).stdin(File::open(guest)?);
        let compiled = command.output()?;
        ensure!(compiled.status.success(), "cannot compile {name}: {}", String::from_utf8_lossy(&compiled.stderr));
        Ok(output)
    }
}

/// The end of a text file, for messages.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}
