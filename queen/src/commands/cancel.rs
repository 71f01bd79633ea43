//! `queen cancel`: ends jobs of a king.

use clap::Args;
use distwasm_proto::{text, wire::CancelJobRequest};

use super::{
    ask::{AskError, AskedKing},
    jobs::parse_job,
};

/// Cancels jobs of a king: what runs for them is ended at once, and their queens stop.
#[derive(Args, Debug)]
pub struct CancelOptions {
    /// The numbers of the jobs, as `queen jobs` shows them
    #[arg(value_name = "ID", required = true, value_parser = parse_job)]
    pub jobs: Vec<u64>,

    /// The king that has them.
    #[command(flatten)]
    pub king: AskedKing,
}

/// Cancels a job; returns a sentence about it.
///
/// # Errors
///
/// When the king does not answer, or refuses.
pub async fn cancel(options: &CancelOptions, job: u64) -> Result<String, AskError> {
    let request = CancelJobRequest { job };
    let reply = options.king.ask(async |mut king, remote| king.cancel_job(remote.request(request)).await).await?;
    Ok(match reply.project.as_str() {
        "" => format!("job {job} is cancelled"),
        project => format!("job {job} of project {} is cancelled", text::line(project)),
    })
}
