//! The guest's streams in the form that `wasmtime-wasi` needs, for components and for modules that may read files.

use bytes::Bytes;
use distwasm_proto::limits::GUEST_WRITE_BYTES;
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::Shared;

/// A guest's stdin.
#[derive(Clone, Debug)]
pub struct Input(pub Shared);

/// A guest's stdout or stderr.
#[derive(Clone, Debug)]
pub enum Output {
    /// The answer, or what precedes it.
    Stdout(Shared),
    /// The log.
    Stderr(Shared),
}

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {}
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let bytes = self.0.lock().take(size).map_err(|error| StreamError::Trap(error.into()))?;
        if bytes.is_empty() && size > 0 { Err(StreamError::Closed) } else { Ok(bytes) }
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self {
            Output::Stdout(stdio) => stdio.lock().write_output(&bytes).map_err(|error| StreamError::Trap(error.into())),
            Output::Stderr(stdio) => {
                stdio.lock().write_stderr(&bytes);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(GUEST_WRITE_BYTES)
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    // Of WASI 0.3, which guests do not get.
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    // Of WASI 0.3, which guests do not get.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}
