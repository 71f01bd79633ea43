//! How words travel between king, dukes and queens: outboxes, streams of messages, payloads, and connections.
//!
//! Nothing here knows what a word means. A message copies no payload on its way, and nothing blocks on a peer.

pub mod address;
pub mod backoff;
pub mod byte_stream;
pub mod chunks;
pub mod credentials;
pub mod dial;
pub mod fingerprint;
pub mod link;
mod outbox;
pub mod own_socket;
pub mod payload;
pub mod stream;
pub mod tls;
pub mod token;
pub mod transfer;
pub mod weight;

/// The gRPC services of the king, as far as tonic carries them, generated from `distwasm/v1/*.proto`.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::restriction, clippy::pedantic, reason = "generated")]
pub mod service {
    tonic::include_proto!("distwasm.v1");
}
