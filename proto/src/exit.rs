//! Exit statuses, decided in one place for all four programs.

use std::process::ExitCode;

/// How a program ended, as its exit status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything that was asked for is done.
    Done,
    /// 1: the job ran, and some of its units failed.
    SomeFailed,
    /// 2: it could not run: wrong flags, a program that is not WebAssembly, no king, a full disk.
    CouldNotRun,
    /// 130: interrupted by SIGINT or SIGTERM (128 + 2, as shells report it).
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::SomeFailed => 1,
            Exit::CouldNotRun => 2,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.status())
    }
}
