//! A note in the output folder about the job that is being run into it. A queen that is killed leaves it behind, and the
//! next one into this folder has the king end that job at once, instead of keeping slots for a queen that may come back.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use distwasm_proto::files;
use serde::{Deserialize, Serialize};
use tracing::debug;

/// What the note is called. An input of this name cannot have an output.
pub const NAME: &str = ".distwasm-job";

/// Longer than any note.
const BYTES_MAX: u64 = 4096;

/// The note of one run.
#[derive(Debug)]
pub struct JobNote {
    path: PathBuf,
    king: String,
    key: u64,
}

#[derive(Deserialize, Serialize)]
struct Note {
    king: String,
    job: u64,
    /// Whoever has it may end the job: the file is for its user alone.
    key: u64,
}

impl JobNote {
    /// The note of a run into this folder, whose job has this key at this king. Nothing is written yet.
    pub fn new(output: &Path, king: String, key: u64) -> JobNote {
        JobNote { path: output.join(NAME), king, key }
    }

    /// The job of an earlier run, and its key, if it was at the same king and its queen was killed.
    pub fn earlier(&self) -> Option<(u64, u64)> {
        let size = fs::symlink_metadata(&self.path).ok().filter(fs::Metadata::is_file)?.len();
        let text = fs::read(&self.path).ok().filter(|_| size <= BYTES_MAX)?;
        // What somebody else has written is no reason to do anything.
        let note: Note = serde_json::from_slice(&text).ok()?;
        (note.king == self.king).then_some((note.job, note.key))
    }

    /// Writes down how the king calls the job.
    pub fn write(&self, job: u64) {
        let note = Note { king: self.king.clone(), job, key: self.key };
        let written = serde_json::to_vec(&note)
            .map_err(io::Error::from)
            .and_then(|text| files::replace_private(&self.path, &text));
        if let Err(error) = written {
            debug!(path = %self.path.display(), %error, "the job cannot be noted down; if this queen is killed it ends later");
        }
    }

    /// Removes the note: the job is over.
    pub fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                debug!(path = %self.path.display(), %error, "the note about the job cannot be removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_job_is_known_from_its_note_at_the_same_king_alone() {
        let folder = tempfile::tempdir().unwrap();
        let note = JobNote::new(folder.path(), "king:1900".to_owned(), u64::MAX);
        assert_eq!(note.earlier(), None);
        note.write(7);
        let next = |king: &str| JobNote::new(folder.path(), king.to_owned(), 1).earlier();
        assert_eq!((next("king:1900"), next("other:1900")), (Some((7, u64::MAX)), None));
        assert_eq!(fs::metadata(folder.path().join(NAME)).unwrap().mode() & 0o777, 0o600);
        for nonsense in ["", "{}", "[]", &"x".repeat(10_000)] {
            fs::write(folder.path().join(NAME), nonsense).unwrap();
            assert_eq!(next("king:1900"), None);
        }
        note.remove();
        note.remove();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
