//! Where other machines reach this king, as it tells people.

use std::{net::Ipv6Addr, str::FromStr};

use distwasm_transport::address::Address;

/// A host, and a port unless it is the one that the king listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    host: String,
    port: Option<u16>,
}

impl Advertised {
    /// This machine, by its name.
    pub fn this_machine() -> Advertised {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // A name that no address can have says at least what is meant.
        name.parse().unwrap_or_else(|_| Advertised { host: "KING-HOST".to_owned(), port: None })
    }

    /// The address of a king that listens on this port.
    pub fn with_port(&self, port: u16) -> String {
        format!("{}:{}", self.host, self.port.unwrap_or(port))
    }
}

impl FromStr for Advertised {
    type Err = String;

    fn from_str(text: &str) -> Result<Advertised, String> {
        let address: Address = text.parse()?;
        let shown = address.to_string();
        // The port is behind the last colon, if it was written and not added.
        let (host, _) = shown.rsplit_once(':').unwrap_or((&shown, ""));
        let is_bare = text.parse::<Ipv6Addr>().is_ok() || format!("{text}:1").parse::<Address>().is_ok();
        Ok(Advertised { host: host.to_owned(), port: (!is_bare).then(|| address.port()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_king_is_added_unless_another_one_is_named() {
        for (text, shown) in [
            ("king-host", "king-host:7"),
            ("king-host:1900", "king-host:1900"),
            ("10.0.0.1", "10.0.0.1:7"),
            ("::1", "[::1]:7"),
            ("[2001:db8::1]", "[2001:db8::1]:7"),
            ("[::1]:9", "[::1]:9"),
        ] {
            let advertised: Advertised = text.parse().unwrap();
            assert_eq!(advertised.with_port(7), shown);
        }
        assert!("a b".parse::<Advertised>().is_err());
        assert!(Advertised::this_machine().with_port(7).ends_with(":7"));
    }
}
