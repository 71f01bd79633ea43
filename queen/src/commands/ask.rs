//! Asks a king something that has one answer.

use std::time::Duration;

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
    #[error("the king at {address} does not know this command: it runs an older version of distwasm")]
    Older { address: Address },
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
        let asked = async |remote: Remote| {
            let client = KingClient::new(remote.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            question(client, remote).await
        };
        self.ask_within(KING_PATIENCE, asked).await
    }

    /// As [`AskedKing::ask`], for any service of the king, and with more patience for what takes longer.
    ///
    /// # Errors
    ///
    /// When there is no answer in time, or the king refuses it.
    pub(super) async fn ask_within<T>(
        &self,
        patience: Duration,
        question: impl AsyncFnOnce(Remote) -> Result<Response<T>, Status>,
    ) -> Result<T, AskError> {
        let TokenFlags { token_file, insecure } = &self.token;
        let credentials = Credentials::find(&self.king_address, token_file.as_deref(), *insecure)?;
        let asked = async {
            let connected = connect(&self.king_address, &credentials).await;
            let remote = connected.map_err(|error| self.no_king(why_unreached(&error)))?;
            question(remote).await.map_err(|status| self.refused(&status))
        };
        let answered = timeout(patience, asked).await;
        Ok(answered.unwrap_or_else(|_| Err(self.no_king(format!("no answer in {patience:?}"))))?.into_inner())
    }

    fn no_king(&self, why: String) -> AskError {
        AskError::NoKing { address: self.king_address.clone(), why }
    }

    /// Why a king does not do what it is asked for.
    pub(super) fn refused(&self, status: &Status) -> AskError {
        let (address, why) = (self.king_address.clone(), status.message().to_owned());
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => AskError::NotLetIn { address, why },
            Code::Unavailable | Code::Unknown | Code::Internal => self.no_king(why),
            Code::Unimplemented => AskError::Older { address },
            _ => AskError::Refused { address, why },
        }
    }
}
