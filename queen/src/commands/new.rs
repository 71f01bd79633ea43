//! `queen new`: a folder with a program to start from.

use std::{
    ffi::OsStr,
    fmt::{self, Display},
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use distwasm_jobs::rename_new;
use distwasm_process::files;
use distwasm_proto::limits::PROJECT_NAME_BYTES_MAX;
use rustix::fs::CWD;
use thiserror::Error;

use crate::templates::{Lang, TemplateFile};

/// Writes a folder with a small program to start from, and prints the lines that build and run it.
///
/// The program counts the words of an input. The folder also holds the part of distwasm that it needs.
#[derive(Args, Debug)]
pub struct NewOptions {
    /// The language
    #[arg(long, value_enum, value_name = "LANG")]
    pub lang: Lang,

    /// The folder to create; its last part, of lowercase letters, digits, `-` and `_`, names the program
    #[arg(value_name = "NAME")]
    pub folder: PathBuf,
}

/// Why the folder could not be written.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NewError {
    #[error(
        "{path:?} does not end in a name for a program: 1 to {PROJECT_NAME_BYTES_MAX} lowercase letters, digits, `-` and `_`, of which the first is a letter"
    )]
    Name { path: PathBuf },
    #[error("there is a {} already; choose another name, or remove it", .path.display())]
    Exists { path: PathBuf },
    #[error("failed to write the new folder {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A folder that was written. It is displayed as the three lines that build and run the program.
#[derive(Debug)]
pub struct Made {
    /// Its path, as the user gave it.
    pub folder: PathBuf,
    /// The name of the program.
    pub name: String,
    /// How to call the queen from within the folder.
    pub queen: PathBuf,
}

/// Writes the folder: whole, or not at all.
///
/// # Errors
///
/// When the path does not end in a valid name, exists already, or the files cannot be written.
pub fn write(options: &NewOptions) -> Result<Made, NewError> {
    let folder = &options.folder;
    let name = program_name(folder).ok_or_else(|| NewError::Name { path: folder.clone() })?;
    let exists = || NewError::Exists { path: folder.clone() };
    // A dangling link counts as existing, too.
    if fs::symlink_metadata(folder).is_ok() {
        return Err(exists());
    }
    let cannot_write = |source| NewError::Write { path: folder.clone(), source };
    let unfinished = files::unfinished_beside(folder);
    fs::create_dir(&unfinished).map_err(cannot_write)?;
    let written = write_files(&unfinished, &options.lang.files(name))
        .and_then(|()| rename_new(CWD, unfinished.as_os_str(), CWD, folder.as_os_str()));
    match written {
        Ok(()) => Ok(Made { folder: folder.clone(), name: name.to_owned(), queen: own_path() }),
        Err(error) => {
            // The first error is the one to report, even if the cleanup fails, too.
            let _removed = fs::remove_dir_all(&unfinished);
            Err(if error.kind() == io::ErrorKind::AlreadyExists { exists() } else { cannot_write(error) })
        }
    }
}

/// The last part of the path, if it is a sensible name: for a file, and in each of the languages.
fn program_name(folder: &Path) -> Option<&str> {
    let name = folder.file_name()?.to_str()?;
    let is_sensible = name.len() <= PROJECT_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    is_sensible.then_some(name)
}

fn write_files(folder: &Path, files: &[TemplateFile]) -> io::Result<()> {
    for TemplateFile { path, text } in files {
        let path = folder.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        files::write_new(&path, text.as_bytes())?;
    }
    Ok(())
}

/// How to call this program from another folder: by its name, if it was called by its name.
fn own_path() -> PathBuf {
    let by_name = PathBuf::from("queen");
    let called = std::env::args_os().next().map(PathBuf::from);
    match called.filter(|called| called.components().count() > 1) {
        Some(called) => std::env::current_exe().unwrap_or(called),
        None => by_name,
    }
}

impl Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Made { folder, name, queen } = self;
        // `cd` would take a path that begins with a dash for a flag.
        let here = if folder.as_os_str().as_encoded_bytes().starts_with(b"-") { "./" } else { "" };
        writeln!(f, "cd {here}{}", quoted(folder.as_os_str()))?;
        writeln!(f, "sh build.sh")?;
        writeln!(f, "{} --binary {name}.wasm", quoted(queen.as_os_str()))
    }
}

/// The text, quoted so that a shell takes it for one word.
pub fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./+,:@%".contains(&byte);
    if text.bytes().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_programs() {
        let longest = "a".repeat(PROJECT_NAME_BYTES_MAX);
        for path in ["shout", "a", "x-1_y", "/tmp/some where/shout", "./shout/", longest.as_str()] {
            assert!(program_name(Path::new(path)).is_some(), "{path}");
        }
        let too_long = "a".repeat(PROJECT_NAME_BYTES_MAX + 1);
        let refused = ["", ".", "..", "/", "a/..", "Shout", "1a", "-a", "_a", "a b", "a.b", "grün", "a\n", &too_long];
        for path in refused {
            assert_eq!(program_name(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("shout");
        let options = NewOptions { lang: Lang::C, folder: folder.clone() };
        write(&options).unwrap();
        assert!(folder.join("input/poem").is_file());
        assert!(matches!(write(&options), Err(NewError::Exists { .. })));
        let nowhere = NewOptions { lang: Lang::C, folder: place.path().join("no/where") };
        assert!(matches!(write(&nowhere), Err(NewError::Write { .. })));
        // Another process was faster.
        let unfinished = place.path().join("unfinished");
        fs::create_dir(&unfinished).unwrap();
        assert_eq!(
            rename_new(CWD, unfinished.as_ref(), CWD, folder.as_ref()).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        fs::remove_dir(&unfinished).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn the_lines_are_for_a_shell() {
        let made = Made { folder: "it's/shout".into(), name: "shout".into(), queen: "queen".into() };
        assert_eq!(made.to_string(), "cd 'it'\\''s/shout'\nsh build.sh\nqueen --binary shout.wasm\n");
    }
}
