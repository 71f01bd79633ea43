//! Under which name a peer is counted, so that nobody takes all of a king.

use std::net::IpAddr;

use distwasm_transport::token::TokenId;

use super::Identity;

/// Where a peer comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The king's own machine, however many processes there are: they may have all of it.
    #[default]
    Here,
    /// An address elsewhere.
    Address(IpAddr),
    /// A token, from wherever it is used.
    Token(TokenId),
}

impl Origin {
    /// The origin of a peer at this address, if it has one.
    pub fn of(identity: &Identity, address: Option<IpAddr>) -> Origin {
        match (identity, address.map(|address| address.to_canonical())) {
            (Identity::Token(grant), _) => Origin::Token(grant.id),
            (Identity::Trusted, Some(address)) if !address.is_loopback() => Origin::Address(address),
            (Identity::Trusted, _) => Origin::Here,
        }
    }

    /// Whether it has a part of the king, and not all of it.
    pub(crate) fn is_bounded(self) -> bool {
        self != Origin::Here
    }

    /// The end of a sentence about what peers of this origin have.
    pub(crate) fn whose(self) -> &'static str {
        match self {
            Origin::Here => "",
            Origin::Address(_) => " from this address",
            Origin::Token(_) => " with this token",
        }
    }
}
