//! A note beside the output folder about the job that is being run into it. A queen that is killed leaves it behind.
//! The next queen for this folder has the king end that job at once, so that no slots are kept for a queen that may
//! come back.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use distwasm_process::files;
use distwasm_proto::limits::JOB_NOTE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use tracing::debug;

/// The end of the note's name, after the name of the output folder.
const ENDING: &str = ".distwasm-job";

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
    /// The key allows its holder to end the job, so only the user may read the file.
    key: u64,
}

impl JobNote {
    /// The note of a run into this folder, whose job has this key at this king. Nothing is written yet.
    pub fn new(output: &Path, king: String, key: u64) -> JobNote {
        let mut path = output.as_os_str().to_owned();
        path.push(ENDING);
        JobNote { path: path.into(), king, key }
    }

    /// The job of an earlier run, and its key, if it was at the same king and its queen was killed.
    pub fn earlier(&self) -> Option<(u64, u64)> {
        let note = self.read()?;
        (note.king == self.king).then_some((note.job, note.key))
    }

    /// The note in the file, if there is one.
    fn read(&self) -> Option<Note> {
        let file = files::open_own(&self.path).ok()?;
        let found = file.metadata().ok()?;
        // A note that another user may have written could name a job that is not this user's.
        if !files::is_private(&found) || found.len() > JOB_NOTE_BYTES_MAX {
            return None;
        }
        let mut text = Vec::new();
        file.take(JOB_NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether the name is free or belongs to a note: a file of the user stays as it is.
    fn may_change(&self) -> bool {
        fs::symlink_metadata(&self.path).is_err() || self.read().is_some()
    }

    /// Writes down the king's number for the job.
    pub(crate) fn write(&self, job: u64) {
        if !self.may_change() {
            return;
        }
        let note = Note { king: self.king.clone(), job, key: self.key };
        let written = serde_json::to_vec(&note)
            .map_err(io::Error::from)
            .and_then(|text| files::replace_private(&self.path, &text));
        if let Err(error) = written {
            debug!(path = %self.path.display(), %error, "the job cannot be noted down; if this queen is killed it ends later");
        }
    }

    /// Removes the note, if it is about this run's job: the job is over.
    pub(crate) fn remove(&self) {
        if self.read().is_none_or(|note| note.key != self.key) {
            return;
        }
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_job_is_known_from_its_note_at_the_same_king_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (output, path) = (folder.path().join("output"), folder.path().join("output.distwasm-job"));
        let note = JobNote::new(&output, "king:1900".to_owned(), u64::MAX);
        assert_eq!(note.earlier(), None);
        note.write(7);
        let next = |king: &str| JobNote::new(&output, king.to_owned(), 1).earlier();
        assert_eq!((next("king:1900"), next("other:1900")), (Some((7, u64::MAX)), None));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        for nonsense in ["", "{}", "[]", &"x".repeat(10_000)] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(next("king:1900"), None);
            note.write(8);
            note.remove();
            assert_eq!(fs::read_to_string(&path).unwrap(), nonsense, "it is not ours");
        }
        fs::remove_file(&path).unwrap();
        note.write(8);
        JobNote::new(&output, "king:1900".to_owned(), 1).remove();
        assert_eq!(next("king:1900"), Some((8, u64::MAX)), "a run that never had a job leaves the note to the next");
        let private = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o606)).unwrap();
        assert_eq!(next("king:1900"), None, "others may have written it");
        fs::set_permissions(&path, private).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(next("king:1900"), None, "a link is not followed");
        note.write(9);
        note.remove();
        assert!(path.is_symlink());
        fs::rename(&elsewhere, &path).unwrap();
        note.remove();
        note.remove();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
