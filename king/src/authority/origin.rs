//! Under which name a peer is counted, so that nobody takes all of a king.

use std::net::{IpAddr, Ipv6Addr};

use distwasm_transport::token::TokenId;

use super::Identity;

/// Where a peer comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The king's own machine, however many processes there are: they may have all of it.
    #[default]
    Here,
    /// An address elsewhere; of IPv6, the network of 64 bits, whose addresses a machine may all take.
    Address(IpAddr),
    /// A token, from wherever it is used.
    Token(TokenId),
}

impl Origin {
    /// The origin of a peer at this address, if it has one.
    pub fn of(identity: &Identity, address: Option<IpAddr>) -> Origin {
        match (identity, address.map(|address| address.to_canonical())) {
            (Identity::Token(grant), _) => Origin::Token(grant.id),
            (Identity::Trusted, Some(address)) if !address.is_loopback() => Origin::Address(network(address)),
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

/// The part of an address that its owner cannot choose.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Origin {
        Origin::of(&Identity::Trusted, Some(address.parse().unwrap()))
    }

    #[test]
    fn the_addresses_of_one_network_of_ipv6_are_one_origin() {
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1:2:3"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_eq!(origin("::1"), Origin::Here);
    }
}
