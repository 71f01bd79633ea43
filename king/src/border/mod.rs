//! Checks the words of peers and turns them into types that cannot be wrong. Nothing here waits for anything.

pub mod duke;
pub mod fetches;
mod job_spec;
mod opening;
pub mod queen;
pub mod weights;

use std::{collections::HashMap, time::Duration};

use distwasm_proto::{
    PROTOCOL,
    limits::{LABELS_MAX, MESSAGE_WORDS_MAX},
    text::is_name,
};

use crate::inbox::{Happening, Leaving, LinkError};

/// The king's side of one link, where the peer's words become types.
pub trait Border {
    /// A message of the peer.
    type Message;

    /// How long the peer may take to introduce itself, from its first message to its last.
    const INTRODUCED_WITHIN: Duration;

    /// Takes in a message.
    ///
    /// # Errors
    ///
    /// When its words break the protocol. The link ends with that.
    fn take(&mut self, message: Self::Message) -> Result<Heard, LinkError>;

    /// Whether the peer has introduced itself. Before that, it may not keep the king waiting.
    fn has_joined(&self) -> bool;

    /// The link is gone.
    fn end(self, leaving: Leaving) -> Happening;
}

/// The contents of a message.
#[derive(Debug, Default)]
pub struct Heard {
    /// Its words, for the reactor.
    pub happenings: Vec<Happening>,
    /// The peer says goodbye.
    pub leaves: bool,
}

fn check_words(count: usize) -> Result<(), LinkError> {
    if count > MESSAGE_WORDS_MAX { Err(LinkError::Nonsense("a message of too many words")) } else { Ok(()) }
}

fn check_protocol(protocol: u32) -> Result<(), LinkError> {
    if protocol == PROTOCOL { Ok(()) } else { Err(LinkError::Protocol(protocol)) }
}

/// Whether a duke may have these labels, and a job require them.
fn are_labels(labels: &HashMap<String, String>) -> bool {
    labels.len() <= LABELS_MAX && labels.iter().all(|(key, value)| is_name(key) && is_name(value))
}
