//! The king's command line: what was typed, and what holds.

use std::{io, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Parser;
use distwasm_proto::logging::LogFormat;

/// Coordinates a distwasm kingdom: takes jobs from queens and spreads their units over dukes.
///
/// Holds no state on disk. Ctrl-C or SIGTERM: takes no new jobs, and ends when those that it has have ended; a second
/// one ends it at once.
#[derive(Debug, Parser)]
#[command(name = "king", version, args_override_self = true)]
pub struct Options {
    /// Address and port for dukes and queens; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1900", env = "DISTWASM_LISTEN")]
    pub listen: SocketAddr,

    /// Port for dukes and queens, instead of the one in --listen
    #[arg(short, long, value_name = "N", env = "DISTWASM_LISTEN_PORT")]
    pub port: Option<u16>,

    /// Address and port of the HTTP pages /healthz and /metrics, or `none`
    #[arg(long, value_name = "ADDRESS:PORT|none", default_value = "127.0.0.1:1901", env = "DISTWASM_HTTP")]
    pub http: Http,

    /// Write the address and port that is listened on to this file, once it is known
    #[arg(long, value_name = "PATH", env = "DISTWASM_PORT_FILE")]
    pub port_file: Option<PathBuf>,

    /// When told to end: how long the jobs that are there may take to end, such as 60s or 10min
    #[arg(long, value_name = "DURATION", default_value = "60s", env = "DISTWASM_DRAIN", value_parser = humantime::parse_duration)]
    pub drain: Duration,

    /// How long a duke or a queen whose connection broke may take to come back, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", env = "DISTWASM_GRACE", value_parser = humantime::parse_duration)]
    pub grace: Duration,

    /// How log lines look; RUST_LOG says which there are
    #[arg(long, value_enum, default_value_t, env = "DISTWASM_LOG_FORMAT")]
    pub log_format: LogFormat,
}

/// Where the HTTP pages are, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// Nowhere.
    None,
    /// On this address.
    On(SocketAddr),
}

impl FromStr for Http {
    type Err = <SocketAddr as FromStr>::Err;

    fn from_str(text: &str) -> Result<Http, Self::Err> {
        if text == "none" { Ok(Http::None) } else { text.parse().map(Http::On) }
    }
}

impl Options {
    /// The address to listen on.
    pub fn address(&self) -> SocketAddr {
        let mut address = self.listen;
        if let Some(port) = self.port {
            address.set_port(port);
        }
        address
    }
}

/// Writes the address to the file so that nobody who reads it sees half of it.
///
/// # Errors
///
/// When the file cannot be written or renamed.
pub fn write_port_file(path: &std::path::Path, address: SocketAddr) -> io::Result<()> {
    let mut unfinished = path.to_owned().into_os_string();
    unfinished.push(".tmp");
    let written = std::fs::write(&unfinished, format!("{address}\n")).and_then(|()| std::fs::rename(&unfinished, path));
    if written.is_err() {
        let _removed = std::fs::remove_file(&unfinished);
    }
    written
}
