//! The settings of the guest program, for a job and for a check: made from its flags, and checked.

use std::{collections::BTreeSet, path::Path};

use distwasm_jobs::shares::{self, Packed, ShareError};
use distwasm_process::guest_flags::{CallFlags, GuestFlags, NoValue, NotADirectory, UnknownImports};
use distwasm_proto::{
    digest::Digest,
    guest::{GuestError, GuestSettings, Places},
};
use distwasm_transport::payload::Payload;
use thiserror::Error;

/// Why the options of a guest cannot be used.
#[derive(Debug, Error)]
pub enum GuestOptionsError {
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    Dir(#[from] NotADirectory),
    #[error(transparent)]
    Variable(#[from] NoValue),
    #[error(transparent)]
    Share(#[from] ShareError),
}

/// The settings of a job of this project, checked, and the archives of its shared directories.
///
/// # Errors
///
/// When a flag is invalid or a directory cannot be packed, with the reason.
pub fn prepare(
    flags: &GuestFlags,
    project: &str,
) -> Result<(GuestSettings, Vec<(Digest, Payload)>), GuestOptionsError> {
    let guest = settings(flags, project)?;
    guest.check()?;
    let Packed { shares, archives } = shares::pack(&flags.directories()?)?;
    let guest = GuestSettings { shares, ..guest };
    // The places of the directories, too.
    guest.check()?;
    Ok((guest, archives))
}

/// The settings without the directories.
fn settings(flags: &GuestFlags, project: &str) -> Result<GuestSettings, NoValue> {
    let CallFlags { call, deterministic, unknown_imports } = flags.calling.clone();
    Ok(GuestSettings {
        args: flags.args.clone(),
        env: last_of_each_key(&flags.variables()?),
        call: call.unwrap_or_default(),
        fresh: flags.is_fresh(),
        deterministic,
        seed: if deterministic { project.to_owned() } else { String::new() },
        shares: Vec::new(),
        places: Places::default(),
        result_bytes_max: None,
        literal_args: flags.raw_args,
        ok_statuses: flags.ok_status.clone().unwrap_or_default(),
        scratch_bytes: flags.scratch,
        stack_bytes: flags.stack,
        argv0: flags.argv0.clone().unwrap_or_default(),
        traps_unknown_imports: unknown_imports == UnknownImports::Trap,
    })
}

/// Names a guest like the file of its program, unless it has a name already.
pub fn name_like(program: &Path, guest: &mut GuestSettings) {
    if guest.argv0.is_empty() {
        guest.argv0 = file_name(program);
    }
}

/// The name of a file without its folders.
pub fn file_name(program: &Path) -> String {
    program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The variables without those that a later one overrides.
fn last_of_each_key(env: &[String]) -> Vec<String> {
    let mut later = BTreeSet::new();
    let key = |variable: &str| variable.split_once('=').map(|(key, _)| key.to_owned());
    // A variable without a key is refused elsewhere.
    let last = env.iter().rev().filter(|variable| key(variable).is_none_or(|key| later.insert(key)));
    let mut last: Vec<String> = last.cloned().collect();
    last.reverse();
    last
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        guest: GuestFlags,
    }

    fn guest(args: &[&str]) -> Result<GuestSettings, GuestOptionsError> {
        let line = Line::try_parse_from(["queen"].iter().chain(args)).unwrap();
        let guest = settings(&line.guest, "project")?;
        guest.check()?;
        Ok(guest)
    }

    #[test]
    fn options_of_guests_are_passed_on_unchanged() {
        let told =
            guest(&["--env", "A=1", "--env=B=x=y", "--env", "A=2,3", "--call", "f", "--", "a", "--env"]).unwrap();
        assert_eq!((told.env, told.args), (vec!["B=x=y".into(), "A=2,3".into()], vec!["a".into(), "--env".into()]));
        assert_eq!((told.call.as_str(), told.fresh, told.seed.as_str()), ("f", false, ""));
    }

    #[test]
    fn deterministic_guests_are_fresh_and_draw_from_the_project() {
        let told = guest(&["--deterministic"]).unwrap();
        assert_eq!((told.fresh, told.deterministic, told.seed.as_str()), (true, true, "project"));
    }

    #[test]
    fn a_guest_is_named_like_its_file_unless_it_has_a_name() {
        let named = |args: &[&str]| {
            let mut told = guest(args).unwrap();
            name_like(Path::new("/a/jq.wasm"), &mut told);
            told.argv0
        };
        assert_eq!((named(&[]), named(&["--argv0", "jq"])), ("jq.wasm".to_owned(), "jq".to_owned()));
    }

    #[test]
    fn the_size_of_a_stack_has_its_bounds() {
        let told = |size: &str| Line::try_parse_from(["queen", "--stack", size]).map(|line| line.guest.stack);
        assert_eq!(
            (told("8MB").unwrap(), told("64K").unwrap(), told("2").unwrap()),
            (Some(8 << 20), Some(64 << 10), Some(2 << 20))
        );
        for wrong in ["63KB", "65MB", "0", "deep"] {
            assert!(told(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_that_cannot_be_are_refused() {
        for variable in ["DISTWASM_NO_SUCH_NAME", "=1", "DISTWASM_UNIT=1"] {
            assert!(guest(&["--env", variable]).is_err(), "{variable}");
        }
    }
}
