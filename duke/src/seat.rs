//! A duke's place on its machine. A duke that takes a place is known to replace the one that had it before, so that a
//! king need not wait for a process that has ended. Several dukes on one machine have a place each.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use distwasm_process::files;
use distwasm_proto::{digest::Digest, limits::SEATS_MAX};
use tracing::debug;

use crate::machine;

/// A place, held exclusively as long as this value lives.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Unique among all places of all machines.
    pub(crate) number: u64,
    _lock: Option<File>,
}

impl Seat {
    /// Takes the first free place, by files in this folder. If none can be taken, the duke gets a place that no duke
    /// had before.
    pub(crate) fn take(folder: &Path, hostname: &str) -> Seat {
        for number in 0..SEATS_MAX {
            match take(&folder.join(format!("seat-{number}"))) {
                Ok(Some((secret, lock))) => return Seat { number: number_of(&secret, hostname), _lock: Some(lock) },
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
    pub(crate) fn anywhere() -> Seat {
        Seat { number: fastrand::u64(..), _lock: None }
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
    if secret.is_empty() {
        secret = fastrand::u128(..).to_le_bytes().into();
        file.write_all(&secret)?;
    }
    Ok(Some((secret, file)))
}

/// Takes in the machine, because a folder may be copied to another machine or container, or be seen by several.
fn number_of(secret: &[u8], hostname: &str) -> u64 {
    let digest = Digest::of([secret, machine::boot_id().as_bytes(), hostname.as_bytes()]).to_wire();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_duke_has_gone() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = [(); 2].map(|()| Seat::take(folder.path(), "here"));
        assert_ne!(one.number, two.number);
        let number = one.number;
        drop(one);
        assert_eq!(Seat::take(folder.path(), "here").number, number);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Seat::take(other.path(), "here").number, number);
        assert_ne!(Seat::take(&folder.path().join("missing"), "here").number, number);
    }
}
