//! The command line of a peasant.

use std::{ffi::OsString, sync::Arc};

use distwasm_process::handed::Arguments;
use distwasm_proto::{guest::GuestSettings, ids::JobId, statuses::Statuses};

use crate::cache::Made;

/// The settings that a peasant is started with.
#[derive(Clone, Debug)]
pub struct PeasantSettings {
    /// The supplies of its job. They stay on disk while they are held here.
    pub supplies: Vec<Made>,
    /// The memory of its guest, in bytes, at most.
    pub memory_bytes: u64,
    /// How its guests are called, and what they are given.
    pub guest: Arc<GuestSettings>,
    /// It gets open files although its job has no folders: inputs of the job are streamed.
    pub takes_files: bool,
}

impl PeasantSettings {
    /// The peasant's arguments. A value that a person chose follows `=`, so that it cannot be taken for a flag.
    pub(crate) fn command_line(&self, job: JobId) -> Arguments {
        let guest = &self.guest;
        let (mut shown, mut folders) = (Vec::<OsString>::new(), Vec::new());
        for made in &self.supplies {
            match made {
                Made::Program(compiled) => shown.extend(["--compiled".into(), compiled.into()]),
                Made::Share(folder) => folders.push(folder),
            }
        }
        shown.extend(["--memory-bytes".into(), self.memory_bytes.to_string().into()]);
        if let Some(bytes) = guest.result_bytes_max {
            shown.extend(["--max-output-bytes".into(), bytes.to_string().into()]);
        }
        shown.extend(guest_flags(guest));
        shown.extend(["--job".into(), job.0.to_string().into(), "--described".into()]);
        for (share, folder) in guest.shares.iter().zip(folders) {
            let mut arg = OsString::from("--dir=");
            arg.push(folder.path());
            arg.push("::");
            arg.push(&share.guest_path);
            shown.push(arg);
        }
        let mut handed = Vec::<OsString>::new();
        if guest.deterministic {
            handed.push(format!("--seed={}", guest.seed).into());
        }
        handed.extend(guest_words(guest));
        Arguments { shown, handed }
    }
}

/// The flags that say how a guest is called, for every command of `peasant` that runs one. A value that a person chose
/// follows `=`, so that it cannot be taken for a flag.
pub fn guest_flags(guest: &GuestSettings) -> impl Iterator<Item = OsString> {
    let chosen = |is_chosen: bool, flag: &str| is_chosen.then(|| flag.to_owned());
    let flags = [
        chosen(!guest.call.is_empty(), &format!("--call={}", guest.call)),
        guest.stack_bytes.map(|bytes| format!("--stack={bytes}B")),
        chosen(guest.traps_unknown_imports, "--unknown-imports=trap"),
        chosen(guest.fresh, "--fresh"),
        chosen(guest.deterministic, "--deterministic"),
        chosen(guest.ok_statuses != Statuses::default(), &format!("--ok-status={}", guest.ok_statuses)),
        guest.scratch_bytes.map(|bytes| format!("--scratch={bytes}B")),
        chosen(guest.literal_args, "--raw-args"),
    ];
    flags.into_iter().flatten().map(OsString::from)
}

/// What follows the other flags, and is not for the eyes of other users: the guest's name, environment and arguments.
pub fn guest_words(guest: &GuestSettings) -> impl Iterator<Item = OsString> {
    let name = (!guest.argv0.is_empty()).then(|| format!("--argv0={}", guest.argv0));
    let env = guest.env.iter().map(|variable| format!("--env={variable}"));
    let dashes = (!guest.args.is_empty()).then(|| "--".to_owned());
    name.into_iter().chain(env).chain(dashes).chain(guest.args.iter().cloned()).map(OsString::from)
}

#[cfg(test)]
mod tests {
    use distwasm_proto::guest::Places;

    use super::*;

    fn settings(guest: GuestSettings) -> PeasantSettings {
        let supplies = vec![Made::Program("c.cwasm".into())];
        PeasantSettings { supplies, memory_bytes: 7, guest: Arc::new(guest), takes_files: false }
    }

    fn line(args: Vec<OsString>) -> String {
        args.into_iter().map(|arg| arg.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn settings_that_were_not_chosen_are_not_passed() {
        let args = vec!["--env=x".to_owned(), String::new()];
        let settings = settings(GuestSettings { args, ..GuestSettings::default() });
        let told = settings.command_line(JobId(3));
        assert_eq!(line(told.shown), "--compiled c.cwasm --memory-bytes 7 --job 3 --described");
        assert_eq!(told.handed, ["--", "--env=x", ""]);
    }

    #[test]
    fn all_settings_that_were_chosen_are_passed() {
        let settings = settings(GuestSettings {
            args: vec!["a".to_owned()],
            env: vec!["A=-1".to_owned(), "B=".to_owned()],
            call: "-f".to_owned(),
            fresh: true,
            deterministic: true,
            seed: "-project".to_owned(),
            shares: Vec::new(),
            places: Places::default(),
            result_bytes_max: Some(9),
            literal_args: true,
            ok_statuses: "0,1".parse().unwrap(),
            scratch_bytes: Some(8),
            stack_bytes: Some(8 << 20),
            argv0: "-jq".to_owned(),
            traps_unknown_imports: true,
        });
        let told = settings.command_line(JobId(3));
        let shown = "--compiled c.cwasm --memory-bytes 7 --max-output-bytes 9 --call=-f --stack=8388608B \
                     --unknown-imports=trap --fresh --deterministic --ok-status=0,1 --scratch=8B --raw-args \
                     --job 3 --described";
        assert_eq!(line(told.shown), shown);
        assert_eq!(line(told.handed), "--seed=-project --argv0=-jq --env=A=-1 --env=B= -- a");
    }
}
