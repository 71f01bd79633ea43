//! The `king` program: see [`distwasm_king`].

use std::{io::ErrorKind, net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::Context;
use distwasm_king::{
    Reign,
    accept::Connections,
    advertise::Advertised,
    authority::Authority,
    check,
    handshakes::Handshakes,
    http::Pages,
    key::Key,
    options::{CertCommand, Command, Http, KeyFlags, Options, PortFile},
    programs::Programs,
    restore,
    scheduler::Rules,
    tokens::{self, store::Store},
};
use distwasm_process::{files, flags, shutdown::Stop, start};
use distwasm_store::sqlite::SqliteStore;
use distwasm_transport::own_socket::OwnSocket;
use tokio::net::TcpListener;
use tracing::{info, warn};

fn main() -> ExitCode {
    let (options, matches) = flags::parse_typed::<Options>();
    let advertises = flags::is_typed(&matches, "advertise");
    start::serve(options.log_format, 0, || async {
        if advertises && options.command.is_some() {
            tell_idle_advertise("only a king that serves prints commands");
        }
        match options.command {
            Some(Command::Cert(CertCommand::Show(flags))) => show_certificate(&flags),
            Some(Command::Token(command)) => Ok(command.run()?),
            Some(Command::Check(flags)) => Ok(check::run(&flags)?),
            Some(Command::Restore(flags)) => Ok(restore::run(&flags)?),
            None => run(options, advertises).await,
        }
    })
}

fn tell_idle_advertise(why: &str) {
    warn!(why, "--advertise has no effect");
}

fn show_certificate(flags: &KeyFlags) -> anyhow::Result<()> {
    let key = flags.open()?;
    let user = rustix::process::geteuid().as_raw();
    let (fingerprint, path) = (key.fingerprint(), key.path().display());
    let text = format!("fingerprint  {fingerprint}\nkey          {path}\nkings of     user {user} with this key\n");
    Ok(files::write_stdout(text.as_bytes())?)
}

/// Serves. If `advertises`, the user has typed where other machines reach this king.
async fn run(options: Options, advertises: bool) -> anyhow::Result<()> {
    let key = options.key.open()?;
    let data = options.key.data()?;
    let store = Store::in_folder(data.path());
    // A king remembers where it was told to, and not in a folder that it shares with this user's other kings.
    let memory = options.key.data.as_ref().map(|_| SqliteStore::open(data.path())).transpose()?;
    let address = options.address();
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => " (is another king running? --port takes another port)",
            ErrorKind::AddrNotAvailable => " (this machine has no such address; 0.0.0.0 means all its addresses)",
            _ => "",
        };
        anyhow::Error::from(error).context(format!("failed to listen on {address}{hint}"))
    })?;
    let address = listener.local_addr()?;
    let http = match options.http {
        Http::None => None,
        Http::On(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("failed to listen on {address} for HTTP (--http takes another address, or none)")
        })?),
    };
    let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
    let pages = http.map(|http| Pages::new(http, &key, options.metrics_open || options.insecure)).transpose()?;
    let first = first_lines(&options, address, &store, &key)?;
    let authority = Authority::open(key.fingerprint(), store, options.insecure)?;
    let port_file = options.port_file.as_deref().map(|path| {
        PortFile::write(path, address).with_context(|| format!("failed to write {} (--port-file)", path.display()))
    });
    let port_file = port_file.transpose()?;
    let socket = if options.no_socket { None } else { listen_for_own(address.port()) };
    info!(
        %address,
        http = http_address.map(|address| address.to_string()),
        socket = socket.as_ref().map(|socket| socket.path().display().to_string()),
        fingerprint = %key.fingerprint(),
        store = memory.as_ref().map(|memory| memory.folder().display().to_string()),
        "the king is ready"
    );
    if address.ip().is_loopback() {
        info!("only this machine can reach it: --listen 0.0.0.0:1900 lets other machines in");
    }
    if options.insecure {
        warn!(
            %address,
            "--insecure: everybody who reaches this address can submit programs, and everybody on the way can read and \
             change inputs and results"
        );
    }
    match first {
        Ok(lines) => {
            info!(
                "these lines let in dukes and queens, and are shown this once; `king token create` makes other tokens"
            );
            files::write_stdout(lines.as_bytes())?;
        }
        Err(why) if advertises => tell_idle_advertise(why),
        Err(_) => {}
    }
    let stop = Stop::new(options.drain);
    let signals = stop.on_signals()?;
    let connections = Connections::new(listener, Connections::max_for_peers()).with_socket(socket);
    let incoming = Handshakes::new(connections, &key);
    let rules = Rules { grace: options.grace, preempt_after: options.preempt_after, ..Rules::default() };
    let reign = Reign::now(rules, options.timeout_max(), options.memory_bytes());
    let programs = memory.map_or_else(Programs::none, |memory| Programs::in_store(Arc::new(memory)));
    let king = distwasm_king::run(incoming, pages, (authority, programs), reign, stop);
    let (served, ()) = tokio::join!(king, signals);
    drop(port_file);
    Ok(served?)
}

/// The lines that let in the first dukes and queens of other machines, or why none are shown.
fn first_lines(
    options: &Options,
    address: SocketAddr,
    store: &Store,
    key: &Key,
) -> anyhow::Result<Result<String, &'static str>> {
    if options.insecure {
        return Ok(Err("with --insecure there are no tokens, so no commands with tokens are printed"));
    }
    if address.ip().is_loopback() {
        return Ok(Err("other machines cannot reach this king, so no commands for them are printed"));
    }
    if tokens::first::stdout_is_a_log() {
        if store.read()?.is_empty() {
            info!("stdout is a log, so no tokens are shown there: `king token create` makes them");
        }
        return Ok(Err("stdout is a log, so no commands with tokens are printed"));
    }
    let place = options.advertise.clone().unwrap_or_else(Advertised::this_machine).with_port(address.port());
    let lines = tokens::first::make(store, key.fingerprint(), &place)?;
    Ok(lines.ok_or("this king has tokens, and prints commands only when it makes the first ones"))
}

/// Listens on the socket for processes of this user. Without it, they need what others need.
fn listen_for_own(port: u16) -> Option<OwnSocket> {
    OwnSocket::listen(port)
        .inspect_err(|error| {
            warn!(%error, "no socket for this user's processes on this machine: they need a token, as all others do");
        })
        .ok()
}
