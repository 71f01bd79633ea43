//! A separate king and duke for one case, on this machine.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::park_timeout,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use distwasm_process::clock::Clock;
use distwasm_transport::{credentials::Credentials, link::KingAddress};

use crate::{
    options::Wire,
    place::{Place, program, tail},
    processes::{self, Children},
};

/// The timeout of steps that should take a moment.
const PATIENCE: Duration = Duration::from_secs(20);
/// The timeout of longer steps, as when a thousand dukes join.
const WORD_PATIENCE: Duration = Duration::from_secs(60);

/// A daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon, with its log in a file in this folder.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(mut command: Command, name: &str, folder: &Path) -> Result<Daemon> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn().with_context(|| format!("no {name}"))?;
        Ok(Daemon { child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        tail(&self.log)
    }

    /// Waits until its log has this word.
    ///
    /// # Errors
    ///
    /// When it ends, or takes too long.
    pub fn await_word(&mut self, word: &str) -> Result<()> {
        let clock = Clock::start();
        while !self.log().contains(word) {
            let is_late = Duration::from_micros(clock.now().0) > WORD_PATIENCE;
            ensure!(!is_late && !self.has_ended()?, "it did not say {word:?}: {}", self.last_words());
            park_timeout(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether it has ended.
    ///
    /// # Errors
    ///
    /// When its state cannot be read.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// The file of a token with which a peer may do everything.
fn make_token(place: &Place) -> Result<PathBuf> {
    let mut command = program("king")?;
    command.args(["token", "create", "--role", "admin", "--data"]).arg(place.path().join("king"));
    let made = command.output()?;
    ensure!(made.status.success(), "no token: {}", String::from_utf8_lossy(&made.stderr));
    let file = place.path().join("token");
    fs::write(&file, made.stdout)?;
    fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    Ok(file)
}

/// A king, and a duke unless the case has simulated ones.
#[derive(Debug)]
pub struct Kingdom {
    /// Where the king is, for peers in this process.
    pub address: KingAddress,
    /// The same for other programs.
    pub flags: Vec<String>,
    /// The king.
    pub king: Daemon,
    duke: Option<Daemon>,
}

impl Kingdom {
    /// A king without dukes.
    ///
    /// # Errors
    ///
    /// When the king does not listen in time.
    pub fn without_dukes(place: &Place) -> Result<Kingdom> {
        Kingdom::king(place, &[])
    }

    fn king(place: &Place, flags: &[String]) -> Result<Kingdom> {
        let port_file = place.path().join("port");
        let _old = fs::remove_file(&port_file);
        let mut command = program("king")?;
        command.args(["--listen", "127.0.0.1:0", "--http", "none", "--port-file"]).arg(&port_file);
        command.arg("--data").arg(place.path().join("king")).args(match place.wire() {
            Wire::Socket => &[][..],
            Wire::Tls => &["--no-socket"],
            Wire::Plain => &["--insecure", "--no-socket"],
        });
        command.args(flags);
        let king = Daemon::start(command, "king", place.path())?;
        let clock = Clock::start();
        loop {
            if let Ok(address) = fs::read_to_string(&port_file) {
                let mut flags = vec!["--king-address".to_owned(), address.trim().to_owned()];
                let address = address.trim().parse().map_err(anyhow::Error::msg)?;
                let token = (place.wire() == Wire::Tls).then(|| make_token(place)).transpose()?;
                flags.extend(token.iter().flat_map(|file| ["--token-file".to_owned(), file.display().to_string()]));
                let is_insecure = place.wire() == Wire::Plain;
                flags.extend(is_insecure.then(|| "--insecure".to_owned()));
                let credentials = Credentials::find(&address, token.as_deref(), is_insecure)?;
                return Ok(Kingdom { address: KingAddress::Remote(address, credentials), flags, king, duke: None });
            }
            if Duration::from_micros(clock.now().0) > PATIENCE {
                bail!("the king does not listen: {}", king.last_words());
            }
            park_timeout(Duration::from_millis(2));
        }
    }

    /// A king, and a duke with `cpus` slots and its own cache.
    ///
    /// # Errors
    ///
    /// When they cannot be started.
    pub fn new(place: &Place, cpus: usize) -> Result<Kingdom> {
        Kingdom::with_flags(place, cpus, &[])
    }

    /// The same, with more flags of the king.
    ///
    /// # Errors
    ///
    /// When they cannot be started.
    pub fn with_flags(place: &Place, cpus: usize, flags: &[String]) -> Result<Kingdom> {
        let mut kingdom = Kingdom::king(place, flags)?;
        let mut command = program("duke")?;
        command.args(&kingdom.flags).args(["--num-cpus", &cpus.to_string(), "--cache"]);
        command.arg(place.folder("duke-cache")?).arg("--allow-dir").arg(place.path());
        kingdom.duke = Some(Daemon::start(command, "duke", place.path())?);
        Ok(kingdom)
    }

    /// King and duke, by name and process id.
    pub fn members(&self) -> Vec<(String, u32)> {
        let duke = self.duke.iter().map(|duke| ("duke".to_owned(), duke.id()));
        std::iter::once(("king".to_owned(), self.king.id())).chain(duke).collect()
    }

    /// The processor time of king and duke and of peasants that have ended, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        let of = |id| processes::cpu_us(id).unwrap_or(0) + processes::children_cpu_us(id).unwrap_or(0);
        self.members().into_iter().map(|(_, id)| of(id)).sum()
    }

    /// Waits until no peasant is left.
    ///
    /// # Errors
    ///
    /// When some are left after a long time.
    pub fn settle(&self) -> Result<()> {
        let Some(duke) = &self.duke else { return Ok(()) };
        let (clock, mut children) = (Clock::start(), Children::default());
        while !children.of(duke.id()).is_empty() {
            if Duration::from_micros(clock.now().0) > PATIENCE {
                bail!("the duke keeps peasants without a job: {}", duke.last_words());
            }
            park_timeout(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The ends of all logs, for messages.
    pub fn last_words(&self) -> String {
        let duke = self.duke.as_ref().map(Daemon::last_words).unwrap_or_default();
        format!("the king: {}\nthe duke: {duke}", self.king.last_words())
    }
}
