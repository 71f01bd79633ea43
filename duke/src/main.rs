//! The `duke` program: see [`distwasm_duke`].

use std::process::ExitCode;

use distwasm_duke::{BLOCKING_THREADS, options::Options};
use distwasm_process::{flags, shutdown::Stop, start};

fn main() -> ExitCode {
    let options = flags::parse::<Options>();
    start::serve(options.log_format, BLOCKING_THREADS, || run(options))
}

async fn run(options: Options) -> anyhow::Result<()> {
    let stop = Stop::new(options.drain);
    let settings = options.settings()?;
    let signals = stop.on_signals()?;
    let work = async {
        let worked = distwasm_duke::run(settings, stop.clone()).await;
        stop.end();
        worked
    };
    let (worked, ()) = tokio::join!(work, signals);
    Ok(worked?)
}
