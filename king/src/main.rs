//! The `king` program: see [`distwasm_king`].

use std::{io::ErrorKind, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use distwasm_king::{
    Reign,
    options::{Http, Options, write_port_file},
};
use distwasm_proto::{exit::Exit, logging, memory, stop::Stop};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    memory::keep_together();
    let options = Options::parse();
    logging::start(options.log_format, "info");
    let runtime = tokio::runtime::Runtime::new().context("failed to start threads");
    match runtime.and_then(|runtime| runtime.block_on(run(options))) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            error!("{error:#}");
            Exit::CouldNotRun.into()
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let address = options.address();
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => " (is another king running? --port takes another port)",
            ErrorKind::AddrNotAvailable => " (this machine has no such address; 0.0.0.0 is all that it has)",
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
    if let Some(path) = &options.port_file {
        write_port_file(path, address).with_context(|| format!("failed to write {}", path.display()))?;
    }
    let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
    info!(%address, http = http_address.map(|address| address.to_string()), "the king is ready");
    if !address.ip().is_loopback() {
        warn!(%address, "anybody who reaches this address can submit programs and see inputs: trusted networks only");
    }
    let stop = Stop::new(options.drain);
    let signals = stop.on_signals()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (served, ()) = tokio::join!(distwasm_king::run(incoming, http, Reign::now(options.grace), stop), signals);
    Ok(served?)
}
