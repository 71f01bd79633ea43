//! The gRPC messages, generated from `distwasm/v1/*.proto`, where they are documented.
#![allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::restriction,
    clippy::pedantic,
    reason = "most of it is generated"
)]

include!(concat!(env!("OUT_DIR"), "/distwasm.v1.rs"));

/// Whether a result of this size, in bytes, is only offered, and waits at its duke until the king asks for it. A smaller
/// one is sent with the end of its attempt.
pub const fn is_offered(result_bytes: u64) -> bool {
    result_bytes > crate::limits::RESULT_UNASKED_BYTES_MAX
}

/// The descriptors of all messages, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! words {
    ($($word:ident { $inner:ident: $oneof:path }),+) => {
        $(impl From<$oneof> for $word {
            fn from($inner: $oneof) -> Self {
                $word { $inner: Some($inner) }
            }
        })+
    };
}

words!(
    DukeWord { word: duke_word::Word },
    DukeOrder { order: duke_order::Order },
    QueenWord { word: queen_word::Word },
    QueenNews { news: queen_news::News }
);
