//! A duke's place on its machine. A duke that takes a place is known to replace the one that had it before, so that a
//! king need not wait for a process that has ended. Several dukes on one machine have a place each.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use distwasm_process::{files, randomness};
use distwasm_proto::{digest::Digest, limits::SEATS_MAX, secret::Secret};
use tracing::debug;

use crate::machine;

/// The length of the secret in a seat's file.
const SECRET_BYTES: usize = 32;

/// A place, held exclusively as long as this value lives.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Unique among all places of all machines, and known to nobody but their dukes and their king.
    pub(crate) secret: Secret,
    _lock: Option<File>,
}

impl Seat {
    /// Takes the first free place, by files in this folder. If none can be taken, the duke gets a place that no duke
    /// had before.
    ///
    /// # Errors
    ///
    /// When the system has no source of randomness.
    pub(crate) fn take(folder: &Path, hostname: &str) -> io::Result<Seat> {
        for number in 0..SEATS_MAX {
            match take(&folder.join(format!("seat-{number}"))) {
                Ok(Some((secret, lock))) => {
                    return Ok(Seat { secret: of_this_machine(&secret, hostname), _lock: Some(lock) });
                }
                Ok(None) => {}
                Err(error) => {
                    debug!(folder = %folder.display(), %error, "no seat can be taken");
                    break;
                }
            }
        }
        Seat::anywhere()
    }

    /// A place that no duke had before.
    ///
    /// # Errors
    ///
    /// When the system has no source of randomness.
    pub(crate) fn anywhere() -> io::Result<Seat> {
        Ok(Seat { secret: randomness::secret()?, _lock: None })
    }
}

/// The secret that makes the place unique, and the lock. `None` if another duke has the place.
fn take(path: &Path) -> io::Result<Option<(Vec<u8>, File)>> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = files::open_own_with(options, path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut secret = Vec::new();
    (&mut file).take(64).read_to_end(&mut secret)?;
    // An earlier version wrote shorter ones, which were easier to guess.
    if secret.len() < SECRET_BYTES {
        secret = randomness::bytes::<SECRET_BYTES>()?.into();
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&secret)?;
    }
    Ok(Some((secret, file)))
}

/// Takes in the machine, because a folder may be copied to another machine or container, or be seen by several.
fn of_this_machine(secret: &[u8], hostname: &str) -> Secret {
    let digest = Digest::of([secret, machine::boot_id().as_bytes(), hostname.as_bytes()]).to_wire();
    Secret::new(std::array::from_fn(|place| digest.get(place).copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_duke_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let take = |folder: &Path| Seat::take(folder, "here").unwrap();
        let [one, two] = [(); 2].map(|()| take(folder.path()));
        assert_ne!(one.secret, two.secret);
        let secret = one.secret;
        drop(one);
        assert_eq!(take(folder.path()).secret, secret);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(take(other.path()).secret, secret);
        assert_ne!(take(&folder.path().join("missing")).secret, secret);
        assert_ne!(Seat::take(folder.path(), "there").unwrap().secret, secret);
    }

    #[test]
    fn only_a_long_secret_is_kept_and_only_its_user_can_read_it() {
        use std::{fs, os::unix::fs::MetadataExt};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seat-0");
        fs::write(&path, [7; 16]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let seat = Seat::take(folder.path(), "here").unwrap();
        let written = fs::read(&path).unwrap();
        assert!(written.len() == SECRET_BYTES && written[..16] != [7; 16]);
        assert_ne!(seat.secret.to_wire(), written[..16]);
        drop(Seat::take(folder.path(), "here").unwrap());
        assert_eq!(fs::metadata(folder.path().join("seat-1")).unwrap().mode() & 0o777, 0o600);
    }
}
