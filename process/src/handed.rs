//! Arguments of a child process that do not stand on its command line, which every user of the machine can read: the
//! child inherits a file in memory that holds them.

use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    fs::File,
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

use distwasm_proto::limits::HANDED_ARGS_BYTES_MAX;

/// The flag that names the descriptor of the file.
pub const FLAG: &str = "--args-fd";

/// The arguments of a child process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Those that every user of the machine may see.
    pub shown: Vec<OsString>,
    /// Those that follow them, and that only the child may see.
    pub handed: Vec<OsString>,
}

impl Arguments {
    /// What stands on the command line, and the file that holds the rest.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    #[cfg(target_os = "linux")]
    pub fn split(mut self) -> io::Result<(Vec<OsString>, Option<Handed>)> {
        let handed = (!self.handed.is_empty()).then(|| Handed::new(&self.handed)).transpose()?;
        self.shown.extend(handed.iter().flat_map(Handed::flags));
        Ok((self.shown, handed))
    }

    /// All of them: where the system has no files in memory, every user may see them.
    #[cfg(not(target_os = "linux"))]
    pub fn split(mut self) -> io::Result<(Vec<OsString>, Option<Handed>)> {
        self.shown.extend(self.handed);
        Ok((self.shown, None))
    }
}

/// Arguments in a file in memory. The file must live until the child has been started.
#[derive(Debug)]
pub struct Handed(OwnedFd);

impl Handed {
    #[cfg(target_os = "linux")]
    fn new(args: &[OsString]) -> io::Result<Handed> {
        use rustix::fs::{MemfdFlags, memfd_create};
        let mut file = File::from(memfd_create("arguments", MemfdFlags::CLOEXEC)?);
        let text: Vec<u8> = args.iter().flat_map(|arg| arg.as_bytes().iter().copied().chain([0])).collect();
        file.write_all(&text)?;
        file.rewind()?;
        Ok(Handed(file.into()))
    }

    /// The arguments that stand on the command line instead.
    #[cfg(target_os = "linux")]
    fn flags(&self) -> [OsString; 2] {
        [FLAG.into(), self.0.as_raw_fd().to_string().into()]
    }

    /// The descriptor, to be [kept open](keep_open) in the child.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Lets the next program that this process executes inherit a descriptor. To be called between fork and exec.
///
/// # Errors
///
/// When it is not open.
pub fn keep_open(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: the call takes integers and changes only the flags of the descriptor.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The descriptor with this number, which the parent of this process has left open for this flag.
///
/// # Errors
///
/// When it is not an open descriptor, or one of the standard streams.
pub fn inherited(flag: &str, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call only asks whether the descriptor is open.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(not_inherited(flag, number));
    }
    // SAFETY: it is open, the parent has left it to this process for this very flag, and nothing else here uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn not_inherited(flag: &str, number: impl Display) -> io::Error {
    io::Error::other(format!("{flag} {number} is not an open descriptor above 2"))
}

/// The arguments of this process, with those that were [handed over](Handed) in the place of the flag that names them.
/// The descriptor is closed.
///
/// # Errors
///
/// When the flag names something that is not a descriptor, or that cannot be read.
pub fn expand(args: impl IntoIterator<Item = OsString>) -> io::Result<Vec<OsString>> {
    let mut expanded = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            expanded.push(arg);
            expanded.extend(args);
            break;
        }
        let value = match arg.as_bytes().strip_prefix(FLAG.as_bytes()) {
            Some([]) => args.next(),
            Some([b'=', value @ ..]) => Some(OsStr::from_bytes(value).to_owned()),
            _ => None,
        };
        match value {
            Some(value) => expanded.extend(read(&value)?),
            None => expanded.push(arg),
        }
    }
    Ok(expanded)
}

fn read(value: &OsStr) -> io::Result<Vec<OsString>> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| not_inherited(FLAG, value.display()))?;
    let file = File::from(inherited(FLAG, number)?);
    let mut text = Vec::new();
    file.take(HANDED_ARGS_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    if text.len() > HANDED_ARGS_BYTES_MAX {
        return Err(io::Error::other(format!("{FLAG} has more than {HANDED_ARGS_BYTES_MAX} bytes")));
    }
    Ok(text.split_inclusive(|byte| *byte == 0).map(|arg| os_string(arg.strip_suffix(&[0]).unwrap_or(arg))).collect())
}

fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    fn words(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    #[test]
    fn arguments_come_back_as_they_were() {
        let secret = words(&["--env=A=1 2", "", "--", "--args-fd", "\u{fc}"]);
        for equals in [false, true] {
            let number = Handed::new(&secret).unwrap().0.into_raw_fd();
            let flag = if equals { vec![format!("{FLAG}={number}")] } else { vec![FLAG.into(), number.to_string()] };
            let args = ["peasant".to_owned(), "--fresh".to_owned()].into_iter().chain(flag).map(OsString::from);
            let expected: Vec<_> = words(&["peasant", "--fresh"]).into_iter().chain(secret.clone()).collect();
            assert_eq!(expand(args).unwrap(), expected);
        }
        // What comes after the dashes is the guest's.
        let args = words(&["peasant", "--", FLAG, "3"]);
        assert_eq!(expand(args.clone()).unwrap(), args);
    }

    #[test]
    fn what_is_not_open_is_not_taken_over() {
        let file = File::open("/dev/null").unwrap();
        for number in [-1, 0, 2, file.as_raw_fd() + (1 << 29)] {
            assert!(inherited(FLAG, number).is_err(), "{number}");
        }
    }

    #[test]
    fn what_is_not_a_descriptor_is_refused() {
        for wrong in ["2", "-1", "x", "", "1000000"] {
            let why = expand(words(&["peasant", FLAG, wrong])).unwrap_err().to_string();
            assert!(why.contains("is not an open descriptor above 2"), "{why}");
        }
        let long = Handed::new(&words(&["x"; HANDED_ARGS_BYTES_MAX / 2 + 1])).unwrap().0.into_raw_fd();
        assert!(expand(words(&[FLAG, &long.to_string()])).is_err());
    }
}
