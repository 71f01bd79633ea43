//! A note in the output folder with the key of the job that is being run into it. A queen that is killed leaves it
//! behind. The next queen for this folder has the king end that job at once, so that no slots are kept for a queen that
//! may come back.
//!
//! It is a file in the folder of the record (`.distwasm`), so the path and the king may be spelled differently next time.
//! It is written before the job is opened: there is no moment at which a killed queen leaves a job without a note.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use distwasm_process::{
    beneath::{self, Missing},
    files,
    unfinished::open_own_folder,
};
use distwasm_proto::{
    limits::{JOB_NOTE_BYTES_MAX, REPLACED_MAX},
    secret::Secret,
};
use rustix::fs::{AtFlags, OFlags, statat};
use tracing::debug;

use crate::selection::Shard;

/// The note's name in the folder of the record; with `--shard`, it follows the word for the shard.
const NAME: &str = "job";

/// The note of one run.
#[derive(Debug)]
pub struct JobNote {
    output: PathBuf,
    name: PathBuf,
    key: Secret,
}

impl JobNote {
    /// The note of a run into this folder, whose job has this key. Nothing is written yet.
    pub fn new(output: &Path, shard: Option<Shard>, key: Secret) -> JobNote {
        let name = shard.map_or_else(|| NAME.to_owned(), |shard| format!("{}.{NAME}", shard.word()));
        JobNote { output: output.to_owned(), name: name.into(), key }
    }

    /// The keys of earlier runs whose queens were killed; the last run comes first.
    pub fn earlier(&self) -> Vec<Secret> {
        let mut keys = self.read(Missing::Stays).unwrap_or_default();
        keys.truncate(REPLACED_MAX - 1);
        keys
    }

    /// The keys in the file. `None` unless it is a note of this user.
    fn read(&self, missing: Missing) -> Option<Vec<Secret>> {
        let file =
            self.folder(missing).and_then(|folder| beneath::file_in(folder, &self.name, OFlags::empty())).ok()?;
        let found = file.metadata().ok()?;
        // A note that another user may have written could name a job that is not this user's.
        if !files::is_private(&found) || found.len() > JOB_NOTE_BYTES_MAX {
            return None;
        }
        let mut text = String::new();
        file.take(JOB_NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
        let keys: Option<Vec<Secret>> = text.lines().map(Secret::from_text).collect();
        keys.filter(|keys| !keys.is_empty())
    }

    fn folder(&self, missing: Missing) -> io::Result<File> {
        open_own_folder(File::open(&self.output)?, missing)
    }

    /// Writes down the key of the job that is about to be opened, and those of the jobs that are to end with that.
    pub(crate) fn write(&self, earlier: &[Secret]) {
        let text: String = [self.key].iter().chain(earlier).map(|key| key.to_text() + "\n").collect();
        let written = self.folder(Missing::Made).and_then(|folder| {
            // A file of the user stays as it is.
            let is_free = statat(&folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_err();
            if is_free || self.read(Missing::Stays).is_some() {
                files::replace_private_in(folder, &self.name, text.as_bytes())?;
            }
            Ok(())
        });
        if let Err(error) = written {
            debug!(output = %self.output.display(), %error, "the job cannot be noted down; if this queen is killed it ends later");
        }
    }

    /// Removes the note, if it is about this run's job: the job is over.
    pub(crate) fn remove(&self) {
        if self.read(Missing::Stays).is_none_or(|keys| keys.first() != Some(&self.key)) {
            return;
        }
        let removed = self.folder(Missing::Stays).and_then(|folder| files::remove_in(folder, &self.name));
        if let Err(error) = removed {
            debug!(output = %self.output.display(), %error, "the note about the job cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    fn key(byte: u8) -> Secret {
        Secret::new([byte; 16])
    }

    #[test]
    fn a_job_is_known_from_its_note_in_the_output_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (output, path) = (folder.path().join("output"), folder.path().join("output/.distwasm/job"));
        fs::create_dir(&output).unwrap();
        let note = JobNote::new(&output, None, key(1));
        let next = || JobNote::new(&output.join("."), None, key(2)).earlier();
        assert_eq!(note.earlier(), []);
        assert!(!output.join(".distwasm").exists());
        note.write(&[]);
        assert_eq!(next(), [key(1)]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // A queen that is killed before the king has heard of its job hands on what it was to replace.
        JobNote::new(&output, None, key(2)).write(&next());
        assert_eq!(JobNote::new(&output, None, key(3)).earlier(), [key(2), key(1)]);
        note.remove();
        assert!(path.exists(), "a run leaves the note of another one");
        assert_eq!(JobNote::new(&output, Shard::new(1, 2), key(4)).earlier(), [], "each shard has its own");
        JobNote::new(&output, None, key(2)).remove();
        assert!(!path.exists());
        (0..20).for_each(|byte| JobNote::new(&output, None, key(byte)).write(&next()));
        assert_eq!(next().len(), REPLACED_MAX - 1);
    }

    #[test]
    fn what_is_not_a_note_of_this_user_is_left_alone() {
        let output = tempfile::tempdir().unwrap();
        let path = output.path().join(".distwasm/job");
        fs::create_dir(output.path().join(".distwasm")).unwrap();
        let note = JobNote::new(output.path(), None, key(1));
        let text = key(1).to_text();
        for nonsense in ["", "{}", "\n", &format!("{text}\nx"), &format!("{text}\n").repeat(1000)] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(note.earlier(), []);
            note.write(&[]);
            note.remove();
            assert_eq!(fs::read_to_string(&path).unwrap(), nonsense, "it is not ours");
        }
        fs::remove_file(&path).unwrap();
        note.write(&[]);
        let private = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o606)).unwrap();
        assert_eq!(note.earlier(), [], "others may have written it");
        fs::set_permissions(&path, private).unwrap();
        let elsewhere = output.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(note.earlier(), [], "a link is not followed");
        note.write(&[]);
        note.remove();
        assert!(path.is_symlink());
        fs::remove_file(&path).unwrap();
        // Where no note can be written, the run goes on without one.
        let missing = JobNote::new(&output.path().join("missing"), None, key(1));
        missing.write(&[]);
        missing.remove();
        assert_eq!(missing.earlier(), []);
    }
}
