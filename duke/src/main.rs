//! The `duke` program: see [`distwasm_duke`].

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use distwasm_duke::options::Options;
use distwasm_proto::{exit::Exit, logging, memory, stop::Stop};
use tracing::error;

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
    let stop = Stop::new(options.drain);
    let signals = stop.on_signals()?;
    let work = async {
        let worked = distwasm_duke::run(options.settings(), stop.clone()).await;
        stop.end();
        worked
    };
    let (worked, ()) = tokio::join!(work, signals);
    Ok(worked?)
}
