//! What the messages of peers take in memory when they are decoded and handed to the reactor.
//!
//! All fields of which a message may have any number are here: a test compares them with `king.proto`. A list takes up
//! to three times its elements while it grows.

use distwasm_proto::wire;
use distwasm_transport::weight::{
    Kind, PLAIN,
    Part::{Each, Message, Number},
};

use crate::{inbox, scheduler};

/// A list takes its elements, and twice as much again while it grows.
const fn listed<T>() -> usize {
    3 * size_of::<T>()
}

/// A text or bytes in a list, with the least that an allocation takes.
const TEXT: usize = listed::<String>() + 32;

/// An entry of a map from text to text. A table has at least one free place for each that is taken, and a larger one while
/// it grows.
const ENTRY: usize = 4 * size_of::<(String, String)>() + 2 * 32;

static FAILED: Kind = Kind(&[(5, Message(size_of::<wire::Failure>(), &PLAIN))]);

static HELLO: Kind = Kind(&[(6, Each(ENTRY)), (16, Each(TEXT))]);

static LEASE: Kind = Kind(&[(6, Message(listed::<wire::HeldAttempt>() + listed::<scheduler::HeldAttempt>(), &PLAIN))]);

/// The jobs are in two lists and a set.
static COMPILES_FOR: Kind = Kind(&[(1, Number(2 * listed::<u64>() + 3 * size_of::<u64>()))]);

static DUKE_WORD: Kind = Kind(&[
    (1, Message(size_of::<wire::DukeHello>(), &HELLO)),
    (4, Message(0, &FAILED)),
    (8, Message(size_of::<wire::HeldLease>() + size_of::<scheduler::HeldLease>(), &LEASE)),
    (24, Message(0, &COMPILES_FOR)),
]);

/// Messages of dukes.
pub static FROM_DUKE: Kind =
    Kind(&[(1, Message(listed::<wire::DukeWord>() + size_of::<inbox::DukeWord>(), &DUKE_WORD))]);

static GUEST: Kind = Kind(&[(1, Each(TEXT)), (2, Each(TEXT)), (7, Message(listed::<wire::Share>() + 2 * 32, &PLAIN))]);

/// A unit is in a list, then in another one, and in a set.
static RESUMPTION: Kind = Kind(&[(3, Number(listed::<u64>() + size_of::<u64>() + 3 * size_of::<u64>()))]);

static OPENING: Kind = Kind(&[
    (11, Message(0, &GUEST)),
    (23, Each(ENTRY)),
    (26, Message(0, &RESUMPTION)),
    (29, Each(listed::<bytes::Bytes>())),
]);

static QUEEN_WORD: Kind = Kind(&[(1, Message(size_of::<wire::OpenJob>(), &OPENING))]);

/// Messages of queens.
pub static FROM_QUEEN: Kind =
    Kind(&[(1, Message(listed::<wire::QueenWord>() + size_of::<inbox::QueenWord>(), &QUEEN_WORD))]);

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};

    use super::*;

    /// The fields of a message, and of those in it, that may be there any number of times and are not in `kind`.
    fn missing(all: &[DescriptorProto], message: &str, kind: &Kind) -> Vec<String> {
        let message = message.rsplit('.').next().unwrap();
        // The entries of maps are texts, and their map is in the list.
        let Some(descriptor) = all.iter().find(|found| found.name() == message) else { return Vec::new() };
        let mut found = Vec::new();
        for field in &descriptor.field {
            let number = u64::try_from(field.number()).unwrap();
            let part = kind.0.iter().find(|(known, _)| *known == number).map(|(_, part)| part);
            if field.label() == Label::Repeated && part.is_none() {
                found.push(format!("{message}.{}", field.name()));
            }
            let within = match part {
                Some(Message(_, kind)) => kind,
                _ => &PLAIN,
            };
            found.extend(missing(all, field.type_name(), within));
        }
        found
    }

    #[test]
    fn every_field_of_which_there_may_be_any_number_has_a_weight() {
        let files = FileDescriptorSet::decode(wire::DESCRIPTORS).unwrap().file;
        let all: Vec<DescriptorProto> = files.into_iter().flat_map(|file| file.message_type).collect();
        for (message, kind) in [("FromDuke", &FROM_DUKE), ("FromQueen", &FROM_QUEEN)] {
            assert_eq!(missing(&all, message, kind), Vec::<String>::new());
        }
        let forgotten = missing(&all, "FromQueen", &PLAIN);
        assert!(forgotten.contains(&"Resumption.lacking".to_owned()) && forgotten.len() == 7, "{forgotten:?}");
    }
}
