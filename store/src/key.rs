//! The keys of values.

use std::fmt;

use distwasm_proto::limits::KEY_BYTES_MAX;
use thiserror::Error;

/// A key: text of letters, digits and `/`, `_`, `=`, `.`, `-`, which all stores can have in their keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// A text that is not a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not the key of a value: a key has 1 to {KEY_BYTES_MAX} letters, digits and / _ = . -")]
pub struct NotAKey(pub String);

impl Key {
    /// The key with this text.
    ///
    /// # Errors
    ///
    /// When no key can be called so.
    pub fn new(text: impl Into<String>) -> Result<Key, NotAKey> {
        let text = text.into();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_=.-".contains(&byte);
        if text.is_empty() || text.len() > KEY_BYTES_MAX || !text.bytes().all(fits) {
            return Err(NotAKey(text));
        }
        Ok(Key(text))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_only_what_all_stores_can_have_in_keys() {
        for text in ["a", "program/summer", "A_b=c.d-e/0", &"k".repeat(KEY_BYTES_MAX)] {
            assert_eq!(Key::new(text).unwrap().as_str(), text);
        }
        for text in ["", "a b", "ä", "a\n", "a*", "%", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert_eq!(Key::new(text), Err(NotAKey(text.to_owned())));
        }
    }
}
