//! When a file was changed, or a run began.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::Stat;

/// A time as a file system says it, since 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileTime {
    seconds: i64,
    nanos: i64,
}

impl FileTime {
    /// When the file was changed last.
    pub fn of(metadata: &fs::Metadata) -> FileTime {
        FileTime { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() }
    }

    /// When the file was changed last.
    pub(crate) fn of_stat(stat: &Stat) -> FileTime {
        FileTime { seconds: stat.st_mtime, nanos: i64::try_from(stat.st_mtime_nsec).unwrap_or_default() }
    }

    /// The time by the clock of this machine; the beginning of 1970 for all earlier times.
    pub fn to_system(self) -> SystemTime {
        let nanos = u32::try_from(self.nanos).unwrap_or_default();
        UNIX_EPOCH + Duration::new(u64::try_from(self.seconds).unwrap_or_default(), nanos)
    }
}

impl From<SystemTime> for FileTime {
    fn from(time: SystemTime) -> FileTime {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        FileTime { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: i64::from(since.subsec_nanos()) }
    }
}
