//! What a duke or a queen has to be let in by a king, and to know that it is the right one.

use std::{
    env, fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use distwasm_proto::limits::TOKEN_FILE_BYTES_MAX;
use http::HeaderValue;
use thiserror::Error;

use crate::{
    address::Address,
    dial::ConnectError,
    fingerprint::Fingerprint,
    token::{Token, TokenError},
};

/// The variable that may hold a token itself. There is no such flag, because everybody can see flags.
const VARIABLE: &str = "DISTWASM_TOKEN";

/// What a peer brings along to a king that it reaches over TCP. A king of the same user on the same machine is reached
/// over its socket, and wants nothing.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// Nothing: only the socket will do.
    #[default]
    None,
    /// Nothing is wanted: plaintext over TCP, to whoever listens there.
    Insecure,
    /// A token.
    Token(TokenCredentials),
}

/// A token, as it is used for a connection.
#[derive(Clone)]
pub struct TokenCredentials {
    /// The fingerprint of the king that the token is for.
    pub fingerprint: Fingerprint,
    /// What the peer says about itself, once it knows that it speaks to this king.
    bearer: HeaderValue,
}

/// Why a peer has no credentials.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CredentialsError {
    #[error("failed to read the token in {} (--token-file)", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{place} holds no token")]
    Token { place: String, source: TokenError },
    #[error(transparent)]
    Missing(ConnectError),
}

impl Credentials {
    /// What the user gave for a king at this address: the token in the file, or in `DISTWASM_TOKEN`. If the user wants
    /// plaintext, no token is used.
    ///
    /// # Errors
    ///
    /// When the token cannot be read, or there must be one.
    pub fn find(address: &Address, file: Option<&Path>, insecure: bool) -> Result<Credentials, CredentialsError> {
        if insecure {
            return Ok(Credentials::Insecure);
        }
        let (place, text) = match (file, env::var(VARIABLE)) {
            (Some(path), _) => {
                let read = read_token(path).map_err(|source| CredentialsError::File { path: path.to_owned(), source });
                (path.display().to_string(), read?)
            }
            (None, Ok(text)) if !text.is_empty() => (VARIABLE.to_owned(), text),
            (None, _) if address.is_loopback() => return Ok(Credentials::None),
            (None, _) => return Err(CredentialsError::Missing(ConnectError::NoToken { address: address.clone() })),
        };
        let token: Token = text.parse().map_err(|source| CredentialsError::Token { place, source })?;
        Ok(Credentials::Token(TokenCredentials::of(&token)))
    }
}

fn read_token(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

impl TokenCredentials {
    /// The credentials of a token.
    pub fn of(token: &Token) -> TokenCredentials {
        // A token has letters and digits only, which a header can hold.
        let mut bearer =
            HeaderValue::try_from(format!("Bearer {}", token.to_bearer())).unwrap_or(HeaderValue::from_static(""));
        bearer.set_sensitive(true);
        TokenCredentials { fingerprint: token.fingerprint(), bearer }
    }

    pub(crate) fn bearer(&self) -> &HeaderValue {
        &self.bearer
    }
}

impl fmt::Debug for TokenCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCredentials").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}
