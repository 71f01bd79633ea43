//! What a baron passes to its peasant: the command line, and each unit as frames.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use bytes::{Bytes, BytesMut};
use distwasm_proto::{
    guest::GuestSettings,
    ids::{JobId, UnitNo},
    limits::GATHERED_BYTES_MAX,
    pipe::{Description, Header},
};
use distwasm_transport::{chunks::Chunks, payload::Payload};

use crate::shares::SharedFolder;

/// The settings that a peasant is started with.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// The compiled program in the duke's cache.
    pub(crate) compiled: PathBuf,
    /// The memory of its guest, at most.
    pub(crate) memory_bytes: u64,
    /// How its guests are called, and what they are given.
    pub(crate) guest: Arc<GuestSettings>,
    /// The shared directories, in the order of the settings. They stay on disk while they are held here.
    pub(crate) folders: Vec<Arc<SharedFolder>>,
}

/// One attempt of a unit, as a peasant gets it.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) unit: UnitNo,
    /// The number of the attempt, from 1.
    pub(crate) number: u32,
    /// The unit's name, as the queen calls it.
    pub(crate) name: Bytes,
    pub(crate) content: Payload,
}

impl Input {
    /// Its size in a pipe.
    pub(crate) fn bytes(&self) -> u64 {
        self.name.len() as u64 + self.content.bytes()
    }
}

impl Work {
    /// The peasant's arguments. A value that a person chose follows `=`, so that it cannot be taken for a flag.
    pub(crate) fn command_line(&self, job: JobId) -> Vec<OsString> {
        let guest = &self.guest;
        let mut args: Vec<OsString> = vec!["--compiled".into(), (&self.compiled).into()];
        args.extend(["--memory-bytes".into(), self.memory_bytes.to_string().into()]);
        if !guest.call.is_empty() {
            args.push(format!("--call={}", guest.call).into());
        }
        if guest.fresh {
            args.push("--fresh".into());
        }
        if guest.deterministic {
            args.extend(["--deterministic".into(), format!("--seed={}", guest.seed).into()]);
        }
        args.extend(["--job".into(), job.0.to_string().into(), "--described".into()]);
        args.extend(guest.env.iter().map(|variable| format!("--env={variable}").into()));
        for (share, folder) in guest.shares.iter().zip(&self.folders) {
            let mut arg = OsString::from("--dir=");
            arg.push(folder.path());
            arg.push("::");
            arg.push(&share.guest_path);
            args.push(arg);
        }
        args.push("--".into());
        args.extend(guest.args.iter().map(OsString::from));
        args
    }
}

/// Headers and bodies on their way into a pipe: short ones are gathered, long ones are not copied, and many go with one
/// system call.
#[derive(Default)]
pub(crate) struct Frames {
    chunks: Chunks,
    gathered: BytesMut,
}

impl Frames {
    /// Appends the frames of a unit: its description, and then its content.
    pub(crate) fn push(&mut self, input: &Input) {
        let Input { unit, number: attempt, ref name, ref content } = *input;
        Description { unit, attempt, name }.append(|part| self.gathered.extend_from_slice(part));
        // The border refuses inputs that do not fit a frame.
        let body_bytes = usize::try_from(content.bytes()).unwrap_or(usize::MAX);
        self.gathered.extend_from_slice(&Header { body_bytes, is_failure: false }.encode());
        if body_bytes <= GATHERED_BYTES_MAX {
            content.chunks().for_each(|chunk| self.gathered.extend_from_slice(chunk));
        } else {
            self.chunks.push(self.gathered.split().freeze());
            content.chunks().for_each(|chunk| self.chunks.push(chunk.clone()));
        }
    }

    /// The bytes to write.
    pub(crate) fn finish(mut self) -> Chunks {
        self.chunks.push(self.gathered.freeze());
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    fn work(guest: GuestSettings) -> Work {
        Work { compiled: "c.cwasm".into(), memory_bytes: 7, guest: Arc::new(guest), folders: Vec::new() }
    }

    #[test]
    fn settings_that_were_not_chosen_are_not_passed() {
        let args = vec!["--env=x".to_owned(), String::new()];
        let work = work(GuestSettings { args, ..GuestSettings::default() });
        let expected = "--compiled c.cwasm --memory-bytes 7 --job 3 --described -- --env=x ".split(' ');
        assert_eq!(work.command_line(JobId(3)), expected.collect::<Vec<_>>());
    }

    #[test]
    fn all_settings_that_were_chosen_are_passed() {
        let work = work(GuestSettings {
            args: vec!["a".to_owned()],
            env: vec!["A=-1".to_owned(), "B=".to_owned()],
            call: "-f".to_owned(),
            fresh: true,
            deterministic: true,
            seed: "-project".to_owned(),
            shares: Vec::new(),
        });
        let expected = "--compiled c.cwasm --memory-bytes 7 --call=-f --fresh --deterministic --seed=-project \
                        --job 3 --described --env=A=-1 --env=B= -- a";
        let told = work.command_line(JobId(3)).into_iter().map(|arg| arg.into_string().unwrap());
        assert_eq!(told.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn a_unit_is_two_frames() {
        for content in [vec![], vec![b'a'; 3], vec![b'a'; GATHERED_BYTES_MAX + 1]] {
            let name = Bytes::from_static(b"sub/\xff");
            let input = Input { unit: UnitNo(5), number: 2, name: name.clone(), content: content.clone().into() };
            let mut frames = Frames::default();
            frames.push(&input);
            let mut frames = frames.finish();
            let written = frames.copy_to_bytes(frames.remaining());
            let frame = distwasm_proto::pipe::parse(&written).unwrap();
            let expected = Description { unit: UnitNo(5), attempt: 2, name: &name };
            assert_eq!(Description::parse(frame.body), Some(expected));
            let rest = &written[frame.header.frame_bytes()..];
            let frame = distwasm_proto::pipe::parse(rest).unwrap();
            assert_eq!((frame.body, frame.header.frame_bytes()), (content.as_slice(), rest.len()));
        }
    }
}
