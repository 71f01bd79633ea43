//! The streams of messages of both links, over gRPC or within one process.
//!
//! tonic encodes each message into one buffer and gathers each in another, which copies every payload twice per link.
//! Here an outgoing message is a list of chunks, and a long payload is one of them without a copy. An incoming message
//! is decoded from the chunks in which it arrived, so that a payload which arrived in one piece is that piece. On the
//! wire there is no difference: gRPC over HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>),
//! without compression.

use std::{
    collections::VecDeque,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::UninitSlice};
use distwasm_proto::limits::{CHAINED_BYTES_MIN, MESSAGE_BYTES_MAX, MESSAGE_DECODED_BYTES_MAX};
use futures_core::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use prost::Message;
use thiserror::Error;
use tokio_stream::StreamExt;
use tonic::{Code, Status, body::Body};

use crate::{
    chunks::Chunks,
    weight::{Admission, Gate, Kind},
};

/// The prefix of each message: whether the message is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Why no more messages come.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StreamError {
    #[error("{0}")]
    Broken(String),
    #[error("the answer is not gRPC: HTTP status {0}")]
    NotGrpc(StatusCode),
    #[error("the peer says: {0}")]
    Refused(String),
    #[error("the king does not let this process in: {0}")]
    Denied(String),
    #[error("a message of {bytes} bytes, more than the {MESSAGE_BYTES_MAX} that are allowed")]
    TooLarge { bytes: usize },
    #[error("a message that takes {bytes} bytes in memory, more than the {MESSAGE_DECODED_BYTES_MAX} that are allowed")]
    TooHeavy { bytes: u64 },
    #[error("a compressed message, which was not agreed on")]
    Compressed,
    #[error("there is no room for a message of this size at the moment")]
    NoRoom,
    #[error("the stream ended within a message")]
    CutOff,
    #[error("a message that cannot be decoded: {0}")]
    Undecodable(#[from] prost::DecodeError),
}

// ---- Incoming ------------------------------------------------------------------------------------------------------

/// Messages that arrive.
pub struct Incoming<M> {
    source: Source<M>,
}

/// Counts the bytes of messages that have not come whole. All streams of a receiver may share a bound.
pub trait Meter: Send {
    /// So many bytes are held now, instead of those before.
    ///
    /// # Errors
    ///
    /// When there is no room for them. The stream ends with that.
    fn hold(&mut self, bytes: usize) -> Result<(), NoRoom>;
}

/// There is no room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

enum Source<M> {
    Remote(Remote<M>),
    Local(Pin<Box<dyn Stream<Item = M> + Send>>),
}

struct Remote<M> {
    body: Body,
    arrived: Chunks,
    meter: Option<Box<dyn Meter>>,
    /// Where messages are let in, and what they take there.
    gate: Option<(Gate, &'static Kind)>,
    /// The room of the last message.
    admission: Option<Admission>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default + 'static> Incoming<M> {
    /// Messages of a peer in the same process.
    pub fn local(messages: impl Stream<Item = M> + Send + 'static) -> Incoming<M> {
        Incoming { source: Source::Local(Box::pin(messages)) }
    }

    /// The messages of a client.
    pub fn of_request(request: Request<Body>) -> Incoming<M> {
        Incoming::of_body(request.into_body())
    }

    /// The messages of a server.
    ///
    /// # Errors
    ///
    /// When the answer is not from a gRPC server, or the server has no such stream.
    pub fn of_response(response: Response<Body>) -> Result<Incoming<M>, StreamError> {
        let (status, headers) = (response.status(), response.headers());
        let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()));
        if status != StatusCode::OK || !is_grpc {
            return Err(StreamError::NotGrpc(status));
        }
        check_status(headers)?;
        Ok(Incoming::of_body(response.into_body()))
    }

    fn of_body(body: Body) -> Incoming<M> {
        let (arrived, message) = (Chunks::default(), PhantomData);
        Incoming { source: Source::Remote(Remote { body, arrived, meter: None, gate: None, admission: None, message }) }
    }

    /// With a meter for messages from other processes.
    #[must_use]
    pub fn metered(mut self, meter: impl Meter + 'static) -> Incoming<M> {
        if let Source::Remote(remote) = &mut self.source {
            remote.meter = Some(Box::new(meter));
        }
        self
    }

    /// With a gate for messages from other processes, which are of this kind.
    #[must_use]
    pub fn gated(mut self, gate: Gate, kind: &'static Kind) -> Incoming<M> {
        if let Source::Remote(remote) = &mut self.source {
            remote.gate = Some((gate, kind));
        }
        self
    }

    /// The room that the last message takes, to be kept as long as the message is. It is given back otherwise when the
    /// next message comes.
    pub fn take_admission(&mut self) -> Option<Admission> {
        match &mut self.source {
            Source::Local(_) => None,
            Source::Remote(remote) => remote.admission.take(),
        }
    }

    /// The next message; `None` at the end. May be dropped at any time without losing anything.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or the data is not a message of this kind.
    pub async fn message(&mut self) -> Result<Option<M>, StreamError> {
        match &mut self.source {
            Source::Local(messages) => Ok(messages.next().await),
            Source::Remote(remote) => remote.message().await,
        }
    }
}

impl<M: Message + Default> Remote<M> {
    async fn message(&mut self) -> Result<Option<M>, StreamError> {
        self.admission = None;
        loop {
            let message = match next_length(&self.arrived)? {
                None => None,
                Some(bytes) => {
                    if let Some((gate, kind)) = &self.gate {
                        // Nothing is taken out before it is let in, so that this may be dropped.
                        let chunks = self.arrived.iter_from(PREFIX_BYTES);
                        self.admission = gate.admit(kind, chunks, bytes).await?;
                    }
                    Some(take_message(&mut self.arrived, bytes)?)
                }
            };
            if let Some(meter) = &mut self.meter {
                meter.hold(self.arrived.remaining()).map_err(|NoRoom| StreamError::NoRoom)?;
            }
            if message.is_some() {
                return Ok(message);
            }
            let body = &mut self.body;
            let frame =
                std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut *body), context)).await;
            match frame {
                None if self.arrived.remaining() == 0 => return Ok(None),
                None => return Err(StreamError::CutOff),
                Some(Err(status)) => return Err(StreamError::Broken(status.message().to_owned())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.arrived.gather(data),
                    Err(frame) => frame.trailers_ref().map_or(Ok(()), check_status)?,
                },
            }
        }
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), StreamError> {
    let Some(status) = Status::from_header_map(headers) else { return Ok(()) };
    let said = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    match status.code() {
        Code::Ok => Ok(()),
        Code::Unauthenticated | Code::PermissionDenied => Err(StreamError::Denied(said.to_owned())),
        _ => Err(StreamError::Refused(said.to_owned())),
    }
}

/// The length of the first message, if it is here as a whole.
fn next_length(arrived: &Chunks) -> Result<Option<usize>, StreamError> {
    let mut prefix = [0; PREFIX_BYTES];
    if arrived.remaining() < PREFIX_BYTES {
        return Ok(None);
    }
    arrived.peek(&mut prefix);
    let [flag, length @ ..] = prefix;
    let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if flag != 0 {
        return Err(StreamError::Compressed);
    }
    if bytes > MESSAGE_BYTES_MAX {
        return Err(StreamError::TooLarge { bytes });
    }
    Ok((arrived.remaining() >= PREFIX_BYTES + bytes).then_some(bytes))
}

/// Takes out the first message, which has this length.
fn take_message<M: Message + Default>(arrived: &mut Chunks, bytes: usize) -> Result<M, StreamError> {
    arrived.advance(PREFIX_BYTES);
    // A small message lies in one chunk, and is decoded faster from that alone.
    if arrived.chunk().len() >= bytes {
        return Ok(M::decode(arrived.copy_to_bytes(bytes))?);
    }
    Ok(M::decode(arrived.split_to(bytes))?)
}

// ---- Outgoing ------------------------------------------------------------------------------------------------------

/// Outgoing messages, as the body of a request or of a response.
struct Outgoing<S> {
    messages: S,
    frames: VecDeque<Bytes>,
    /// The status that a server sends at the end: all is well.
    status: Option<HeaderMap>,
    ended: bool,
}

/// A request for this method, with a stream of messages.
pub fn request<M: Message>(path: &'static str, messages: impl Stream<Item = M> + Send + 'static) -> Request<Body> {
    let mut request = Request::new(body(messages, None));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    *request.version_mut() = http::Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    request
}

/// An answer with a stream of messages.
pub fn response<M: Message>(messages: impl Stream<Item = M> + Send + 'static) -> Response<Body> {
    let well = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
    let mut response = Response::new(body(messages, Some(well)));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

fn body<M: Message>(messages: impl Stream<Item = M> + Send + 'static, status: Option<HeaderMap>) -> Body {
    Body::new(Outgoing { messages: Box::pin(messages), frames: VecDeque::new(), status, ended: false })
}

impl<M: Message, S: Stream<Item = M> + Unpin> http_body::Body for Outgoing<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if self.ended {
                return Poll::Ready(self.status.take().map(|status| Ok(Frame::trailers(status))));
            }
            match ready!(Pin::new(&mut self.messages).poll_next(context)) {
                Some(message) => encode(&message, &mut self.frames),
                None => self.ended = true,
            }
        }
    }
}

fn encode(message: &impl Message, frames: &mut VecDeque<Bytes>) {
    let bytes = message.encoded_len();
    let mut pieces =
        Pieces { frames, gathered: BytesMut::with_capacity((PREFIX_BYTES + bytes).min(GATHERED_AT_FIRST)) };
    pieces.put_u8(0);
    // A message is far smaller than that by its own limits.
    pieces.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    message.encode_raw(&mut pieces);
    pieces.cut();
}

/// Room for a message without long payloads; the buffer grows for more.
const GATHERED_AT_FIRST: usize = 64 << 10;

/// Takes encoded data: gathers short parts, and keeps long ones without a copy.
struct Pieces<'a> {
    frames: &'a mut VecDeque<Bytes>,
    gathered: BytesMut,
}

impl Pieces<'_> {
    fn cut(&mut self) {
        if !self.gathered.is_empty() {
            self.frames.push_back(self.gathered.split().freeze());
        }
    }
}

// SAFETY: all that the trait asks for is done by `BytesMut`, which keeps its promises.
unsafe impl BufMut for Pieces<'_> {
    fn remaining_mut(&self) -> usize {
        self.gathered.remaining_mut()
    }

    unsafe fn advance_mut(&mut self, bytes: usize) {
        // SAFETY: the caller has filled this many bytes of `chunk_mut`, which is that of `gathered`.
        unsafe { self.gathered.advance_mut(bytes) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.gathered.chunk_mut()
    }

    fn put<T: Buf>(&mut self, mut source: T) {
        let bytes = source.remaining();
        if bytes < CHAINED_BYTES_MIN {
            return self.gathered.put(source);
        }
        self.cut();
        // For `Bytes`, this does not copy.
        self.frames.push_back(source.copy_to_bytes(bytes));
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        self.gathered.put_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distwasm_proto::wire::{self, FromQueen, QueenWord, queen_word::Word};

    /// The first message, if it is here as a whole.
    fn next_message<M: Message + Default>(arrived: &mut Chunks) -> Result<Option<M>, StreamError> {
        let bytes = next_length(arrived)?;
        bytes.map(|bytes| take_message(arrived, bytes)).transpose()
    }

    fn unit(unit: u64, bytes: usize) -> QueenWord {
        let data = Bytes::from(vec![unit as u8; bytes]);
        let input = Some(wire::Payload { bytes_total: bytes as u64, data });
        Word::Unit(wire::Unit { unit, input, name: Bytes::from_static(b"name"), in_places: false, streamed: false })
            .into()
    }

    fn message() -> FromQueen {
        let sizes = [0, 15, CHAINED_BYTES_MIN - 1, CHAINED_BYTES_MIN, 200_000, 3];
        FromQueen { words: sizes.into_iter().zip(1..).map(|(bytes, number)| unit(number, bytes)).collect() }
    }

    fn encoded(message: &FromQueen) -> Vec<Bytes> {
        let mut frames = VecDeque::new();
        encode(message, &mut frames);
        frames.into()
    }

    #[test]
    fn a_message_is_encoded_as_prost_does_and_its_long_payloads_are_not_copied() {
        let message = message();
        let frames = encoded(&message);
        let mut expected = vec![0];
        expected.put_u32(message.encoded_len() as u32);
        message.encode(&mut expected).unwrap();
        assert_eq!(frames.concat(), expected);
        let Some(Word::Unit(unit)) = &message.words[4].word else { panic!("a unit") };
        let long = unit.input.as_ref().unwrap().data.as_ptr();
        assert!(frames.iter().any(|frame| frame.as_ptr() == long));
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let message = message();
        let bytes = [encoded(&message).concat(), encoded(&FromQueen::default()).concat()].concat();
        for size in [1, 3, 1000, 16_384, 1 << 20] {
            let mut chunks = Chunks::default();
            let mut found: Vec<FromQueen> = Vec::new();
            for piece in bytes.chunks(size) {
                chunks.gather(Bytes::copy_from_slice(piece));
                while let Some(message) = next_message(&mut chunks).unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [message.clone(), FromQueen::default()], "in pieces of {size}");
            assert_eq!(chunks.remaining(), 0);
        }
    }

    #[test]
    fn a_payload_that_comes_in_one_chunk_is_that_chunk() {
        let message = message();
        let mut chunks = Chunks::default();
        let frames = encoded(&message);
        frames.iter().for_each(|frame| chunks.push(frame.clone()));
        let arrived: FromQueen = next_message(&mut chunks).unwrap().unwrap();
        assert_eq!(arrived, message);
        let Some(Word::Unit(unit)) = &arrived.words[4].word else { panic!("a unit") };
        let data = unit.input.as_ref().unwrap().data.as_ptr();
        assert!(frames.iter().any(|frame| frame.as_ptr() == data));
    }

    #[test]
    fn what_is_no_message_is_refused_by_its_first_bytes() {
        let refused = |bytes: &'static [u8]| {
            let mut chunks = Chunks::default();
            chunks.push(Bytes::from_static(bytes));
            next_message::<FromQueen>(&mut chunks).unwrap_err().to_string()
        };
        assert!(refused(&[1, 0, 0, 0, 0]).contains("compressed"));
        assert!(refused(&[0, 0xff, 0, 0, 0]).contains("more than"));
        assert!(refused(&[0, 0, 0, 0, 2, 0x0a, 0x7f]).contains("decoded"));
    }
}
