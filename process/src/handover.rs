//! Hands open files to a child process: their descriptors go over a Unix socket, many in a message.
//!
//! Each message says how many descriptors it carries. A receiver at its limit of descriptors would lose some of them
//! otherwise, and take the next one for another.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use distwasm_proto::limits::HANDED_DESCRIPTORS_MAX;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use thiserror::Error;

/// The flag that names the socket of a child process.
pub const FLAG: &str = "--descriptors";

/// Sockets that keep messages apart and whose other end is seen to close, where there are such.
#[cfg(target_os = "linux")]
const KIND: SocketType = SocketType::SEQPACKET;
#[cfg(not(target_os = "linux"))]
const KIND: SocketType = SocketType::DGRAM;

#[cfg(target_os = "linux")]
const PAIR: SocketFlags = SocketFlags::CLOEXEC;
#[cfg(not(target_os = "linux"))]
const PAIR: SocketFlags = SocketFlags::empty();

#[cfg(target_os = "linux")]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(not(target_os = "linux"))]
const SEND: SendFlags = SendFlags::DONTWAIT;

#[cfg(target_os = "linux")]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const RECEIVE: RecvFlags = RecvFlags::empty();

/// A socket for the parent, and one for the child. Neither is inherited unless it is [kept open](crate::handed::keep_open).
///
/// # Errors
///
/// When they cannot be made.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, KIND, PAIR, None)?)
}

/// Sends up to [`HANDED_DESCRIPTORS_MAX`] descriptors as one message. Does not wait.
///
/// # Errors
///
/// When the other end is closed, or the system cannot take more at present ([`is_for_want_of_room`]).
pub fn send(socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = u8::try_from(descriptors.len()).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED_DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::MSGSIZE.into());
    }
    sendmsg(socket, &[IoSlice::new(&[count])], &mut control, SEND)?;
    Ok(())
}

/// Whether something failed because there are too many descriptors, open or on their way, or too many messages: it may
/// work later.
pub fn is_for_want_of_room(error: &io::Error) -> bool {
    let wants = [Errno::MFILE, Errno::NFILE, Errno::TOOMANYREFS, Errno::AGAIN, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| wants.contains(&errno))
}

/// Why no descriptor came.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ReceiveError {
    #[error("cannot receive descriptors")]
    Socket(#[from] io::Error),
    #[error("the socket of {FLAG} ended before the descriptors of a unit")]
    Ended,
    #[error("a message with descriptors was cut short: this process may not have so many open")]
    CutShort,
    #[error("a message announces {announced} descriptors and has {got}")]
    Miscounted { announced: usize, got: usize },
}

/// Descriptors that a parent process hands over, in order.
#[derive(Debug)]
pub struct Receiver {
    socket: OwnedFd,
    /// The rest of the last message.
    waiting: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Descriptors that come over this socket.
    pub fn new(socket: OwnedFd) -> Receiver {
        Receiver { socket, waiting: VecDeque::new() }
    }

    /// The next file. Waits for a message when there is none left of the last one.
    ///
    /// # Errors
    ///
    /// When no more can be received: the descriptors that follow could be taken for others.
    pub fn next_file(&mut self) -> Result<File, ReceiveError> {
        loop {
            if let Some(next) = self.waiting.pop_front() {
                return Ok(next.into());
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<(), ReceiveError> {
        let mut count = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED_DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut count)], &mut control, RECEIVE) {
                Err(Errno::INTR) => {}
                received => break received.map_err(io::Error::from)?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.waiting.extend(descriptors);
            }
        }
        let (announced, got) = (usize::from(count[0]), self.waiting.len());
        if received.bytes == 0 {
            return Err(ReceiveError::Ended);
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::CutShort);
        }
        // A message without any would never be sent.
        if announced != got || got == 0 {
            return Err(ReceiveError::Miscounted { announced, got });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    #[test]
    fn descriptors_come_in_order() {
        let (parent, child) = pair().unwrap();
        let files: Vec<File> = (0..HANDED_DESCRIPTORS_MAX).map(|number| file(&number.to_string())).collect();
        let all: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send(&parent, &all[..3]).unwrap();
        send(&parent, &all[3..]).unwrap();
        let mut receiver = Receiver::new(child);
        for number in 0..files.len() {
            let mut text = String::new();
            receiver.next_file().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, number.to_string());
        }
        send(&parent, &all).unwrap();
        receiver.next_file().unwrap();
        drop((files, parent));
        for _ in 1..HANDED_DESCRIPTORS_MAX {
            receiver.next_file().unwrap();
        }
        assert!(matches!(receiver.next_file(), Err(ReceiveError::Ended)));
    }

    #[test]
    fn a_full_socket_is_a_want_of_room_and_a_closed_one_is_not() {
        let (parent, child) = pair().unwrap();
        let file = file("");
        let full = std::iter::repeat_with(|| send(&parent, &[file.as_fd()])).find_map(Result::err).unwrap();
        assert!(is_for_want_of_room(&full), "{full}");
        drop(child);
        assert!(!is_for_want_of_room(&send(&parent, &[file.as_fd()]).unwrap_err()));
    }

    #[test]
    fn a_wrong_count_is_seen() {
        let (parent, child) = pair().unwrap();
        let mut control = SendAncillaryBuffer::new(&mut []);
        sendmsg(&parent, &[IoSlice::new(&[2])], &mut control, SEND).unwrap();
        let why = Receiver::new(child).next_file().unwrap_err().to_string();
        assert_eq!(why, "a message announces 2 descriptors and has 0");
    }
}
