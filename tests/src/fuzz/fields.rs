//! Protobuf messages as trees of fields, so that they can be changed and are still messages.
//!
//! The tree knows no schema: what a length-delimited field holds is taken for a message if it can be read as one. So
//! every message that will ever be added is covered.

use fastrand::Rng;

/// One field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    number: u32,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

/// Values that were seen in other messages.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    numbers: Vec<u64>,
    texts: Vec<Vec<u8>>,
}

/// How many values are remembered; newer ones replace older ones.
const SEEN_MAX: usize = 256;

/// How deep messages are nested at most.
const DEPTH_MAX: usize = 8;

impl Seen {
    /// Remembers the values of a message.
    pub fn learn(&mut self, fields: &[Field], rng: &mut Rng) {
        for field in fields {
            match &field.value {
                Value::Varint(number) => keep(&mut self.numbers, *number, rng),
                Value::Bytes(text) if text.len() <= 64 => keep(&mut self.texts, text.clone(), rng),
                Value::Message(fields) => self.learn(fields, rng),
                Value::Bytes(_) | Value::Fixed64(_) | Value::Fixed32(_) => {}
            }
        }
    }

    fn number(&self, rng: &mut Rng) -> u64 {
        const ODD: [u64; 12] = [0, 1, 2, 3, 7, 127, 128, 1 << 20, 1 << 31, u32::MAX as u64, 1 << 48, u64::MAX];
        let known = rng.choice(&self.numbers).filter(|_| true).copied();
        match rng.u8(..8) {
            0..4 => known.unwrap_or(1),
            4 => known.unwrap_or(0).wrapping_add(1),
            5 => known.unwrap_or(0).wrapping_sub(1),
            6 => rng.u64(..) >> rng.u32(..64),
            _ => ODD[rng.usize(..ODD.len())],
        }
    }

    fn text(&self, rng: &mut Rng) -> Vec<u8> {
        let known = rng.choice(&self.texts).cloned();
        match rng.u8(..6) {
            0..3 => known.unwrap_or_default(),
            3 => vec![rng.u8(..); rng.usize(..70_000) >> rng.u32(..16)],
            4 => "\u{1b}[2J\n\u{202e}".into(),
            _ => Vec::new(),
        }
    }
}

fn keep<T>(kept: &mut Vec<T>, value: T, rng: &mut Rng) {
    if kept.len() < SEEN_MAX {
        kept.push(value);
    } else {
        kept[rng.usize(..SEEN_MAX)] = value;
    }
}

/// Reads a message; `None` if it is not one.
pub fn read(bytes: &[u8]) -> Option<Vec<Field>> {
    read_nested(bytes, 0)
}

fn read_nested(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let inner = take(&mut bytes, length)?;
                let nested = if depth < DEPTH_MAX && !inner.is_empty() { read_nested(inner, depth + 1) } else { None };
                nested.map_or_else(|| Value::Bytes(inner.to_vec()), Value::Message)
            }
            5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// Writes a message.
pub fn write(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in fields {
        let mut tag = |kind: u64| put_varint(&mut bytes, u64::from(*number) << 3 | kind);
        match value {
            Value::Varint(value) => {
                tag(0);
                put_varint(&mut bytes, *value);
            }
            Value::Fixed64(value) => {
                tag(1);
                bytes.extend(value);
            }
            Value::Bytes(value) => {
                tag(2);
                put_varint(&mut bytes, value.len() as u64);
                bytes.extend(value);
            }
            Value::Message(fields) => {
                tag(2);
                let inner = write(fields);
                put_varint(&mut bytes, inner.len() as u64);
                bytes.extend(inner);
            }
            Value::Fixed32(value) => {
                tag(5);
                bytes.extend(value);
            }
        }
    }
    bytes
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Changes one thing somewhere in a message. `other` is a message of the same kind, to take fields from.
pub fn mutate(fields: &mut Vec<Field>, other: &[Field], seen: &Seen, rng: &mut Rng) {
    // Deep fields are as likely as others.
    let is_nested = |field: &Field| matches!(field.value, Value::Message(_));
    let nested: Vec<usize> = (0..fields.len()).filter(|place| is_nested(&fields[*place])).collect();
    if let Some(place) = rng.choice(&nested)
        && rng.u8(..8) > 0
        && let Value::Message(inner) = &mut fields[*place].value
    {
        let theirs = other.iter().find_map(|field| match &field.value {
            Value::Message(inner) => Some(inner.as_slice()),
            _ => None,
        });
        return mutate(inner, theirs.unwrap_or_default(), seen, rng);
    }
    let place = if fields.is_empty() { 0 } else { rng.usize(..fields.len()) };
    match (rng.u8(..10), fields.get_mut(place)) {
        (0, Some(_)) => drop(fields.remove(place)),
        (1, Some(field)) => {
            let again = field.clone();
            fields.insert(rng.usize(..=fields.len()), again);
        }
        (2, Some(_)) => {
            let with = rng.usize(..fields.len());
            fields.swap(place, with);
        }
        (3, _) | (_, None) => {
            let taken = rng.choice(other).cloned();
            let made = || Field { number: rng.u32(1..30), value: Value::Varint(seen.number(&mut rng.fork())) };
            let field = taken.unwrap_or_else(made);
            fields.insert(rng.usize(..=fields.len()), field);
        }
        (_, Some(field)) => change(&mut field.value, seen, rng),
    }
}

fn change(value: &mut Value, seen: &Seen, rng: &mut Rng) {
    match value {
        Value::Varint(number) => *number = seen.number(rng),
        Value::Fixed64(bytes) => *bytes = rng.u64(..).to_le_bytes(),
        Value::Fixed32(bytes) => *bytes = rng.u32(..).to_le_bytes(),
        Value::Message(_) => *value = Value::Bytes(seen.text(rng)),
        Value::Bytes(bytes) if bytes.is_empty() || rng.bool() => *bytes = seen.text(rng),
        Value::Bytes(bytes) => {
            let place = rng.usize(..bytes.len());
            match rng.u8(..3) {
                0 => bytes.truncate(place),
                1 => bytes[place] ^= 1 << rng.u8(..8),
                _ => bytes.insert(place, rng.u8(..)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use distwasm_proto::wire::{self, FromQueen, queen_word::Word};
    use prost::Message;

    use super::*;

    #[test]
    fn a_message_is_read_and_written_as_it_was() {
        let payload = wire::Payload { bytes_total: 300, data: vec![1, 2, 3].into() };
        let unit = wire::Unit {
            unit: 1 << 40,
            input: Some(payload),
            name: b"name".to_vec().into(),
            in_places: true,
            streamed: false,
        };
        let message = FromQueen { words: vec![Word::Unit(unit).into(), Word::End(wire::End::default()).into()] };
        let bytes = message.encode_to_vec();
        assert_eq!(write(&read(&bytes).unwrap()), bytes);
        assert_eq!(read(&[0x08]), None);
        assert_eq!(read(&[0xff; 20]), None);
    }

    #[test]
    fn a_changed_message_is_still_a_tree_of_fields() {
        let mut rng = Rng::with_seed(1);
        let unit = wire::Unit { unit: 7, name: b"name".to_vec().into(), ..Default::default() };
        let bytes = FromQueen { words: vec![Word::Unit(unit).into()] }.encode_to_vec();
        let other = read(&bytes).unwrap();
        let mut seen = Seen::default();
        seen.learn(&other, &mut rng);
        let mut decoded = 0;
        for _ in 0..1000 {
            let mut fields = other.clone();
            mutate(&mut fields, &other, &seen, &mut rng);
            let bytes = write(&fields);
            assert!(read(&bytes).is_some());
            decoded += u32::from(FromQueen::decode(bytes.as_slice()).is_ok());
        }
        assert!(decoded > 500, "{decoded}");
    }
}
