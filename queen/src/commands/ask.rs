//! Asks a king something that has one answer.

use clap::Args;
use distwasm_process::token_flags::TokenFlags;
use distwasm_proto::limits::{KING_PATIENCE, MESSAGE_BYTES_MAX};
use distwasm_transport::{
    address::Address,
    credentials::{Credentials, CredentialsError},
    link::{Remote, connect, why_unreached},
    service::king_client::KingClient,
};
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Response, Status, transport::Channel};

/// The king to ask.
#[derive(Args, Debug)]
pub struct AskedKing {
    /// The king to ask
    #[arg(short, long, value_name = "HOST:PORT", env = "DISTWASM_KING_ADDRESS")]
    pub king_address: Address,

    /// How the king lets this program in.
    #[command(flatten)]
    pub token: TokenFlags,
}

/// Why there is no answer.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AskError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("no king answers at {address}: {why}")]
    NoKing { address: Address, why: String },
    #[error("the king at {address} does not let this process in: {why}")]
    NotLetIn { address: Address, why: String },
    #[error("the king at {address} says: {why}")]
    Refused { address: Address, why: String },
}

impl AskedKing {
    /// Connects, asks one question, and returns the answer.
    ///
    /// # Errors
    ///
    /// When there is no answer in time, or the king refuses it.
    pub(super) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(KingClient<Channel>, Remote) -> Result<Response<T>, Status>,
    ) -> Result<T, AskError> {
        let TokenFlags { token_file, insecure } = &self.token;
        let credentials = Credentials::find(&self.king_address, token_file.as_deref(), *insecure)?;
        let no_king = |why| AskError::NoKing { address: self.king_address.clone(), why };
        let asked = async {
            let connected = connect(&self.king_address, &credentials).await;
            let remote = connected.map_err(|error| no_king(why_unreached(&error)))?;
            let client = KingClient::new(remote.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            question(client, remote).await.map_err(|status| {
                let (address, why) = (self.king_address.clone(), status.message().to_owned());
                match status.code() {
                    Code::Unauthenticated | Code::PermissionDenied => AskError::NotLetIn { address, why },
                    Code::Unavailable | Code::Unknown | Code::Internal => no_king(why),
                    _ => AskError::Refused { address, why },
                }
            })
        };
        let answered = timeout(KING_PATIENCE, asked).await;
        Ok(answered.unwrap_or_else(|_| Err(no_king(format!("no answer in {KING_PATIENCE:?}"))))?.into_inner())
    }
}
