//! A queen's settings for a job's guests, checked: the king passes them on to the dukes as they are.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    arguments::{Arguments, INPUT_FOLDER, OUTPUT_FOLDER},
    digest::Digest,
    limits::{
        DISK_BLOCK_BYTES, GUEST_ARGS_BYTES_MAX, GUEST_ENV_BYTES_MAX, GUEST_STACK_BYTES_MAX, GUEST_STACK_BYTES_MIN,
        NAME_BYTES_MAX, PATH_BYTES_MAX, SHARES_MAX, UNIT_NAME_BYTES_MAX,
    },
    statuses::{Statuses, StatusesError},
    wire,
};

/// The prefix of the variables that distwasm itself sets for a guest.
pub const OWN_VARIABLES: &str = "DISTWASM_";

/// The arguments, environment and directories of a job's guests, and how the guests are run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestSettings {
    /// The arguments.
    pub args: Vec<String>,
    /// The environment; each is KEY=VALUE.
    pub env: Vec<String>,
    /// The export that is called for each unit; empty when it is found from the program.
    pub call: String,
    /// Each unit gets an instance of its own.
    pub fresh: bool,
    /// The same unit gives the same bytes everywhere.
    pub deterministic: bool,
    /// The seed of randomness, besides the unit's name, if randomness is to be the same everywhere.
    pub seed: String,
    /// Directories that each guest sees.
    pub shares: Vec<Share>,
    /// Folders of the job that its dukes see, too.
    pub places: Places,
    /// How long a result may be, if the queen has a wish.
    pub result_bytes_max: Option<u64>,
    /// Braces in the arguments mean nothing.
    pub literal_args: bool,
    /// The exit statuses that are results.
    pub ok_statuses: Statuses,
    /// How large the scratch of a unit may be, if the queen has a wish; 0 for none.
    pub scratch_bytes: Option<u64>,
    /// The guest's stack, if it is not the usual one.
    pub stack_bytes: Option<u64>,
    /// The guest's name for itself, before its arguments; empty when nobody has chosen one.
    pub argv0: String,
    /// Functions that the program imports and that do not exist trap when they are called.
    pub traps_unknown_imports: bool,
}

/// Folders of a job that its dukes see, too: from there a duke reads inputs, or there it writes results, itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The absolute path of the input folder; `None` if inputs are carried.
    pub input: Option<PathBuf>,
    /// The absolute path of the output folder; `None` if results are carried.
    pub output: Option<PathBuf>,
    /// The name of a file in the own folder of distwasm in the output folder, if there is one: a duke that does not find
    /// it sees another folder.
    pub probe: Option<PathBuf>,
}

/// A read-only directory that each guest of a job sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The digest of its archive.
    pub digest: Digest,
    /// The path at which the guest finds it, as [`tidy_guest_path`] writes it.
    pub guest_path: String,
}

/// What a file or folder of a shared directory takes of a disk with common blocks. `file_bytes` is the size of a file,
/// and `None` for a folder.
pub fn disk_bytes(file_bytes: Option<u64>) -> u64 {
    file_bytes.unwrap_or(DISK_BLOCK_BYTES).div_ceil(DISK_BLOCK_BYTES).saturating_mul(DISK_BLOCK_BYTES)
}

/// Why settings are refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GuestError {
    #[error("the arguments for the program have more than {} KB", GUEST_ARGS_BYTES_MAX >> 10)]
    ArgsTooLong,
    #[error("the variable {variable:?} for the program is not KEY=VALUE")]
    NoVariable { variable: String },
    #[error("the variable {key} cannot be chosen: names that begin with {OWN_VARIABLES} are set by distwasm")]
    OwnVariable { key: String },
    #[error("the environment of the program has more than {} KB", GUEST_ENV_BYTES_MAX >> 10)]
    EnvTooLong,
    #[error("an argument, a variable or a name for the program has a NUL in it")]
    Nul,
    #[error("the name of the export to call, the seed, or the program's own name has more than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error(
        "the program's stack is to have {bytes} bytes, and it may have {GUEST_STACK_BYTES_MIN} to {GUEST_STACK_BYTES_MAX}"
    )]
    Stack { bytes: u64 },
    #[error("{count} directories are shared with the program, and {SHARES_MAX} may be")]
    TooManyShares { count: usize },
    #[error("the folder {path:?} of its inputs or outputs is not an absolute path of less than {PATH_BYTES_MAX} bytes")]
    Place { path: PathBuf },
    #[error("the arguments name more than one result ({{out}}, {{out.EXT}}, {{outdir}}), and each unit has one")]
    ManyResults,
    #[error(
        "the arguments name the input or the result as files ({{}}, {{out}} or {{outdir}}), and --scratch 0 leaves no place for it"
    )]
    NoPlace,
    #[error(
        "a shared directory is /{folder} for the program, where its arguments name files of its own ({{}}, {{out}} or {{outdir}})"
    )]
    HidesFolder { folder: &'static str },
    #[error(transparent)]
    Statuses(#[from] StatusesError),
    #[error("the digest of a shared directory does not have 32 bytes")]
    Digest,
    #[error(
        "{path:?} is not a place for a shared directory: it is empty, has more than {UNIT_NAME_BYTES_MAX} bytes, or has `..` or `::` in it"
    )]
    GuestPath { path: String },
    #[error("the shared directories {one} and {other} are the same for the program, or one is inside the other")]
    Overlap { one: String, other: String },
}

impl GuestSettings {
    /// The settings in a peer's message.
    ///
    /// # Errors
    ///
    /// When they are not valid, or are larger than they may be.
    pub fn from_wire(settings: Option<wire::GuestSettings>) -> Result<GuestSettings, GuestError> {
        let settings = settings.unwrap_or_default();
        let wire::GuestSettings { args, env, call, fresh, deterministic, seed, shares, places, .. } = settings;
        let wire::GuestSettings { result_bytes_max, stack_bytes, argv0, traps_unknown_imports, .. } = settings;
        let wire::GuestSettings { literal_args, ok_statuses, scratch_bytes, .. } = settings;
        if shares.len() > SHARES_MAX {
            return Err(GuestError::TooManyShares { count: shares.len() });
        }
        let share = |share: wire::Share| {
            let digest = Digest::from_wire(&share.digest).ok_or(GuestError::Digest)?;
            Ok::<_, GuestError>(Share { digest, guest_path: tidy_guest_path(&share.guest_path)? })
        };
        let shares = shares.into_iter().map(share).collect::<Result<_, _>>()?;
        let fresh = fresh || deterministic;
        let places = Places::from_wire(places.unwrap_or_default());
        let ok_statuses = if ok_statuses.is_empty() { Statuses::default() } else { ok_statuses.parse()? };
        let settings = GuestSettings {
            args,
            env,
            call,
            fresh,
            deterministic,
            seed,
            shares,
            places,
            result_bytes_max: (result_bytes_max > 0).then_some(result_bytes_max),
            stack_bytes: (stack_bytes > 0).then_some(stack_bytes),
            argv0,
            traps_unknown_imports,
            literal_args,
            ok_statuses,
            scratch_bytes,
        };
        settings.check()?;
        Ok(settings)
    }

    /// The settings as a message has them.
    pub fn to_wire(&self) -> wire::GuestSettings {
        let settings = self.clone();
        let is_usual = settings.ok_statuses == Statuses::default();
        let ok_statuses = if is_usual { String::new() } else { settings.ok_statuses.to_string() };
        let share = |share: Share| wire::Share { digest: share.digest.to_wire(), guest_path: share.guest_path };
        wire::GuestSettings {
            args: settings.args,
            env: settings.env,
            call: settings.call,
            fresh: settings.fresh,
            deterministic: settings.deterministic,
            seed: settings.seed,
            shares: settings.shares.into_iter().map(share).collect(),
            places: settings.places.to_wire(),
            result_bytes_max: settings.result_bytes_max.unwrap_or(0),
            stack_bytes: settings.stack_bytes.unwrap_or(0),
            argv0: settings.argv0,
            traps_unknown_imports: settings.traps_unknown_imports,
            literal_args: settings.literal_args,
            ok_statuses,
            scratch_bytes: settings.scratch_bytes,
        }
    }

    /// The arguments, with the placeholders in them.
    pub fn arguments(&self) -> Arguments {
        if self.literal_args { Arguments::literal(&self.args) } else { Arguments::parse(&self.args) }
    }

    /// Whether a peasant can be started with these settings.
    ///
    /// # Errors
    ///
    /// When it cannot, or they are larger than they may be.
    pub fn check(&self) -> Result<(), GuestError> {
        let args_bytes: usize = self.args.iter().map(|arg| arg.len() + 1).sum();
        if args_bytes > GUEST_ARGS_BYTES_MAX {
            return Err(GuestError::ArgsTooLong);
        }
        self.env.iter().try_for_each(|variable| check_variable(variable))?;
        let env_bytes: usize = self.env.iter().map(|variable| "--env=".len() + variable.len() + 1).sum();
        if env_bytes > GUEST_ENV_BYTES_MAX {
            return Err(GuestError::EnvTooLong);
        }
        let names = [&self.call, &self.seed, &self.argv0];
        if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(GuestError::NameTooLong);
        }
        if let Some(bytes) = self.stack_bytes
            && !(GUEST_STACK_BYTES_MIN..=GUEST_STACK_BYTES_MAX).contains(&bytes)
        {
            return Err(GuestError::Stack { bytes });
        }
        let mut texts = self.args.iter().chain(&self.env).chain(names);
        if texts.any(|text| text.contains('\0')) {
            return Err(GuestError::Nul);
        }
        if self.shares.len() > SHARES_MAX {
            return Err(GuestError::TooManyShares { count: self.shares.len() });
        }
        self.check_arguments()?;
        self.places.check()?;
        check_places(self.shares.iter().map(|share| share.guest_path.as_str()))
    }
}

impl GuestSettings {
    /// Whether the files that the arguments name have a place.
    fn check_arguments(&self) -> Result<(), GuestError> {
        let arguments = self.arguments();
        if !arguments.agree_on_output() {
            return Err(GuestError::ManyResults);
        }
        let named = [(arguments.name_input(), INPUT_FOLDER), (arguments.name_output(), OUTPUT_FOLDER)];
        for (_, folder) in named.into_iter().filter(|(is_named, _)| *is_named) {
            if self.scratch_bytes == Some(0) {
                return Err(GuestError::NoPlace);
            }
            if self.shares.iter().any(|share| parts(&share.guest_path).next() == Some(folder)) {
                return Err(GuestError::HidesFolder { folder });
            }
        }
        Ok(())
    }
}

impl Places {
    fn from_wire(places: wire::Places) -> Places {
        let path = |path: Bytes| (!path.is_empty()).then(|| PathBuf::from(OsString::from_vec(path.to_vec())));
        Places { input: path(places.input), output: path(places.output), probe: path(places.probe) }
    }

    fn to_wire(&self) -> Option<wire::Places> {
        let path = |path: &Option<PathBuf>| {
            path.as_ref().map(|path| Bytes::copy_from_slice(path.as_os_str().as_bytes())).unwrap_or_default()
        };
        let places = wire::Places { input: path(&self.input), output: path(&self.output), probe: path(&self.probe) };
        (*self != Places::default()).then_some(places)
    }

    fn check(&self) -> Result<(), GuestError> {
        let is_bad = |path: &Path| {
            let bytes = path.as_os_str().as_bytes();
            !path.is_absolute() || bytes.len() >= PATH_BYTES_MAX || bytes.contains(&0)
        };
        let is_name =
            |probe: &&PathBuf| probe.file_name() == Some(probe.as_os_str()) && !is_bad(&Path::new("/").join(probe));
        let bad_paths = self.input.iter().chain(&self.output).filter(|path| is_bad(path));
        let bad_names = self.probe.iter().filter(|probe| !is_name(probe));
        match bad_paths.chain(bad_names).next() {
            Some(path) => Err(GuestError::Place { path: path.clone() }),
            None => Ok(()),
        }
    }
}

fn check_variable(variable: &str) -> Result<(), GuestError> {
    match variable.split_once('=') {
        None | Some(("", _)) => Err(GuestError::NoVariable { variable: variable.to_owned() }),
        Some((key, _)) if key.starts_with(OWN_VARIABLES) => Err(GuestError::OwnVariable { key: key.to_owned() }),
        Some(_) => Ok(()),
    }
}

/// The path at which a guest finds a directory: without `.`, and without `/` at the end or twice.
///
/// # Errors
///
/// When it leads out of the directories that a guest can see, or cannot be passed to a peasant.
pub fn tidy_guest_path(path: &str) -> Result<String, GuestError> {
    let refused = path.is_empty()
        || path.len() > UNIT_NAME_BYTES_MAX
        || path.contains('\0')
        // The separator between host and guest in a peasant's arguments.
        || path.contains("::")
        || path.starts_with(':')
        || path.split('/').any(|part| part == "..");
    if refused {
        return Err(GuestError::GuestPath { path: path.to_owned() });
    }
    let inside = parts(path).collect::<Vec<_>>().join("/");
    Ok(match (path.starts_with('/'), inside.as_str()) {
        (true, inside) => format!("/{inside}"),
        (false, "") => ".".to_owned(),
        (false, _) => inside,
    })
}

/// Refuses places that are the same or inside each other. A guest does not tell `/data` from `data`.
///
/// # Errors
///
/// When two of them overlap.
pub fn check_places<'a>(places: impl Iterator<Item = &'a str>) -> Result<(), GuestError> {
    let mut sorted: Vec<(Vec<&str>, &str)> = places.map(|place| (parts(place).collect(), place)).collect();
    sorted.sort();
    // A place inside another comes right after it.
    for pair in sorted.windows(2) {
        if let [(outer, one), (inner, other)] = pair
            && inner.starts_with(outer)
        {
            return Err(GuestError::Overlap { one: (*one).to_owned(), other: (*other).to_owned() });
        }
    }
    Ok(())
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_env(env: &[&str]) -> GuestSettings {
        GuestSettings { env: env.iter().map(|variable| (*variable).to_owned()).collect(), ..GuestSettings::default() }
    }

    #[test]
    fn settings_come_back_as_they_were() {
        let shares = vec![Share { digest: Digest::of([b"a".as_slice()]), guest_path: "/data".to_owned() }];
        let settings = GuestSettings {
            args: vec!["-x".to_owned(), String::new()],
            call: "f".to_owned(),
            fresh: true,
            deterministic: true,
            seed: "project".to_owned(),
            shares,
            places: Places { input: Some("/in".into()), output: None, probe: Some("x".into()) },
            result_bytes_max: Some(7),
            literal_args: true,
            ok_statuses: "0,10-20".parse().unwrap(),
            scratch_bytes: Some(0),
            stack_bytes: Some(8 << 20),
            argv0: "jq.wasm".to_owned(),
            traps_unknown_imports: true,
            ..with_env(&["A=1", "B=", "C=a=b"])
        };
        assert_eq!(GuestSettings::from_wire(Some(settings.to_wire())), Ok(settings));
        assert_eq!(GuestSettings::from_wire(None), Ok(GuestSettings::default()));
    }

    #[test]
    fn files_that_the_arguments_name_have_a_place() {
        let told = |arg: &str, scratch_bytes, guest_path: &str| {
            let shares = vec![Share { digest: Digest::of([b"a".as_slice()]), guest_path: guest_path.to_owned() }];
            let args = vec![arg.to_owned()];
            GuestSettings { args, scratch_bytes, shares, ..GuestSettings::default() }.check()
        };
        assert_eq!(told("{}", None, "/data"), Ok(()));
        assert_eq!(told("{name}", Some(0), "/in"), Ok(()));
        assert_eq!(told("{}", Some(0), "/data"), Err(GuestError::NoPlace));
        assert_eq!(told("{}", None, "/in/more"), Err(GuestError::HidesFolder { folder: "in" }));
        assert_eq!(told("{out}", None, "out"), Err(GuestError::HidesFolder { folder: "out" }));
        assert_eq!(told("{out}", None, "/in"), Ok(()));
    }

    #[test]
    fn deterministic_guests_are_fresh() {
        let settings = wire::GuestSettings { deterministic: true, ..wire::GuestSettings::default() };
        assert!(GuestSettings::from_wire(Some(settings)).unwrap().fresh);
    }

    #[test]
    fn variables_that_cannot_be_are_refused() {
        let told = |variable: &str| with_env(&["A=1", variable]).check().unwrap_err().to_string();
        assert_eq!(told("A"), "the variable \"A\" for the program is not KEY=VALUE");
        assert_eq!(told("=a"), "the variable \"=a\" for the program is not KEY=VALUE");
        assert!(told("DISTWASM_UNIT=1").starts_with("the variable DISTWASM_UNIT cannot be chosen"));
        assert_eq!(told("A=\0"), GuestError::Nul.to_string());
        // As one argument of a process, with `--env=` before it, it is just as long as it may be.
        let longest = format!("A={}", "x".repeat(GUEST_ENV_BYTES_MAX - "--env=A=".len() - 1));
        assert_eq!(with_env(&[&longest]).check(), Ok(()));
        assert_eq!(with_env(&[&longest, "B=1"]).check(), Err(GuestError::EnvTooLong));
    }

    #[test]
    fn arguments_and_names_have_their_bounds() {
        let args = |arg: String| GuestSettings { args: vec![arg], ..GuestSettings::default() }.check();
        assert_eq!(args("x".repeat(GUEST_ARGS_BYTES_MAX - 1)), Ok(()));
        assert_eq!(args("x".repeat(GUEST_ARGS_BYTES_MAX)), Err(GuestError::ArgsTooLong));
        assert_eq!(args("a\0".to_owned()), Err(GuestError::Nul));
        let call = "f".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(GuestSettings { call, ..GuestSettings::default() }.check(), Err(GuestError::NameTooLong));
        let argv0 = "p".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(GuestSettings { argv0, ..GuestSettings::default() }.check(), Err(GuestError::NameTooLong));
        for bytes in [1, GUEST_STACK_BYTES_MIN - 1, GUEST_STACK_BYTES_MAX + 1, u64::MAX] {
            let wire = wire::GuestSettings { stack_bytes: bytes, ..wire::GuestSettings::default() };
            assert_eq!(GuestSettings::from_wire(Some(wire)), Err(GuestError::Stack { bytes }));
        }
    }

    #[test]
    fn folders_of_a_job_are_absolute_paths_that_a_system_may_have() {
        let told = |path: &str| {
            let places = Places { output: Some(path.into()), ..Places::default() };
            GuestSettings { places, ..GuestSettings::default() }.check()
        };
        for probe in ["/x", "x/y", "..", "", "x\0"] {
            let places = Places { probe: Some(probe.into()), ..Places::default() };
            assert!(GuestSettings { places, ..GuestSettings::default() }.check().is_err(), "{probe:?}");
        }
        assert_eq!(told("/a b/\u{1b}"), Ok(()));
        for path in ["a", "../a", "/a\0", &format!("/{}", "a".repeat(PATH_BYTES_MAX - 1))] {
            assert_eq!(told(path), Err(GuestError::Place { path: path.into() }), "{path:?}");
        }
    }

    #[test]
    fn places_of_shares_are_tidy_and_apart() {
        let tidy = |path| tidy_guest_path(path).ok();
        assert_eq!(tidy("/a//b/./c/").as_deref(), Some("/a/b/c"));
        assert_eq!(tidy("./a/").as_deref(), Some("a"));
        assert_eq!((tidy("/").as_deref(), tidy(".").as_deref()), (Some("/"), Some(".")));
        let refused = ["", "a/..", "../a", "a::b", "a\0", &"a".repeat(UNIT_NAME_BYTES_MAX + 1)];
        assert!(refused.into_iter().all(|path| tidy_guest_path(path).is_err()));
        let apart = |places: &[&str]| check_places(places.iter().copied()).is_ok();
        assert!(apart(&["/a", "/b", "ab", "a-b"]));
        for places in [["/a", "a"], ["/a/b", "/a"], ["/", "/a"], [".", "x"], ["a/b", "/a/b/c"]] {
            assert!(!apart(&places), "{places:?}");
        }
        assert!(!apart(&["/a", "/a-b", "a/c"]), "what is between two names in their order does not hide them");
    }
}
