//! Where the inputs of a run are: a folder, one file, stdin, or a list of names.

use std::{
    collections::HashSet,
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{self, IsTerminal, Read, Write},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use distwasm_jobs::inputs::Names;
use distwasm_proto::limits::{FILE_BUFFER_BYTES, FILE_NAME_BYTES_MAX, INPUT_LIST_BYTES_MAX, OUTPUT_PATH_BYTES_MAX};
use thiserror::Error;

use crate::report::harmless;

/// Where the inputs of a run are.
#[derive(Debug)]
pub struct InputPlace {
    /// The folder of inputs, without links in its path.
    pub folder: PathBuf,
    /// The names of inputs below it.
    pub names: Names,
    /// Names that were in the list more than once.
    pub repeated: u64,
    /// What was read from stdin.
    _stdin: Option<File>,
}

/// Why there are no inputs.
#[derive(Debug, Error)]
pub enum InputError {
    #[error("failed to find the input {} (--input names another{})", .path.display(), if has_glob(.path) { "; --include takes globs" } else { "" })]
    NotFound { path: PathBuf, source: io::Error },
    #[error("failed to read the input folder {}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the input {} is neither a folder nor a file (--input - reads stdin)", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{flag} - reads from stdin, and stdin is a terminal: name a file, or use a pipe or `<`")]
    Terminal { flag: &'static str },
    #[error("--input - and --input-list - cannot both read stdin")]
    BothStdin,
    #[error("failed to read the input from stdin (--input -)")]
    Stdin { source: io::Error },
    #[error("failed to keep the input from stdin in a temporary file in {} (TMPDIR names another folder)", .folder.display())]
    StdinUnkept { folder: PathBuf, source: io::Error },
    #[error("the input from stdin has more than {bytes_max} bytes, which is the most that may be checked")]
    StdinTooLarge { bytes_max: u64 },
    #[error("failed to read the list of inputs {} (--input-list)", .path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("the list of inputs {} (--input-list) has no name in it", .path.display())]
    ListEmpty { path: PathBuf },
    #[error("the list of inputs {} (--input-list) has more than {} MB", .path.display(), INPUT_LIST_BYTES_MAX >> 20)]
    ListTooLong { path: PathBuf },
    #[error("{what} {number} of the list of inputs {} (--input-list) {why}", .path.display())]
    ListName { path: PathBuf, what: &'static str, number: u64, why: String },
    #[error(
        "the paths in the list of inputs {} (--input-list) are not below the input folder {}: `find {} -printf '%P\\n'` writes them so, and --input . takes them as they are",
        .path.display(), .input.display(), .input.display()
    )]
    ListElsewhere { path: PathBuf, input: PathBuf },
    #[error("a list names inputs below a folder, and the input {} is not a folder", .path.display())]
    ListWithoutFolder { path: PathBuf },
}

/// The word for stdin and stdout.
pub const STANDARD: &str = "-";

/// The inputs that `--input`, `--input-list` and `--null` name. Stdin has at most `bytes_max` bytes.
///
/// # Errors
///
/// When they cannot be found or read.
pub fn open(input: &Path, list: Option<&Path>, null: bool, bytes_max: u64) -> Result<InputPlace, InputError> {
    if input == Path::new(STANDARD) {
        return match list {
            None => from_stdin(bytes_max),
            Some(list) if list == Path::new(STANDARD) => Err(InputError::BothStdin),
            Some(_) => Err(InputError::ListWithoutFolder { path: input.to_owned() }),
        };
    }
    let lost = |source| InputError::NotFound { path: input.to_owned(), source };
    let found = fs::metadata(input).map_err(lost)?;
    let place = |folder, names| InputPlace { folder, names, repeated: 0, _stdin: None };
    if found.is_dir() {
        let folder = fs::canonicalize(input).map_err(lost)?;
        let Some(list) = list else {
            drop(fs::read_dir(&folder).map_err(|source| InputError::Unreadable { path: input.to_owned(), source })?);
            return Ok(place(folder, Names::All));
        };
        let (names, repeated) = read_list(list, null, input, &folder)?;
        return Ok(InputPlace { repeated, ..place(folder, Names::Listed(names.into())) });
    }
    if list.is_some() {
        return Err(InputError::ListWithoutFolder { path: input.to_owned() });
    }
    match input.file_name().filter(|_| found.is_file()) {
        None => Err(InputError::NotAFile { path: input.to_owned() }),
        Some(name) => {
            // A link to a file keeps its name.
            let parent = input.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder = fs::canonicalize(parent).map_err(lost)?;
            Ok(place(folder, Names::Listed([PathBuf::from(name)].into())))
        }
    }
}

/// Reads stdin into a file without a name: the input may have to be sent again.
fn from_stdin(bytes_max: u64) -> Result<InputPlace, InputError> {
    if io::stdin().is_terminal() {
        return Err(InputError::Terminal { flag: "--input" });
    }
    let cannot_keep = |source| InputError::StdinUnkept { folder: env::temp_dir(), source };
    let mut file = tempfile::tempfile().map_err(cannot_keep)?;
    let (mut stdin, mut buffer, mut bytes) = (io::stdin().lock(), vec![0; FILE_BUFFER_BYTES], 0);
    loop {
        let count = match stdin.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|source| InputError::Stdin { source })?,
        };
        bytes += count as u64;
        if bytes > bytes_max {
            return Err(InputError::StdinTooLarge { bytes_max });
        }
        if count == 0 {
            break;
        }
        file.write_all(buffer.get(..count).unwrap_or_default()).map_err(cannot_keep)?;
    }
    // The number of this process, and not `self`: a peasant may open it, too.
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    // No path below this folder exists.
    Ok(InputPlace { folder: "/dev/null".into(), names: Names::Stdin(path.into()), repeated: 0, _stdin: Some(file) })
}

/// The names in a list, each once, and how many others there are.
fn read_list(list: &Path, null: bool, input: &Path, folder: &Path) -> Result<(Vec<PathBuf>, u64), InputError> {
    let cannot_read = |source| InputError::List { path: list.to_owned(), source };
    let mut text = Vec::new();
    let bytes = if list == Path::new(STANDARD) {
        if io::stdin().is_terminal() {
            return Err(InputError::Terminal { flag: "--input-list" });
        }
        io::stdin().lock().take(INPUT_LIST_BYTES_MAX + 1).read_to_end(&mut text)
    } else {
        File::open(list).and_then(|file| file.take(INPUT_LIST_BYTES_MAX + 1).read_to_end(&mut text))
    };
    if bytes.map_err(cannot_read)? as u64 > INPUT_LIST_BYTES_MAX {
        return Err(InputError::ListTooLong { path: list.to_owned() });
    }
    let absolute = std::path::absolute(input).unwrap_or_else(|_| input.to_owned());
    let (names, repeated) = names_in(&text, null, &[folder, &absolute]).map_err(|(number, why)| {
        let what = if null { "name" } else { "line" };
        InputError::ListName { path: list.to_owned(), what, number, why }
    })?;
    let Some(first) = names.first() else { return Err(InputError::ListEmpty { path: list.to_owned() }) };
    // `find logs` writes paths below the current folder.
    let is_here = fs::canonicalize(first).is_ok_and(|found| found.starts_with(folder));
    if is_here && !names.iter().any(|name| folder.join(name).symlink_metadata().is_ok()) {
        return Err(InputError::ListElsewhere { path: list.to_owned(), input: input.to_owned() });
    }
    Ok((names, repeated))
}

/// Whether the user may have meant a glob.
fn has_glob(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|byte| b"*?[{".contains(byte))
}

/// The names in a text, each once. The error is the number of a line or a name, from 1, and what is wrong with it.
fn names_in(text: &[u8], null: bool, folders: &[&Path]) -> Result<(Vec<PathBuf>, u64), (u64, String)> {
    let end = if null { b'\0' } else { b'\n' };
    let mut names = Vec::new();
    for (number, bytes) in (1..).zip(text.split(|byte| *byte == end)) {
        if bytes.is_empty() {
            continue;
        }
        if bytes.contains(&b'\0') {
            return Err((number, "has a NUL in it: if names end with NUL, -0 says so".to_owned()));
        }
        if null && bytes.contains(&b'\n') && !text.contains(&b'\0') {
            return Err((
                number,
                "has line breaks in it, and nothing in the list ends with NUL: leave out -0".to_owned(),
            ));
        }
        names.push(name_below(Path::new(OsStr::from_bytes(bytes)), folders).map_err(|why| (number, why))?);
    }
    Ok(each_once(names))
}

/// The names without those that come again, in their order, and how many those are.
fn each_once(names: Vec<PathBuf>) -> (Vec<PathBuf>, u64) {
    let mut seen = HashSet::new();
    let is_first: Vec<bool> = names.iter().map(|name| seen.insert(name)).collect();
    let count = names.len();
    let once: Vec<PathBuf> =
        names.into_iter().zip(is_first).filter(|(_, is_first)| *is_first).map(|(name, _)| name).collect();
    let repeated = count - once.len();
    (once, repeated as u64)
}

/// The path of a name below the input folder, as the lister writes it.
fn name_below(name: &Path, folders: &[&Path]) -> Result<PathBuf, String> {
    // It may be anything: the list may be another file than the user means.
    let shown = || harmless(&name.to_string_lossy());
    let below = if name.is_absolute() {
        let below = folders.iter().find_map(|folder| name.strip_prefix(folder).ok());
        below.ok_or_else(|| format!("is not in the input folder: {}", shown()))?
    } else {
        name
    };
    let mut path = PathBuf::new();
    for part in below.components() {
        match part {
            Component::Normal(part) if part.len() > FILE_NAME_BYTES_MAX => {
                return Err(format!("has a part of more than {FILE_NAME_BYTES_MAX} bytes: {}", shown()));
            }
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return Err(format!("has `..` in it, and a path in the list must not: {}", shown())),
        }
    }
    if path.as_os_str().len() > OUTPUT_PATH_BYTES_MAX {
        return Err(format!("has more than {OUTPUT_PATH_BYTES_MAX} bytes"));
    }
    if path.as_os_str() == OsStr::new("") { Err(format!("is the input folder itself: {}", shown())) } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &[u8], null: bool) -> Result<(Vec<String>, u64), (u64, String)> {
        let folders = [Path::new("/real/in"), Path::new("/link/in")];
        let (names, repeated) = names_in(text, null, &folders)?;
        Ok((names.into_iter().map(|name| name.into_os_string().into_string().unwrap()).collect(), repeated))
    }

    #[test]
    fn a_list_has_lines_or_ends_names_with_nul() {
        let all = |names: &[&str], repeated| Ok((names.iter().map(|name| (*name).to_owned()).collect(), repeated));
        assert_eq!(names(b"b\na/c\n\nb\n./b\n/real/in/a/c\n/link/in/d", false), all(&["b", "a/c", "d"], 3));
        assert_eq!(names(b"b\0new\nline\0", true), all(&["b", "new\nline"], 0));
        assert_eq!(names(b"\n\n", false), all(&[], 0));
        assert!(names(b"a\nb\n", true).unwrap_err().1.contains("leave out -0"));
    }

    #[test]
    fn a_name_that_cannot_be_is_told_by_its_number() {
        let long = format!("a\n{}", "n".repeat(256));
        let deep = format!("a\n{}", "d/".repeat(2100));
        for (text, number, why) in [
            ("a\n\nb\0c\0", 3, "-0 says so"),
            ("a\n../b", 2, "has `..` in it"),
            ("a/../b", 1, "has `..` in it"),
            ("/etc/passwd", 1, "is not in the input folder: /etc/passwd"),
            ("/real/in", 1, "the input folder itself"),
            (".", 1, "the input folder itself"),
            (&long, 2, "more than 255"),
            (&deep, 2, "more than 4095"),
        ] {
            let (found, told) = names(text.as_bytes(), false).unwrap_err();
            assert!(found == number && told.contains(why), "{text}: {found} {told}");
        }
    }

    #[test]
    fn one_file_is_a_folder_with_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("b")).unwrap();
        for name in ["a", "b"] {
            let place = open(&folder.path().join(name), None, false, 9).unwrap();
            assert!(matches!(&place.names, Names::Listed(names) if names[..] == [PathBuf::from(name)]), "{place:?}");
            assert_eq!(place.folder, fs::canonicalize(folder.path()).unwrap());
        }
        assert!(matches!(open(Path::new("/dev/null"), None, false, 9), Err(InputError::NotAFile { .. })));
        assert!(matches!(open(&file, Some(&file), false, 9), Err(InputError::ListWithoutFolder { .. })));
        assert!(matches!(open(Path::new("-"), Some(Path::new("-")), false, 9), Err(InputError::BothStdin)));
        assert!(matches!(open(&folder.path().join("c"), None, false, 9), Err(InputError::NotFound { .. })));
    }
}
