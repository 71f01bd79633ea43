//! How a duke or a queen reaches a king on another process's side: over the king's socket, TLS, or plaintext.

use std::{error::Error, io, net::Ipv4Addr, sync::Arc, time::Duration};

use distwasm_proto::limits::CONNECT_WITHIN;
use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, TlsStream};
use tower::{Service, ServiceExt};

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
         else; `king --port {port}` starts one, {GET_TOKEN}"
    )]
    NoKingHere { port: u16 },
    #[error("there is no token for the king at {address}: {GET_TOKEN}")]
    NoToken { address: Address },
    #[error("no connection to {address}")]
    Tcp { address: Address, source: Box<dyn Error + Send + Sync> },
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
    let dialed = timeout(CONNECT_WITHIN, dial_patiently(address, credentials)).await;
    dialed.unwrap_or_else(|_| Err(ConnectError::Silent { address: address.clone(), within: CONNECT_WITHIN }))
}

async fn dial_patiently(address: &Address, credentials: &Credentials) -> Result<ByteStream, ConnectError> {
    if matches!(credentials, Credentials::Insecure) {
        return tcp(address).await.map(ByteStream::Plain);
    }
    let port = address.port();
    if address.is_loopback() {
        match own_socket::connect(port).await {
            Ok(Some(stream)) => return Ok(ByteStream::Unix(stream)),
            Ok(None) => {}
            Err(source) => return Err(ConnectError::Socket { port, source }),
        }
    }
    match credentials {
        Credentials::Token(token) => encrypted(address, token).await,
        _ if address.is_loopback() => Err(ConnectError::NoKingHere { port }),
        _ => Err(ConnectError::NoToken { address: address.clone() }),
    }
}

async fn tcp(address: &Address) -> Result<TcpStream, ConnectError> {
    let failed = |source: Box<dyn Error + Send + Sync>| ConnectError::Tcp { address: address.clone(), source };
    let uri: Uri = format!("http://{address}").parse().map_err(|error| failed(Box::new(error)))?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let ready = connector.ready().await.map_err(|error| failed(Box::new(error)))?;
    ready.call(uri).await.map(TokioIo::into_inner).map_err(|error| failed(Box::new(error)))
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
