//! The king's command line, as it was typed and as it takes effect.

use std::{
    fs,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, builder::BoolishValueParser};
use distwasm_process::{files, flags, logging::LogFormat, version::version};
use distwasm_proto::limits::{KING_MEMORY_BYTES_MIN, TIMEOUT_BEYOND_LOOPBACK};
use distwasm_transport::address::KING_PORT;
use thiserror::Error;

use crate::{
    advertise::Advertised,
    data::{DataError, DataFolder},
    default_memory_bytes,
    key::{Key, KeyError},
    tokens::command::TokenCommand,
};

/// The port of the HTTP pages by default.
const HTTP_PORT: u16 = 1901;

/// Coordinates a distwasm kingdom: takes jobs from queens and spreads their units over dukes.
///
/// Dukes and queens of this user on this machine need nothing but the port; others need TLS and a token. Keeps its key on
/// disk, programs by name if --data says where, and nothing about jobs. After Ctrl-C, SIGTERM or SIGHUP it takes no new jobs, and ends when its jobs have ended; a
/// second signal ends it at once.
#[derive(Debug, Parser)]
#[command(name = "king", version = version())]
pub struct Options {
    /// Address for dukes and queens, with a port unless it is 1900; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value = "127.0.0.1:1900", env = "DISTWASM_LISTEN", value_parser = flags::listen_address(KING_PORT))]
    pub listen: SocketAddr,

    /// Port for dukes and queens, instead of the one in --listen
    #[arg(short, long, value_name = "N", env = "DISTWASM_LISTEN_PORT", value_parser = flags::whole_number(0..=u16::MAX))]
    pub port: Option<u16>,

    /// Where other machines reach this king, for the commands that it prints at its first start, and for nothing else
    /// [default: this machine's name, and the port that it listens on]
    #[arg(long, value_name = "HOST[:PORT]", env = "DISTWASM_ADVERTISE")]
    pub advertise: Option<Advertised>,

    /// Address of the HTTP pages /healthz and /metrics, with a port unless it is 1901, or `none`
    #[arg(long, value_name = "ADDRESS[:PORT]|none", default_value = "127.0.0.1:1901", env = "DISTWASM_HTTP")]
    pub http: Http,

    /// Show /metrics to everybody who reaches the HTTP address, and not only to those with a token
    #[arg(long, env = "DISTWASM_METRICS_OPEN", value_parser = BoolishValueParser::new())]
    pub metrics_open: bool,

    /// Write the listening address and port to this file, once they are known; the file is removed when the king ends
    #[arg(long, value_name = "PATH", env = "DISTWASM_PORT_FILE")]
    pub port_file: Option<PathBuf>,

    /// Graceful shutdown: how long the king's jobs may take to end, such as 60s or 10min
    #[arg(long, value_name = "DURATION", default_value = "60s", env = "DISTWASM_DRAIN", value_parser = flags::duration)]
    pub drain: Duration,

    /// How long a duke or a queen whose connection broke may take to come back, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", env = "DISTWASM_GRACE", value_parser = flags::duration)]
    pub grace: Duration,

    /// Memory for programs, inputs and results of all jobs, such as 512MB or 8G, and at least 64MB; a plain number is MB
    /// (1 MB = 1,048,576 bytes) [default: half of this machine's memory]
    #[arg(long, value_name = "SIZE", env = "DISTWASM_MEMORY_LIMIT", value_parser = memory_limit)]
    pub memory_limit: Option<u64>,

    /// Where the key is.
    #[command(flatten)]
    pub key: KeyFlags,

    /// Let in everybody who reaches the port, in plaintext and without a token: for networks where everybody is trusted
    #[arg(long, env = "DISTWASM_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// Listen on the TCP port alone, and not on a Unix socket for this user's processes on this machine
    #[arg(long, env = "DISTWASM_NO_SOCKET", value_parser = BoolishValueParser::new())]
    pub no_socket: bool,

    /// The longest --timeout of a job, such as 1h, or `none`; a job without one has this one. [default: none on a loopback
    /// address, 24h on others]
    #[arg(long, value_name = "DURATION|none", env = "DISTWASM_TIMEOUT_MAX")]
    pub timeout_max: Option<TimeoutMax>,

    /// Take slots by force that another job is owed and that have not come back after this time, such as 10min; what
    /// runs there is killed and runs again later. Without it, slots change hands when their units are done
    #[arg(long, value_name = "DURATION", env = "DISTWASM_PREEMPT_AFTER", value_parser = flags::positive_duration)]
    pub preempt_after: Option<Duration>,

    /// Format of log lines; RUST_LOG selects which are written
    #[arg(long, value_enum, default_value_t, env = "DISTWASM_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Where a king's key is.
#[derive(Args, Clone, Debug)]
pub struct KeyFlags {
    /// Folder of the king's key and tokens, which only its user may enter. A king that serves also keeps programs there
    /// (`queen push`), and has the folder for itself [default: distwasm/king in the user's state folder, ~/.local/state,
    /// for key and tokens alone]
    #[arg(long, value_name = "DIR", env = "DISTWASM_DATA")]
    pub data: Option<PathBuf>,

    /// A certificate of your own instead, in PEM form; read at the start
    #[arg(long, value_name = "FILE", env = "DISTWASM_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of that certificate, in PEM form
    #[arg(long, value_name = "FILE", env = "DISTWASM_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// What a king does instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The king's certificate and key
    #[command(subcommand)]
    Cert(CertCommand),
    /// Tokens, by which dukes, queens and monitors on other machines are let in
    #[command(subcommand)]
    Token(TokenCommand),
    /// Looks through what a king keeps: whether its database is whole, and all bytes are those that were written
    Check(CheckFlags),
    /// Makes a folder for a king of a backup, which `queen admin backup` has made
    Restore(RestoreFlags),
}

/// Whose memory is looked through.
#[derive(Args, Clone, Debug)]
pub struct CheckFlags {
    /// The folder of a king that does not run now
    #[arg(long, value_name = "DIR", env = "DISTWASM_DATA")]
    pub data: PathBuf,
}

/// A backup, and where it is restored.
#[derive(Args, Clone, Debug)]
pub struct RestoreFlags {
    /// The folder, which keeps nothing yet; created if missing. A king's key and tokens may be there
    #[arg(long, value_name = "DIR", env = "DISTWASM_DATA")]
    pub data: PathBuf,

    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// What can be done with the certificate.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Prints the fingerprint of the king's key, by which dukes and queens know their king; makes the key if there is
    /// none
    Show(KeyFlags),
}

/// The address of the HTTP pages, if they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// They are not served.
    None,
    /// On this address.
    On(SocketAddr),
}

impl FromStr for Http {
    type Err = String;

    fn from_str(text: &str) -> Result<Http, String> {
        if text == "none" {
            Ok(Http::None)
        } else {
            flags::listen_address(HTTP_PORT)(text).map(Http::On).map_err(|why| why + ", or `none`")
        }
    }
}

/// Megabytes that are enough for a king.
fn memory_limit(text: &str) -> Result<u64, String> {
    let mb = flags::positive_megabytes(text)?;
    let least = KING_MEMORY_BYTES_MIN >> 20;
    if mb < least { Err(format!("a king needs at least {least} MB")) } else { Ok(mb) }
}

/// Why the flags lead to no key.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KeyFlagsError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl KeyFlags {
    /// The key; makes one if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read or made, or is not safe.
    pub fn open(&self) -> Result<Key, KeyFlagsError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Ok(Key::read(certificate, key)?),
            _ => Ok(Key::open(&self.data()?)?),
        }
    }

    /// The folder of the king's data; created if missing.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not safe.
    pub fn data(&self) -> Result<DataFolder, DataError> {
        DataFolder::open(self.data.as_deref())
    }
}

/// The longest timeout of a unit, as it was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutMax {
    /// A unit may take as long as its queen likes.
    None,
    /// It may take as long as this.
    At(Duration),
}

impl FromStr for TimeoutMax {
    type Err = String;

    fn from_str(text: &str) -> Result<TimeoutMax, String> {
        match text {
            "none" => Ok(TimeoutMax::None),
            _ => match flags::duration(text) {
                Ok(Duration::ZERO) => Err("no unit takes no time; `none` means no limit".to_owned()),
                Ok(max) => Ok(TimeoutMax::At(max)),
                Err(why) => Err(why + ", or `none`"),
            },
        }
    }
}

impl Options {
    /// The memory for payloads, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_limit.map_or_else(default_memory_bytes, |mb| mb << 20)
    }

    /// The longest timeout of a unit: without the flag, it depends on who can reach the king.
    pub fn timeout_max(&self) -> Option<Duration> {
        match self.timeout_max {
            Some(TimeoutMax::None) => None,
            Some(TimeoutMax::At(max)) => Some(max),
            None => (!self.address().ip().to_canonical().is_loopback()).then_some(TIMEOUT_BEYOND_LOOPBACK),
        }
    }

    /// The address to listen on.
    pub fn address(&self) -> SocketAddr {
        let mut address = self.listen;
        if let Some(port) = self.port {
            address.set_port(port);
        }
        address
    }
}

/// A file with the address that the king listens on. It is removed when the king ends.
#[derive(Debug)]
pub struct PortFile {
    path: PathBuf,
    text: String,
}

impl PortFile {
    /// Writes the address to the file atomically: a reader never sees half of it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written or renamed.
    pub fn write(path: &Path, address: SocketAddr) -> io::Result<PortFile> {
        let text = format!("{address}\n");
        files::replace(path, text.as_bytes())?;
        Ok(PortFile { path: path.to_owned(), text })
    }
}

impl Drop for PortFile {
    fn drop(&mut self) {
        // A king that replaced this one may have written its own address.
        // One byte more shows whether the text is longer.
        let mut text = String::new();
        let read = files::open_own(&self.path)
            .and_then(|file| file.take(self.text.len() as u64 + 1).read_to_string(&mut text));
        if read.is_ok()
            && text == self.text
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the port file cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_file_takes_the_place_of_a_link_and_only_that_file_is_removed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let address: SocketAddr = "127.0.0.1:1900".parse().unwrap();
        fs::write(path("victim"), "precious").unwrap();
        symlink("victim", path("port")).unwrap();
        let written = PortFile::write(&path("port"), address).unwrap();
        assert_eq!(fs::read_to_string(path("victim")).unwrap(), "precious");
        // Somebody exchanges it: a link to the same text, and a named pipe, which must not make the king wait.
        fs::rename(path("port"), path("moved")).unwrap();
        symlink("moved", path("port")).unwrap();
        drop(written);
        assert!(path("port").is_symlink());
        fs::remove_file(path("port")).unwrap();
        let written = PortFile::write(&path("port"), address).unwrap();
        fs::remove_file(path("port")).unwrap();
        let status = std::process::Command::new("mkfifo").arg(path("port")).status();
        assert!(status.unwrap().success());
        drop(written);
        assert!(path("port").exists());
        fs::remove_file(path("port")).unwrap();
        drop(PortFile::write(&path("port"), address).unwrap());
        assert!(!path("port").exists());
    }

    #[test]
    fn timeouts_have_a_bound_where_other_machines_reach_the_king() {
        let max = |args: &[&str]| Options::try_parse_from(["king"].iter().chain(args)).map(|king| king.timeout_max());
        assert_eq!(max(&[]).unwrap(), None);
        assert_eq!(max(&["--listen", "0.0.0.0"]).unwrap(), Some(Duration::from_secs(86_400)));
        assert_eq!(max(&["--listen", "::"]).unwrap(), Some(Duration::from_secs(86_400)));
        assert_eq!(max(&["--listen", "::1", "--timeout-max", "90s"]).unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(max(&["--listen", "10.0.0.1", "--timeout-max", "none"]).unwrap(), None);
        assert!(max(&["--timeout-max", "0s"]).unwrap_err().to_string().contains("`none` means no limit"));
        assert!(max(&["--timeout-max", "soon"]).is_err());
    }

    #[test]
    fn an_address_without_a_port_has_the_usual_one() {
        let options = Options::parse_from(["king", "--listen", "0.0.0.0", "--http", "::1"]);
        assert_eq!(options.address().to_string(), "0.0.0.0:1900");
        assert!(matches!(options.http, Http::On(address) if address.to_string() == "[::1]:1901"));
        let options = Options::parse_from(["king", "--listen", "0.0.0.0", "--port", "7", "--http", "none"]);
        assert_eq!((options.address().port(), options.http), (7, Http::None));
    }
}
