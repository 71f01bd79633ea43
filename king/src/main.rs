//! The `king` program: see [`distwasm_king`].

use std::{io::ErrorKind, process::ExitCode};

use anyhow::Context;
use distwasm_king::{
    Reign,
    accept::Connections,
    options::{Http, Options, PortFile},
    scheduler::Rules,
};
use distwasm_process::{flags, shutdown::Stop, start};
use tokio::net::TcpListener;
use tracing::{info, warn};

fn main() -> ExitCode {
    let options = flags::parse::<Options>();
    start::serve(options.log_format, 0, || run(options))
}

async fn run(options: Options) -> anyhow::Result<()> {
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
    let port_file = options.port_file.as_deref().map(|path| {
        PortFile::write(path, address).with_context(|| format!("failed to write {} (--port-file)", path.display()))
    });
    let port_file = port_file.transpose()?;
    let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
    info!(%address, http = http_address.map(|address| address.to_string()), "the king is ready");
    if address.ip().is_loopback() {
        info!("only this machine can reach it: --listen 0.0.0.0:1900 lets other machines in");
    } else {
        warn!(%address, "anybody who reaches this address can submit programs and see inputs: trusted networks only");
    }
    let stop = Stop::new(options.drain);
    let signals = stop.on_signals()?;
    let rules = Rules { grace: options.grace, preempt_after: options.preempt_after, ..Rules::default() };
    let reign = Reign::now(rules, options.timeout_max());
    let incoming = Connections::new(listener, Connections::max_for_peers());
    let (served, ()) = tokio::join!(distwasm_king::run(incoming, http, reign, stop), signals);
    drop(port_file);
    Ok(served?)
}
