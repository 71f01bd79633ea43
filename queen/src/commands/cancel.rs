//! `queen cancel`: ends jobs of a king.

use clap::Args;
use distwasm_proto::{
    error_text::chain,
    limits::{KING_PATIENCE, MESSAGE_BYTES_MAX},
    text,
    wire::CancelJobRequest,
};
use distwasm_transport::{address::Address, link::connect, service::king_client::KingClient};
use thiserror::Error;
use tokio::time::timeout;

use super::jobs::parse_job;

/// Cancels jobs of a king: what runs for them is ended at once, and their queens stop.
#[derive(Args, Debug)]
pub struct CancelOptions {
    /// The numbers of the jobs, as `queen jobs` shows them
    #[arg(value_name = "ID", required = true, value_parser = parse_job)]
    pub jobs: Vec<u64>,

    /// The king that has them
    #[arg(short, long, value_name = "HOST:PORT", env = "DISTWASM_KING_ADDRESS")]
    pub king_address: Address,
}

/// Why a job was not cancelled.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CancelError {
    #[error("no king answers at {address}: {why}")]
    NoKing { address: Address, why: String },
    #[error("failed to cancel job {job}: {why}")]
    Refused { job: u64, why: String },
}

/// Cancels a job; returns a sentence about it.
///
/// # Errors
///
/// When the king does not answer, or refuses.
pub async fn cancel(options: &CancelOptions, job: u64) -> Result<String, CancelError> {
    let no_king = |why| CancelError::NoKing { address: options.king_address.clone(), why };
    let asked = async {
        let channel = connect(&options.king_address).await.map_err(|error| no_king(chain(&error)))?;
        let mut king = KingClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let reply = king.cancel_job(CancelJobRequest { job }).await;
        reply.map_err(|status| CancelError::Refused { job, why: status.message().to_owned() })
    };
    let answered = timeout(KING_PATIENCE, asked).await;
    let reply = answered.unwrap_or_else(|_| Err(no_king(format!("no answer in {KING_PATIENCE:?}"))))?.into_inner();
    Ok(match reply.project.as_str() {
        "" => format!("job {job} is cancelled"),
        project => format!("job {job} of project {} is cancelled", text::line(project)),
    })
}
