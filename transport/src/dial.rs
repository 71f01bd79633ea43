//! How a duke or a queen reaches a king on another process's side: over the king's socket, TLS, or plaintext.

use std::{
    error::Error,
    io,
    net::Ipv4Addr,
    sync::{Arc, Once},
    time::Duration,
};

use distwasm_proto::limits::CONNECT_WITHIN;
use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, TlsStream};
use tower::{Service, ServiceExt};
use tracing::warn;

use crate::{
    address::Address,
    byte_stream::ByteStream,
    credentials::{Credentials, TokenCredentials},
    own_socket,
    tls::{self, HTTP_2, OtherKey},
};

/// Why there is no connection to a king.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConnectError {
    #[error(
        "no king of this user listens on port {port} of this machine, and there is no token for a king of somebody \
         else; `king --port {port}` starts one, {GET_TOKEN}{}", not_looked_in(.not_used)
    )]
    NoKingHere { port: u16, not_used: String },
    #[error("there is no token for the king at {address}: {GET_TOKEN}")]
    NoToken { address: Address },
    #[error(transparent)]
    Tcp(Box<dyn Error + Send + Sync>),
    #[error("the king's socket for port {port} takes no connection at the moment")]
    Socket { port: u16, source: io::Error },
    #[error("the listener at {address} did not answer within {within:?}; is it a king?")]
    Silent { address: Address, within: Duration },
    #[error(
        "this is not the king of the token: {other}; either {address} leads to another king, or the king has a new key, \
         and then it must make a new token (`king token create`)"
    )]
    WrongKing { address: Address, other: OtherKey },
    #[error(
        "the listener at {address} does not speak TLS, and was told nothing: it is an older king, another program, or \
         something between here and the king that takes the encryption away"
    )]
    NoTls { address: Address },
    #[error("the listener at {address} speaks TLS, but is not a king")]
    NotKing { address: Address },
    #[error("no encrypted connection to {address}")]
    Tls { address: Address, source: io::Error },
    #[error("no connection to the king")]
    Http(#[from] tonic::transport::Error),
}

/// How a peer gets a token.
const GET_TOKEN: &str = "the user of the king makes a token by `king token create`, for --token-file or \
                         DISTWASM_TOKEN; and --insecure trusts everybody on the network in plaintext";

/// Where no socket was looked for.
fn not_looked_in(folders: &str) -> String {
    if folders.is_empty() { String::new() } else { format!(". A socket was not looked for in {folders}") }
}

impl ConnectError {
    /// Whether the same way to the king may work later.
    pub fn may_pass(&self) -> bool {
        !matches!(self, ConnectError::NoToken { .. } | ConnectError::WrongKing { .. })
    }
}

/// Connects to a king once: over its socket if it is one of this user on this machine, else as the credentials say.
///
/// # Errors
///
/// When no king is reached, or none that the credentials are for.
pub async fn dial(address: &Address, credentials: &Credentials) -> Result<ByteStream, ConnectError> {
    dial_within(CONNECT_WITHIN, address, credentials).await
}

async fn dial_within(
    within: Duration,
    address: &Address,
    credentials: &Credentials,
) -> Result<ByteStream, ConnectError> {
    let dialed = timeout(within, dial_patiently(address, credentials)).await;
    dialed.unwrap_or_else(|_| Err(ConnectError::Silent { address: address.clone(), within }))
}

async fn dial_patiently(address: &Address, credentials: &Credentials) -> Result<ByteStream, ConnectError> {
    if matches!(credentials, Credentials::Insecure) {
        return tcp(address).await.map(ByteStream::Plain);
    }
    let (port, mut not_used) = (address.port(), String::new());
    if address.is_loopback() {
        match own_socket::connect(port).await {
            Ok(Some(stream)) => return Ok(ByteStream::Unix(stream)),
            Ok(None) => not_used = own_socket::unsafe_folders(),
            Err(source) => return Err(ConnectError::Socket { port, source }),
        }
    }
    match credentials {
        Credentials::Token(token) => {
            tell_not_used(&not_used);
            encrypted(address, token).await
        }
        _ if address.is_loopback() => Err(ConnectError::NoKingHere { port, not_used }),
        _ => Err(ConnectError::NoToken { address: address.clone() }),
    }
}

/// Says once that a king's socket was not looked for everywhere: somebody may have wanted that.
fn tell_not_used(folders: &str) {
    static TOLD: Once = Once::new();
    if !folders.is_empty() {
        TOLD.call_once(|| warn!(folders, "no king's socket is looked for there; going over TCP with the token"));
    }
}

async fn tcp(address: &Address) -> Result<TcpStream, ConnectError> {
    let failed = |error| ConnectError::Tcp(Box::new(error));
    let uri: Uri = format!("http://{address}").parse().map_err(|error| ConnectError::Tcp(Box::new(error)))?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.ready().await.map_err(failed)?.call(uri).await.map(TokioIo::into_inner).map_err(failed)
}

async fn encrypted(address: &Address, token: &TokenCredentials) -> Result<ByteStream, ConnectError> {
    let refused = |source| ConnectError::Tls { address: address.clone(), source };
    let (config, pin) = tls::client_config(token.fingerprint).map_err(|error| refused(io::Error::other(error)))?;
    let stream = tcp(address).await?;
    // The king looks at its key alone, but something on the way may tell kings apart by their names.
    let name = ServerName::try_from(address.host()).unwrap_or(ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()));
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) => {
            Ok(ByteStream::Tls(Box::new(TlsStream::Client(stream))))
        }
        Ok(_) => Err(ConnectError::NotKing { address: address.clone() }),
        Err(error) => Err(match pin.other_key() {
            Some(other) => ConnectError::WrongKing { address: address.clone(), other },
            None if speaks_no_tls(&error) => ConnectError::NoTls { address: address.clone() },
            None => refused(error),
        }),
    }
}

/// Whether the other side answered with something that is not TLS.
fn speaks_no_tls(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidMessage(_)))
}

#[cfg(test)]
mod tests {
    use distwasm_proto::error_text::chain;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinSet,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::{fingerprint::Fingerprint, token::Token};

    /// The settings of a king with a new key, and a token for it.
    fn king() -> (ServerConfig, Credentials) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let certificate = certificate.der().clone();
        let fingerprint = tls::fingerprint_of(&certificate).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        (tls::server_config(vec![certificate], key).unwrap(), token(fingerprint))
    }

    fn token(fingerprint: Fingerprint) -> Credentials {
        Credentials::Token(TokenCredentials::of(&Token::generate(fingerprint).unwrap()))
    }

    /// A listener that answers each connection as `answer` does.
    async fn listener<F: Future<Output = ()> + Send + 'static>(
        answer: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> (Address, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                answer(stream).await;
            }
        });
        (address, tasks)
    }

    async fn tls_listener(config: ServerConfig) -> (Address, JoinSet<()>) {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        listener(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                // A peer that finds another king ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        })
        .await
    }

    /// Why this king is not reached.
    async fn why(address: &Address, credentials: &Credentials) -> String {
        chain(&dial(address, credentials).await.unwrap_err())
    }

    #[tokio::test]
    async fn the_king_of_the_token_is_reached_and_no_other() {
        let (config, credentials) = king();
        let (address, _tasks) = tls_listener(config).await;
        let ByteStream::Tls(mut stream) = dial(&address, &credentials).await.unwrap() else { panic!("no TLS") };
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
        let (_, other) = king();
        let error = dial(&address, &other).await.unwrap_err();
        assert!(!error.may_pass());
        let (Credentials::Token(ours), Credentials::Token(theirs)) = (&credentials, &other) else { panic!() };
        let keys = format!("its key is {}, and the token wants {}", ours.fingerprint, theirs.fingerprint);
        assert!(error.to_string().contains(&keys), "{error}");
    }

    #[tokio::test]
    async fn a_listener_without_tls_hears_nothing_of_the_token() {
        let (heard, mut bytes) = tokio::sync::mpsc::channel(1);
        let (address, _tasks) = listener(move |mut stream| {
            let heard = heard.clone();
            async move {
                stream.write_all(b"\0\0\x12\x04\0\0\0\0\0").await.unwrap();
                let mut said = Vec::new();
                // The peer may reset the connection.
                let _end = stream.read_to_end(&mut said).await;
                heard.send(said).await.unwrap();
            }
        })
        .await;
        let (_, credentials) = king();
        let error = why(&address, &credentials).await;
        assert!(error.contains("does not speak TLS"), "{error}");
        let said = bytes.recv().await.unwrap();
        assert!(said.starts_with(&[0x16]) && !String::from_utf8_lossy(&said).contains("Bearer"));
    }

    #[tokio::test]
    async fn a_listener_that_is_not_a_king_is_told_apart() {
        let (mut config, credentials) = king();
        config.alpn_protocols.clear();
        let (address, _tasks) = tls_listener(config).await;
        assert!(why(&address, &credentials).await.contains("is not a king"));
        let (address, _tasks) = listener(|stream| async move { drop(stream) }).await;
        assert!(why(&address, &credentials).await.contains("no encrypted connection"));
        let held = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (address, _tasks) = listener(move |stream| {
            held.lock().unwrap().push(stream);
            std::future::ready(())
        })
        .await;
        let silent = dial_within(Duration::from_millis(50), &address, &credentials).await.unwrap_err();
        assert!(silent.to_string().contains("did not answer within 50ms; is it a king?"), "{silent}");
    }

    #[tokio::test]
    async fn without_a_token_nothing_is_sent() {
        // Port 1 has no king on any machine of these tests.
        for (address, expected) in [
            ("10.0.0.1:1", "there is no token for the king at 10.0.0.1:1: the user of the king makes"),
            ("localhost:1", "no king of this user listens on port 1"),
        ] {
            let address = address.parse().unwrap();
            let error = dial(&address, &Credentials::None).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.to_string().contains("king token create") && error.to_string().contains("--insecure"));
            assert_eq!(error.may_pass(), address.is_loopback());
        }
    }
}
