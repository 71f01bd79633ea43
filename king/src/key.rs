//! The key by which peers know a king over TLS. It is made at the first start and kept; the certificate around it says
//! nothing else, and is made anew each time.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use distwasm_process::files;
use distwasm_proto::limits::CERTIFICATE_BYTES_MAX;
use distwasm_transport::{fingerprint::Fingerprint, tls};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use thiserror::Error;
use tracing::warn;

use crate::data::DataFolder;

/// The name of the file in the king's data folder.
const FILE: &str = "key.der";

/// Why a king has no key.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KeyError {
    #[error("failed to make the king's key")]
    Generate(#[source] rcgen::Error),
    #[error("failed to write the king's key, {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is not safe: it belongs to another user, or others may read it (`chmod 600` it, if nobody has read it)",
        .path.display()
    )]
    Rights { path: PathBuf },
    #[error(
        "{} is not the key of a king; if it cannot be restored, remove it: the king then makes a new one, and the tokens \
         of the old one are of no use any more",
        .path.display()
    )]
    Damaged { path: PathBuf },
    #[error("{} has no certificate in PEM form (--tls-cert)", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} has no private key in PEM form (--tls-key)", .path.display())]
    NoKey { path: PathBuf },
    #[error("the certificate cannot be used with the key")]
    Unfit(#[source] rustls::Error),
}

/// A king's key, with a certificate around it.
#[derive(Clone, Debug)]
pub struct Key {
    /// The file that it was read from.
    path: PathBuf,
    fingerprint: Fingerprint,
    config: Arc<ServerConfig>,
}

impl Key {
    /// A new key, which is kept nowhere.
    ///
    /// # Errors
    ///
    /// When the system has no randomness.
    pub fn generate() -> Result<Key, KeyError> {
        Key::of(&KeyPair::generate().map_err(KeyError::Generate)?, Path::new(""))
    }

    /// The key in the king's data folder; makes one if there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written, or others may have read it.
    pub fn open(data: &DataFolder) -> Result<Key, KeyError> {
        let path = data.file(FILE);
        loop {
            match read_private(&path) {
                Ok(bytes) => {
                    let pair = KeyPair::try_from(bytes).map_err(|_| KeyError::Damaged { path: path.clone() })?;
                    return Key::of(&pair, &path);
                }
                Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let pair = KeyPair::generate().map_err(KeyError::Generate)?;
            match files::write_new_private_for_good(&path, pair.serialized_der()) {
                // Another king of this user was faster; all of them have its key.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(KeyError::Write { path, source }),
                Ok(()) => return Key::of(&pair, &path),
            }
        }
    }

    /// A key and a certificate of the user's own, in PEM form.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Key, KeyError> {
        let no_certificate = || KeyError::NoCertificate { path: certificate.to_owned() };
        let text = read_bounded(fs::File::open(certificate), certificate)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let certificates = certificates.map_err(|_| no_certificate())?;
        let file = fs::File::open(key);
        if file.as_ref().is_ok_and(|file| file.metadata().is_ok_and(|found| found.mode() & 0o004 != 0)) {
            warn!(path = %key.display(), "every user of this machine may read the king's key");
        }
        let text = read_bounded(file, key)?;
        let private = PrivateKeyDer::from_pem_slice(&text).map_err(|_| KeyError::NoKey { path: key.to_owned() })?;
        Key::with(certificates, private, key, no_certificate)
    }

    fn of(pair: &KeyPair, path: &Path) -> Result<Key, KeyError> {
        let params = CertificateParams::new(vec!["king".to_owned()]).map_err(KeyError::Generate)?;
        let certificate = params.self_signed(pair).map_err(KeyError::Generate)?.der().clone();
        let unreachable = || KeyError::Generate(rcgen::Error::CouldNotParseCertificate);
        Key::with(vec![certificate], PrivateKeyDer::Pkcs8(pair.serialize_der().into()), path, unreachable)
    }

    fn with(
        certificates: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        path: &Path,
        no_certificate: impl Fn() -> KeyError,
    ) -> Result<Key, KeyError> {
        let first = certificates.first().ok_or_else(&no_certificate)?;
        let fingerprint = tls::fingerprint_of(first).map_err(|_| no_certificate())?;
        let config = tls::server_config(certificates, key).map_err(KeyError::Unfit)?;
        Ok(Key { path: path.to_owned(), fingerprint, config: Arc::new(config) })
    }

    /// The file that it was read from; empty if it is kept nowhere.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How peers know the key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The settings for connections.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

fn read_private(path: &Path) -> Result<Vec<u8>, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let file = files::open_own(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !files::is_private(&found) || found.mode() & 0o077 != 0 {
        return Err(KeyError::Rights { path: path.to_owned() });
    }
    read_bounded(Ok(file), path)
}

fn read_bounded(file: io::Result<fs::File>, path: &Path) -> Result<Vec<u8>, KeyError> {
    let mut bytes = Vec::new();
    let read = file.and_then(|file| file.take(CERTIFICATE_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_king_that_starts_again_has_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(Some(&folder.path().join("king"))).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|_| data.clone())
            .map(|data| std::thread::spawn(move || Key::open(&data).unwrap().fingerprint()))
            .collect();
        let fingerprints: Vec<Fingerprint> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let again = Key::open(&data).unwrap().fingerprint();
        assert!(fingerprints.iter().all(|fingerprint| *fingerprint == again), "{fingerprints:?}");
        let names: Vec<_> = fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
        assert_eq!(fs::metadata(data.file(FILE)).unwrap().mode() & 0o777, 0o600);
        assert_ne!(Key::generate().unwrap().fingerprint(), again);
    }

    #[test]
    fn a_key_that_others_could_read_or_plant_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(Some(&folder.path().join("king"))).unwrap();
        Key::open(&data).unwrap();
        let key = data.file(FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Key::open(&data), Err(KeyError::Rights { .. })));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, "nonsense").unwrap();
        assert!(Key::open(&data).unwrap_err().to_string().contains("not the key of a king"));
        fs::rename(&key, folder.path().join("elsewhere")).unwrap();
        symlink(folder.path().join("elsewhere"), &key).unwrap();
        assert!(matches!(Key::open(&data), Err(KeyError::Read { .. })));
    }

    #[test]
    fn a_certificate_of_the_users_own_is_served_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let pem = |kind: &str, der: &[u8]| {
            let text = data_encoding::BASE64.encode(der);
            format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
        };
        let write = |name: &str, text: String| {
            fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["king.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
        let certificate = write("certificate", pem("CERTIFICATE", certificate.der()));
        let key = write("key", pem("PRIVATE KEY", pair.serialized_der()));
        let other = write("other", pem("PRIVATE KEY", KeyPair::generate().unwrap().serialized_der()));
        let fingerprint = Key::of(&pair, &key).unwrap().fingerprint();
        let read = Key::read(&certificate, &key).unwrap();
        assert_eq!((read.fingerprint(), read.path()), (fingerprint, key.as_path()));
        assert!(matches!(Key::read(&certificate, &other), Err(KeyError::Unfit(_))));
        assert!(matches!(Key::read(&key, &key), Err(KeyError::NoCertificate { .. })));
        assert!(matches!(Key::read(&certificate, &certificate), Err(KeyError::NoKey { .. })));
        assert!(matches!(Key::read(&folder.path().join("none"), &key), Err(KeyError::Read { .. })));
    }
}
