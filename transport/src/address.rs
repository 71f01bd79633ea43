//! The address of a king, as a user writes it: a host and a port.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The port of a king by default.
pub const KING_PORT: u16 = 1900;

/// The address that a king listens on. Shown as `HOST:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// A name, or an IPv4 address.
    Name(String),
    V6(Ipv6Addr),
}

/// The forms that the address of a king may have.
const FORM: &str = "the address of a king is HOST or HOST:PORT, such as king-host:1900 or [::1]:1900";

impl Address {
    /// Whether it names this machine itself, whatever its network is.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Name(name) if name.eq_ignore_ascii_case("localhost") => true,
            Host::Name(name) => name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
            Host::V6(address) => address.to_canonical().is_loopback(),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host without the port, an IPv6 address without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::V6(address) => address.to_string(),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some((inside, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let address = inside.parse().map_err(|_| format!("[{inside}] is not an IPv6 address; {FORM}"))?;
            let port = match rest.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if rest.is_empty() => KING_PORT,
                None => return Err(format!("{rest:?} stands behind [{inside}]; {FORM}")),
            };
            return Ok(Address { host: Host::V6(address), port });
        }
        let parts = text.rsplit_once(':');
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            // `::1:1900` is an address as a whole, and most people who write it mean a port.
            if let Some((before, last)) = parts.filter(|(before, _)| before.parse::<Ipv6Addr>().is_ok()) {
                return Err(format!(
                    "{text} may be read in two ways: write [{before}]:{last} for port {last}, or [{text}] for the address"
                ));
            }
            return Ok(Address { host: Host::V6(address), port: KING_PORT });
        }
        match parts {
            None => Ok(Address { host: parse_name(text)?, port: KING_PORT }),
            Some((before, last)) if before.contains(':') => Err(match before.parse::<Ipv6Addr>() {
                Ok(_) => format!("write [{before}]:{last}: an IPv6 address with a port stands in brackets"),
                Err(_) => FORM.to_owned(),
            }),
            Some((before, last)) => Ok(Address { host: parse_name(before)?, port: parse_port(last)? }),
        }
    }
}

fn parse_name(name: &str) -> Result<Host, String> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{name} is a port without a host; {FORM}"));
    }
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if is_name { Ok(Host::Name(name.to_owned())) } else { Err(FORM.to_owned()) }
}

fn parse_port(port: &str) -> Result<u16, String> {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|port| is_number && *port > 0);
    number.ok_or_else(|| format!("{port:?} is not a port (1 to 65535); {FORM}"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::V6(address) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_once_however_it_is_written() {
        for (text, shown) in [
            ("king-host", "king-host:1900"),
            ("king-host:7", "king-host:7"),
            ("10.0.0.1", "10.0.0.1:1900"),
            ("10.0.0.1:65535", "10.0.0.1:65535"),
            ("under_score.example.", "under_score.example.:1900"),
            ("::1", "[::1]:1900"),
            ("[::1]", "[::1]:1900"),
            ("[::1]:7", "[::1]:7"),
            ("fe80::1", "[fe80::1]:1900"),
            ("2001:db8:0:0:0:0:0:1", "[2001:db8::1]:1900"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn this_machine_has_several_names() {
        let is_loopback = |text: &str| text.parse::<Address>().unwrap().is_loopback();
        for text in ["localhost", "LOCALHOST:7", "127.0.0.1", "127.9.9.9:7", "::1", "[::ffff:127.0.0.1]:7"] {
            assert!(is_loopback(text), "{text}");
        }
        for text in ["king-host", "10.0.0.1", "0.0.0.0", "::", "127.example", "[::ffff:10.0.0.1]"] {
            assert!(!is_loopback(text), "{text}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_what_would_do() {
        for (text, hint) in [
            ("", "HOST:PORT"),
            (":1900", "HOST:PORT"),
            ("a:", "is not a port"),
            ("a:0", "is not a port"),
            ("a:65536", "is not a port"),
            ("a:b", "is not a port"),
            ("a:+1", "is not a port"),
            ("1900", "a port without a host"),
            ("1900:1900", "a port without a host"),
            ("a b:1", "HOST:PORT"),
            ("http://a:1", "HOST:PORT"),
            ("user@a:1", "HOST:PORT"),
            ("::1:1900", "[::1]:1900"),
            ("2001:db8::5:1", "[2001:db8::5]:1"),
            ("2001:db8::5:65536", "[2001:db8::5]:65536"),
            ("a:b:1", "HOST:PORT"),
            ("[::1", "HOST:PORT"),
            ("[a]:1", "not an IPv6 address"),
            ("[::1]1900", "stands behind"),
            ("[::1]:", "is not a port"),
        ] {
            let why = text.parse::<Address>().unwrap_err();
            assert!(why.contains(hint), "{text}: {why}");
        }
    }
}
