//! What a duke or a queen has to be let in by a king, and to know that it is the right one.

use std::{
    env, fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use distwasm_proto::limits::TOKEN_FILE_BYTES_MAX;
use http::HeaderValue;
use rustix::process::geteuid;
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
    #[error(
        "other users may read the token in {0}, or write to it (--token-file): `chmod 600 {0}`, and if one may have \
         read it, `king token revoke` and make another", .path.display()
    )]
    Rights { path: PathBuf },
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
            (Some(path), _) => (path.display().to_string(), read_token(path)?),
            (None, Ok(text)) if !text.is_empty() => (VARIABLE.to_owned(), text),
            (None, _) if address.is_loopback() => return Ok(Credentials::None),
            (None, _) => return Err(CredentialsError::Missing(ConnectError::NoToken { address: address.clone() })),
        };
        let token: Token = text.parse().map_err(|source| CredentialsError::Token { place, source })?;
        Ok(Credentials::Token(TokenCredentials::of(&token)))
    }
}

fn read_token(path: &Path) -> Result<String, CredentialsError> {
    let failed = |source| CredentialsError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // As ssh does with keys: the file of somebody else, such as root, is for who it was given to.
    let found = file.metadata().map_err(failed)?;
    if found.is_file() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 != 0 {
        return Err(CredentialsError::Rights { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
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

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, chown},
    };

    use super::*;

    #[test]
    fn a_token_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = Token::generate(Fingerprint([7; 32])).unwrap();
        fs::write(&path, token.to_bearer()).unwrap();
        let address: Address = "king-host".parse().unwrap();
        let found = |mode| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            Credentials::find(&address, Some(&path), false)
        };
        for mode in [0o604, 0o640, 0o620, 0o666] {
            let why = found(mode).unwrap_err().to_string();
            let expected = format!("`chmod 600 {}`", path.display());
            assert!(why.contains(&expected) && !why.contains(&token.to_bearer()[70..]), "{mode:o}: {why}");
        }
        for mode in [0o600, 0o400, 0o700] {
            assert!(matches!(found(mode), Ok(Credentials::Token(_))), "{mode:o}");
        }
        // What is not a file has no others who could read it there: `--token-file <(pass show token)`.
        let (ours, theirs) = io::pipe().unwrap();
        io::Write::write_all(&mut { theirs }, token.to_bearer().as_bytes()).unwrap();
        let pipe = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ours)));
        assert!(matches!(Credentials::find(&address, Some(&pipe), false), Ok(Credentials::Token(_))));
        if !geteuid().is_root() {
            println!("SKIPPED: only root can give a file to another user");
            return;
        }
        chown(&path, Some(4711), None).unwrap();
        assert!(matches!(found(0o640), Ok(Credentials::Token(_))), "its user knows who is in the group");
    }
}
