//! Tokens: one line that says which king it is for, and proves who may do what there.
//!
//! A token is `distwasm_` and, in Crockford's base32 (<https://www.crockford.com/base32.html>), a version, the
//! fingerprint of the king's key, the token's id, its secret, and a checksum of all of these. The king keeps only the
//! secret's digest.

use std::{fmt, str::FromStr, sync::LazyLock};

use data_encoding::{Encoding, Specification};
use distwasm_proto::digest::Digest;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::fingerprint::Fingerprint;

/// A token as a duke, a queen or a monitor has it.
#[derive(Clone)]
pub struct Token {
    fingerprint: Fingerprint,
    id: TokenId,
    secret: [u8; SECRET_BYTES],
}

/// The id of a token: not a secret, and short enough for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; ID_BYTES]);

/// The digest of a token's secret, as a king keeps it.
#[derive(Clone, Copy)]
pub struct SecretDigest(Digest);

/// Why a text is not a token. No message shows any of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TokenError {
    #[error("it is empty: a token is one line that begins with {PREFIX}")]
    Empty,
    #[error("it is not a token: a token is one line that begins with {PREFIX}")]
    NotToken,
    #[error("it has text before the token: keep the token alone, from {PREFIX} on")]
    TextBefore,
    #[error("it has {0} lines: keep the one line of the token")]
    Lines(usize),
    #[error("the token is cut off: it has {0} of {TOKEN_CHARS} characters")]
    CutOff(usize),
    #[error("the token is too long: it has {0} characters instead of {TOKEN_CHARS}")]
    TooLong(usize),
    #[error("the token is mistyped: no token has a character like number {0} of it")]
    Character(usize),
    #[error("the token is mistyped: its checksum does not fit")]
    Checksum,
    #[error("the token has version {0}, which this version of distwasm does not know")]
    Version(u8),
}

/// A text is not the id of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the id of a token has {ID_CHARS} letters and digits, as `king token list` shows them")]
pub struct TokenIdError;

const PREFIX: &str = "distwasm_";
const VERSION: u8 = 1;
const ID_BYTES: usize = 5;
const ID_CHARS: usize = ID_BYTES * 8 / 5;
const SECRET_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 6;
/// The parts in their order: version, fingerprint, id, secret, checksum. A multiple of 5, so that no bit is left over.
const BYTES: usize = 1 + 32 + ID_BYTES + SECRET_BYTES + CHECKSUM_BYTES;
/// The length of a token.
const TOKEN_CHARS: usize = PREFIX.len() + BYTES * 8 / 5;

impl Token {
    /// Makes a token for the king with this fingerprint, with an id and a secret from the system's randomness.
    ///
    /// # Errors
    ///
    /// When the system has no randomness.
    pub fn generate(fingerprint: Fingerprint) -> std::io::Result<Token> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        let filled = getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret));
        filled.map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Token { fingerprint, id: TokenId(id), secret })
    }

    /// The fingerprint of the king that it is for.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Its id.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The digest of its secret.
    pub fn secret_digest(&self) -> SecretDigest {
        SecretDigest(Digest::of([&self.secret[..]]))
    }

    /// The token as one line, secret included: to be handed over once, and to be sent as a bearer.
    pub fn to_bearer(&self) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend(self.fingerprint.0);
        bytes.extend(self.id.0);
        bytes.extend(self.secret);
        bytes.extend(checksum(&bytes));
        format!("{PREFIX}{}", BASE32.encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Whitespace around a token is allowed: it comes from files and from lines that were pasted.
    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let lines = text.lines().count();
        if lines > 1 {
            return Err(TokenError::Lines(lines));
        }
        // `DISTWASM_TOKEN=` begins like a token.
        if text.rfind(PREFIX).is_some_and(|at| at > 0) {
            return Err(TokenError::TextBefore);
        }
        let is_one = text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        let Some(rest) = text.get(PREFIX.len()..).filter(|_| is_one) else { return Err(TokenError::NotToken) };
        if let Some((before, _)) = text.char_indices().find(|(_, character)| !is_digit(*character) && *character != '_')
        {
            return Err(TokenError::Character(1 + text.get(..before).map_or(0, |before| before.chars().count())));
        }
        if text.len() != TOKEN_CHARS {
            let chars = text.len();
            return Err(if chars < TOKEN_CHARS { TokenError::CutOff(chars) } else { TokenError::TooLong(chars) });
        }
        let bytes =
            BASE32.decode(rest.as_bytes()).map_err(|error| TokenError::Character(1 + PREFIX.len() + error.position))?;
        let (body, sum) = bytes.split_at_checked(BYTES - CHECKSUM_BYTES).ok_or(TokenError::Checksum)?;
        if sum != checksum(body) {
            return Err(TokenError::Checksum);
        }
        let (version, body) = take::<1>(body)?;
        if version != [VERSION] {
            return Err(TokenError::Version(version[0]));
        }
        let (fingerprint, body) = take::<32>(body)?;
        let (id, body) = take::<ID_BYTES>(body)?;
        let (secret, _) = take::<SECRET_BYTES>(body)?;
        Ok(Token { fingerprint: Fingerprint(fingerprint), id: TokenId(id), secret })
    }
}

/// The first bytes, and the rest.
fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), TokenError> {
    bytes.split_first_chunk().map(|(first, rest)| (*first, rest)).ok_or(TokenError::Checksum)
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::of([body]).to_wire();
    std::array::from_fn(|at| digest.get(at).copied().unwrap_or_default())
}

/// The base32 of people: no letter looks like another one, and those that would are read as the right one.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    specification.translate.from.push_str("ABCDEFGHJKMNPQRSTVWXYZoOiIlL");
    specification.translate.to.push_str("abcdefghjkmnpqrstvwxyz001111");
    #[expect(clippy::expect_used, reason = "the specification is a constant, which the tests use")]
    specification.encoding().expect("32 symbols, none of them twice")
});

fn is_digit(character: char) -> bool {
    character.is_ascii_alphanumeric() && !matches!(character, 'u' | 'U')
}

/// Shows the id only.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<TokenId, TokenIdError> {
        let bytes = BASE32.decode(text.as_bytes()).map_err(|_| TokenIdError)?;
        bytes.try_into().map(TokenId).map_err(|_| TokenIdError)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32.encode(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl SecretDigest {
    /// Whether both are of one secret. Takes the same time whatever the answer is.
    pub fn is_same(self, other: SecretDigest) -> bool {
        self.0.to_wire().ct_eq(&other.0.to_wire()).into()
    }

    /// The digest that is written like this, as 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<SecretDigest> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        Digest::from_wire(&bytes).map(SecretDigest)
    }

    /// The digest as 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.to_string()
    }
}

/// Shows nothing: a digest of a secret is not for logs.
impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::generate(Fingerprint([7; 32])).unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let token = token();
        let text = token.to_bearer();
        assert_eq!((text.len(), TOKEN_CHARS), (105, 105));
        for text in [text.clone(), format!("  {text}\r\n"), text.to_uppercase()] {
            let read: Token = text.parse().unwrap();
            assert_eq!((read.fingerprint(), read.id()), (token.fingerprint(), token.id()));
            assert!(read.secret_digest().is_same(token.secret_digest()));
        }
        let misread = text.replace('0', "O").replace('1', "l");
        assert_eq!(misread.parse::<Token>().map(|token| token.id()), Ok(token.id()));
        assert!(!self::token().secret_digest().is_same(token.secret_digest()));
    }

    #[test]
    fn a_text_that_is_not_a_token_is_told_from_one_that_was_cut_or_mistyped() {
        let text = token().to_bearer();
        for other in ["", " ", "\n"] {
            assert_eq!(other.parse::<Token>().unwrap_err(), TokenError::Empty, "{other:?}");
        }
        for before in ["DISTWASM_TOKEN=", "token: "] {
            assert_eq!(format!("{before}{text}").parse::<Token>().unwrap_err(), TokenError::TextBefore, "{before}");
        }
        assert_eq!(format!("{text}\n{text}\n").parse::<Token>().unwrap_err(), TokenError::Lines(2));
        for other in ["secret", "K10abc::server:x", "distwasm"] {
            assert_eq!(other.parse::<Token>().unwrap_err(), TokenError::NotToken, "{other}");
        }
        for length in PREFIX.len()..text.len() {
            assert_eq!(text[..length].parse::<Token>().unwrap_err(), TokenError::CutOff(length));
        }
        assert_eq!(format!("{text}0").parse::<Token>().unwrap_err(), TokenError::TooLong(106));
        for (wrong, at) in [("u", 21), ("!", 21), ("ü", 21), (" ", 21), ("_", 21)] {
            let mistyped = format!("{}{wrong}{}", &text[..20], &text[21..]);
            assert_eq!(mistyped.parse::<Token>().unwrap_err(), TokenError::Character(at), "{wrong}");
        }
        for at in PREFIX.len()..text.len() {
            let other = if &text[at..=at] == "7" { "8" } else { "7" };
            let mistyped = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(mistyped.parse::<Token>().unwrap_err(), TokenError::Checksum, "{at}");
        }
    }

    #[test]
    fn a_token_of_a_later_version_is_told_from_a_mistyped_one() {
        let mut bytes = BASE32.decode(&token().to_bearer().as_bytes()[PREFIX.len()..]).unwrap();
        bytes.truncate(BYTES - CHECKSUM_BYTES);
        bytes[0] = 2;
        bytes.extend(checksum(&bytes));
        let text = format!("{PREFIX}{}", BASE32.encode(&bytes));
        assert_eq!(text.parse::<Token>().unwrap_err(), TokenError::Version(2));
    }

    #[test]
    fn nothing_that_is_shown_for_debugging_has_the_secret() {
        let token = token();
        assert_eq!(format!("{token:?}"), format!("Token({})", token.id()));
        assert_eq!(format!("{:?}", token.secret_digest()), "SecretDigest");
        assert_eq!(token.id().to_string().parse(), Ok(token.id()));
        assert_eq!(token.id().to_string().len(), ID_CHARS);
        assert_eq!("abc".parse::<TokenId>(), Err(TokenIdError));
        let digest = token.secret_digest();
        assert!(SecretDigest::from_hex(&digest.to_hex()).unwrap().is_same(digest));
        assert!(SecretDigest::from_hex("00").is_none());
    }
}
