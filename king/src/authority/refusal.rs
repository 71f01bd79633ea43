//! Why a peer is not let in. The messages are for the people on its side, and for the king's log; none has a secret.

use distwasm_transport::token::{TokenError, TokenId};
use thiserror::Error;

use super::Request;
use crate::tokens::Role;

/// Why a peer may not do what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refusal {
    #[error(
        "this king takes only TLS with a token, or peers of its own user over its socket: leave --insecure out, and give \
         a token of `king token create` by --token-file or DISTWASM_TOKEN"
    )]
    Plaintext,
    #[error("this king wants a token: `king token create` makes one, for --token-file or DISTWASM_TOKEN")]
    NoToken,
    #[error("{0}; copy it as a whole, or have the king's user make another one (`king token create`)")]
    Malformed(TokenError),
    #[error("the token is for another king, which has another key: this king's user makes one for this king")]
    WrongKingdom,
    #[error("this king does not know token {0}: the king's user makes a new one (`king token create`)")]
    Unknown(TokenId),
    #[error("token {0} has expired: the king's user makes a new one (`king token create`)")]
    Expired(TokenId),
    #[error("token {0} was revoked: the king's user makes a new one (`king token create`)")]
    Revoked(TokenId),
    #[error("token {0} was made later than it is now by the king's clock, which must be wrong: set the clock")]
    FromTheFuture(TokenId),
    #[error("token {id} is for {role}s, and does not allow {}: use one for {}", .request.what(), .request.roles())]
    WrongRole { id: TokenId, role: Role, request: Request },
    #[error("token {id} is for other projects ({projects}), and does not allow jobs of project {project}")]
    WrongProject { id: TokenId, project: String, projects: String },
}

impl Refusal {
    /// What it is, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self {
            Refusal::Plaintext => "plaintext",
            Refusal::NoToken => "no token",
            Refusal::Malformed(_) => "malformed",
            Refusal::WrongKingdom => "wrong kingdom",
            Refusal::Unknown(_) => "unknown",
            Refusal::Expired(_) => "expired",
            Refusal::Revoked(_) => "revoked",
            Refusal::FromTheFuture(_) => "from the future",
            Refusal::WrongRole { .. } => "wrong role",
            Refusal::WrongProject { .. } => "wrong project",
        }
    }

    /// Whether the king knows who asks, and does not allow it. If not, it does not know who asks.
    pub(crate) fn is_about_rights(&self) -> bool {
        matches!(self, Refusal::WrongRole { .. } | Refusal::WrongProject { .. })
    }
}

impl Request {
    fn what(self) -> &'static str {
        match self {
            Request::Volunteer => "offering slots",
            Request::SubmitJob => "submitting jobs",
            Request::CancelJob => "cancelling jobs",
            Request::UsePrograms => "using the programs that a king keeps",
            Request::Administer => "administering a king",
            Request::List => "seeing jobs, dukes and programs",
            Request::Metrics => "seeing metrics",
            Request::Health | Request::Other => "this",
        }
    }

    /// The roles that may ask for it.
    fn roles(self) -> &'static str {
        match self {
            Request::Volunteer => "dukes or admins",
            Request::SubmitJob | Request::CancelJob | Request::UsePrograms => "queens or admins",
            Request::Administer => "admins",
            Request::List => "queens, observers or admins",
            Request::Metrics | Request::Health | Request::Other => "observers or admins",
        }
    }
}
