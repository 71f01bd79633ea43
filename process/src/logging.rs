//! Log lines: to stderr, filtered by `RUST_LOG`, as text or as JSON, in one way for every program that logs. They are
//! written by [`crate::stderr`], so that no process waits or ends because they cannot be written.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt};

use crate::stderr;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to stderr at `level` (a filter such as `info`), unless `RUST_LOG` says otherwise.
pub fn start(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let lines = fmt().with_env_filter(filter).with_writer(|| Lines).with_target(false).log_internal_errors(false);
    // A second start (tests run several programs in one process) keeps the first.
    let _started = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Takes each line whole.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        stderr::write(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
