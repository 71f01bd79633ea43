//! The small language of the peasant's tests: start one, ask it, see how it ends.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where its expectation does")]

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use distwasm_process::{handed, handover};
use distwasm_proto::{
    failure::Failure,
    ids::UnitNo,
    pipe::{Description, HEADER_BYTES, Header, Reference},
};

/// The program under test.
pub const PEASANT: &str = env!("CARGO_BIN_EXE_peasant");

/// The path of a guest of the tests.
pub fn guest_path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests")).join(name)
}

/// A guest of the tests.
pub fn guest(name: &str) -> Vec<u8> {
    std::fs::read(guest_path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A frame around a body.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = Header::of_body(body).unwrap().encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A running peasant. Dropped, it is killed.
pub struct Peasant {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Sends in the background, so that a full pipe does not block the reading of answers.
    sender: Option<JoinHandle<ChildStdin>>,
}

impl Peasant {
    /// Starts a peasant that is ready to serve `program`.
    pub fn start(program: Vec<u8>, args: &[&str]) -> Peasant {
        let mut peasant = Peasant::spawn(args);
        peasant.send_all(&[program]);
        assert_eq!(peasant.receive(), Ok(Vec::new()), "ready");
        peasant
    }

    /// Starts a peasant that maps a compiled program.
    pub fn start_compiled(args: &[&str]) -> Peasant {
        let mut peasant = Peasant::spawn(args);
        assert_eq!(peasant.receive(), Ok(Vec::new()), "ready");
        peasant
    }

    /// Starts a peasant with a program that cannot run; returns what it said, and its exit status.
    pub fn fails_to_start(program: Vec<u8>, args: &[&str]) -> (Failure, Option<i32>) {
        let mut peasant = Peasant::spawn(args);
        peasant.send_all(&[program]);
        let failure = peasant.receive().expect_err("the program to be unfit");
        (failure, peasant.child.wait().unwrap().code())
    }

    fn spawn(args: &[&str]) -> Peasant {
        let mut command = Command::new(PEASANT);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        Peasant { child, stdin, sender: None }
    }

    /// Starts a peasant that gets open files over a socket.
    pub fn start_with_files(program: Vec<u8>, args: &[&str]) -> (Peasant, OwnedFd) {
        let (ours, theirs) = handover::pair().unwrap();
        handed::keep_open(theirs.as_raw_fd()).unwrap();
        let number = theirs.as_raw_fd().to_string();
        let args: Vec<_> = [handover::FLAG, &*number].into_iter().chain(args.iter().copied()).collect();
        (Peasant::start(program, &args), ours)
    }

    /// The peasant's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends frames, in the background.
    pub fn send_all(&mut self, bodies: &[Vec<u8>]) {
        let bodies = bodies.to_vec();
        let mut stdin = BufWriter::with_capacity(1 << 16, self.stdin());
        self.sender = Some(std::thread::spawn(move || {
            for body in bodies {
                // A peasant that stops reading is noticed by its answer.
                let _ = stdin.write_all(&frame(&body));
            }
            let _ = stdin.flush();
            stdin.into_parts().0
        }));
    }

    /// The next answer.
    pub fn receive(&mut self) -> Result<Vec<u8>, Failure> {
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut header = [0; HEADER_BYTES];
        stdout.read_exact(&mut header).expect("an answer");
        let header = Header::parse(&header).unwrap();
        let mut body = vec![0; header.body_bytes];
        stdout.read_exact(&mut body).expect("the rest of the answer");
        if header.is_failure { Err(Failure::decode(&body)) } else { Ok(body) }
    }

    /// The answer to one input.
    pub fn ask(&mut self, input: &[u8]) -> Result<Vec<u8>, Failure> {
        self.send_all(&[input.to_vec()]);
        self.receive()
    }

    /// Ends the inputs; the peasant must end with status 0 and say no more.
    pub fn ends_well(mut self) {
        drop(self.stdin());
        let mut rest = Vec::new();
        self.child.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!((rest, self.child.wait().unwrap().code()), (Vec::new(), Some(0)));
    }

    /// Kills it as its duke would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().code(), None);
    }

    fn stdin(&mut self) -> ChildStdin {
        let sent = self.sender.take().map(|sender| sender.join().unwrap());
        self.stdin.take().or(sent).expect("stdin is open")
    }
}

/// A unit for a peasant that gets open files: where its input is, and the file of its output.
pub struct FileUnit<'a> {
    /// Its bytes, or a file and its size.
    pub input: Result<&'a [u8], (&'a File, u64)>,
    pub output: Option<&'a File>,
}

/// Hands the files of units over, as one message; returns what belongs into the pipe.
pub fn hand(socket: &OwnedFd, units: &[FileUnit<'_>]) -> Vec<Vec<u8>> {
    let (mut descriptors, mut bodies) = (Vec::new(), Vec::new());
    for (number, FileUnit { input, output }) in units.iter().enumerate() {
        descriptors.extend(input.as_ref().err().map(|(file, _)| file.as_fd()));
        descriptors.extend(output.map(AsFd::as_fd));
        let reference =
            Reference { input_bytes: input.as_ref().err().map(|(_, bytes)| *bytes), output: output.is_some() };
        let mut frame = Vec::new();
        let description = Description { unit: UnitNo(number as u64), attempt: 1, name: b"name" };
        description.append_with(reference, |part| frame.extend_from_slice(part));
        bodies.push(frame.split_off(HEADER_BYTES));
        bodies.extend(input.as_ref().ok().map(|bytes| bytes.to_vec()));
    }
    if !descriptors.is_empty() {
        handover::send(socket, &descriptors).unwrap();
    }
    bodies
}

impl Drop for Peasant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
