//! Waits while all file descriptors of this process, or of the machine, are in use. They are counted before slots are
//! promised, but other processes on the machine may take them.

use std::{io, thread};

use distwasm_proto::limits::{DESCRIPTOR_PAUSE, DESCRIPTOR_TRIES};
use rustix::io::Errno;

/// Opens something, and tries again for a while when there is no descriptor for it.
///
/// # Errors
///
/// The error of the last try.
pub fn when_there_are<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..DESCRIPTOR_TRIES {
        match open() {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
                thread::park_timeout(DESCRIPTOR_PAUSE);
            }
            opened => return opened,
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_want_of_descriptors_is_waited_out() {
        let mut left = 2;
        let opened = when_there_are(|| {
            left -= 1;
            if left > 0 { Err(Errno::MFILE.into()) } else { Ok(left) }
        });
        assert_eq!(opened.unwrap(), 0);
        let mut tries = 0;
        let refused: io::Result<()> = when_there_are(|| {
            tries += 1;
            Err(Errno::ACCESS.into())
        });
        assert!(refused.is_err() && tries == 1);
    }
}
