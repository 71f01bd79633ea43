//! The `duke` program: see [`distwasm_duke`].

use std::process::ExitCode;

use clap::Parser;
use distwasm_duke::options::Options;
use distwasm_proto::{exit::Exit, logging};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::error;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    logging::start(options.log_format, "info");
    match run(options).await {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            error!("{error:#}");
            Exit::CouldNotRun.into()
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let asked = shutdown.clone();
    let signals = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = asked.cancelled() => {}
        }
        asked.cancel();
    };
    let work = async {
        let worked = distwasm_duke::run(options.settings(), shutdown.clone()).await;
        shutdown.cancel();
        worked
    };
    let (worked, ()) = tokio::join!(work, signals);
    Ok(worked?)
}
