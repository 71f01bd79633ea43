//! Why a link to a king could not be opened, or ended.

use std::time::Duration;

use distwasm_proto::limits::HELLO_WITHIN;
use distwasm_transport::{stream::StreamError, transfer::TransferError};
use thiserror::Error;

/// Why a link could not be opened, or ended.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LinkError {
    #[error("no king answers at {address} (tried for {tried:?}): {why}")]
    NoKing { address: String, tried: Duration, why: String },
    #[error("{0}")]
    NoWay(String),
    #[error("the connection to the king broke: {0}")]
    Broken(StreamError),
    #[error("the king does not let this queen in: {0}")]
    NotLetIn(String),
    #[error("the connection to the king ended without a word")]
    Silent,
    #[error("the listener at {0} said nothing within {HELLO_WITHIN:?}; is it a king?")]
    NoWelcome(String),
    #[error("the king ended the link: {reason}")]
    Ended { reason: String, come_back: bool },
    #[error("the king went away, and none was back at {address} within {tried:?} (--grace): {why}")]
    Gone { address: String, tried: Duration, why: String },
    #[error("the king's words do not fit together: {0}")]
    Transfer(#[from] TransferError),
    #[error("the king broke the protocol: {0}")]
    Nonsense(&'static str),
}

impl From<StreamError> for LinkError {
    fn from(error: StreamError) -> LinkError {
        match error {
            StreamError::Denied(why) => LinkError::NotLetIn(why),
            error => LinkError::Broken(error),
        }
    }
}

impl LinkError {
    /// Whether retrying may help. `comes_back` is true once this queen has been welcomed.
    pub fn may_pass(&self, comes_back: bool) -> bool {
        match self {
            LinkError::Broken(_) | LinkError::Silent => true,
            LinkError::NoWelcome(_) => comes_back,
            LinkError::Ended { come_back, .. } => *come_back,
            LinkError::NotLetIn(_)
            | LinkError::NoWay(_)
            | LinkError::NoKing { .. }
            | LinkError::Gone { .. }
            | LinkError::Transfer(_)
            | LinkError::Nonsense(_) => false,
        }
    }
}
