//! Who may do what: the one place where that is decided.

use thiserror::Error;

/// How a peer reached the king, and so what is known about it before it says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Over the king's socket: the peer belongs to the king's user, or to root.
    SameUser,
    /// Over TLS: the peer knows the king, and the king does not know the peer.
    Tls,
    /// In plaintext over TCP: neither knows the other.
    Plain,
}

/// A peer that is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It may do everything.
    Anybody,
}

/// Why a peer is not let in. The messages are for the people on its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The peer speaks plaintext to a king that does not.
    #[error(
        "this king takes only TLS with a token, or peers of its own user over its socket: leave --insecure out, and give \
         a token of `king token create` by --token-file or DISTWASM_TOKEN"
    )]
    Plaintext,
    /// The peer has no token.
    #[error("this king wants a token: `king token create` makes one, for --token-file or DISTWASM_TOKEN")]
    NoToken,
}

/// Decides who may do what.
#[derive(Clone, Copy, Debug)]
pub struct Authority {
    takes_plaintext: bool,
}

impl Authority {
    /// An authority that lets in all peers in plaintext if it `takes_plaintext` (`--insecure`).
    pub fn new(takes_plaintext: bool) -> Authority {
        Authority { takes_plaintext }
    }

    /// Decides whether a peer may ask for this.
    ///
    /// # Errors
    ///
    /// When the peer may not.
    pub fn judge(&self, wire: Wire, _bearer: Option<&str>, _asks_for: &str) -> Result<Identity, Refusal> {
        match wire {
            Wire::SameUser => Ok(Identity::Anybody),
            Wire::Plain if self.takes_plaintext => Ok(Identity::Anybody),
            Wire::Plain => Err(Refusal::Plaintext),
            Wire::Tls => Err(Refusal::NoToken),
        }
    }
}
