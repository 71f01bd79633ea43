//! `queen check`: describes a program, and tells whether it would run. A peasant checks; the queen supervises it.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{fd::RawFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use clap::Args;
use distwasm_duke::{
    cache::is_compiled,
    jail::RequiredJail,
    options::{cache_folder, find_peasant},
    peasant::{guest_flags, guest_words},
};
use distwasm_jobs::inputs::{
    InputRules, Names, STDIN,
    survey::{Survey, SurveyError},
};
use distwasm_process::{
    flags,
    guest_flags::GuestFlags,
    handed::{self, Arguments, Handed},
    stderr,
};
use distwasm_proto::{
    digest::Digest,
    exit::Exit,
    limits::{CHECK_WITHIN, COMPILE_WITHIN, UNIT_BYTES_MAX},
    walls,
};
use distwasm_transport::payload::Payload;
use thiserror::Error;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
};
use tokio_util::sync::CancellationToken;

use crate::{
    guest_options::{self, GuestOptionsError},
    input_place::{self, InputError, InputPlace},
    program::{ProgramError, project_of, read_program},
    report::harmless_path,
    selection_options::{SelectionError, SelectionOptions},
};

/// Describes a program, and tells whether it would run on this machine.
///
/// Takes the steps that a job takes before its first unit, and with --input also those for one unit. Nothing is kept.
///
/// Exit status: 0 it would run, 1 it failed on the input, 2 it would not run, 130 interrupted.
#[derive(Args, Debug)]
pub struct CheckOptions {
    /// The program: a WebAssembly module or component, binary or text
    #[arg(value_name = "PROGRAM")]
    pub program: PathBuf,

    /// Run the program on this input, and show its answer; `-` is stdin. Of a folder, the first input is taken that the
    /// flags below leave
    #[arg(short, long, value_name = "FILE|DIR|-")]
    pub input: Option<PathBuf>,

    /// Which input of a folder is taken.
    #[command(flatten)]
    pub selection: SelectionOptions,

    /// The settings of the guest program
    #[command(flatten)]
    pub guest: GuestFlags,

    /// Memory that the program may take, such as 512MB or 8G; a plain number is MB (1 MB = 1,048,576 bytes)
    /// [default: 1024]
    #[arg(long, value_name = "SIZE", default_value_t = 0, hide_default_value = true, env = "DISTWASM_MIN_RAM", value_parser = flags::megabytes)]
    pub min_ram: u64,

    /// How long the program may take to initialise, and then to answer, such as 30s or 5min [default: 10s]
    #[arg(long, value_name = "DURATION", env = "DISTWASM_TIMEOUT", value_parser = flags::positive_duration)]
    pub timeout: Option<Duration>,

    /// The peasant program [default: `peasant` beside this program, else in PATH]
    #[arg(long, value_name = "PATH", env = "DISTWASM_PEASANT")]
    pub peasant: Option<PathBuf>,

    /// Folder for compiled programs, in which it is looked whether a job would have to compile the program
    /// [default: distwasm in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "DISTWASM_CACHE")]
    pub cache: Option<PathBuf>,

    /// Refuse to check unless the jail of peasants has these walls; `peasant jail` tells which hold here
    #[arg(long, value_name = "WALLS", value_enum, default_value_t, env = "DISTWASM_REQUIRE_JAIL")]
    pub require_jail: RequiredJail,
}

/// Why a check could not run, or not to its end.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CheckError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Guest(#[from] GuestOptionsError),
    #[error(transparent)]
    Inputs(#[from] InputError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error(transparent)]
    Survey(#[from] SurveyError),
    #[error("there is no input in {}, or none that the flags leave", .path.display())]
    NoInput { path: PathBuf },
    #[error("failed to read the input {} (--input names another)", .path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("the input {} is not a regular file", .path.display())]
    InputNoFile { path: PathBuf },
    #[error("the input {} has {bytes} bytes, and an input may have {UNIT_BYTES_MAX}", .path.display())]
    InputTooLarge { path: PathBuf, bytes: u64 },
    #[error("failed to start the peasant program {} (--peasant names another)", .path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("failed to wait for the peasant; run the check again")]
    Wait(#[source] io::Error),
    #[error("the check did not end within {} and was ended; --timeout gives it more time", humantime::format_duration(*.within))]
    TooLong { within: Duration },
    #[error("the peasant was killed by signal {signal}; if memory ran out here, --min-ram with less may help")]
    Killed { signal: i32 },
    #[error("the peasant ended with status {status}, which says nothing of the program (--peasant names another)")]
    Status { status: i32 },
}

/// Checks a program; the peasant prints its findings.
///
/// Call it from a thread that lives as long as the check: on Linux the peasant dies with the thread that started it.
///
/// # Errors
///
/// When the check cannot run, or not to its end.
pub async fn check(options: &CheckOptions, interrupted: &CancellationToken) -> Result<Exit, CheckError> {
    let program = read_program(&options.program)?;
    let exit = check_within(options, &program, Findings::Shown, options.patience(), interrupted).await?;
    if matches!(exit, Exit::Done | Exit::SomeFailed) {
        say_whether_known(options, &program).await;
    }
    Ok(exit)
}

/// Finds out whether a program would run. The peasant says on stderr why it would not, in the words of a check.
///
/// Call it as [`check`].
///
/// # Errors
///
/// When the check cannot run, or not to its end.
pub async fn would_run(
    options: &CheckOptions,
    program: &Payload,
    interrupted: &CancellationToken,
) -> Result<Exit, CheckError> {
    check_within(options, program, Findings::Unsaid, options.patience(), interrupted).await
}

/// What becomes of what a peasant finds out about a program that would run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Findings {
    Shown,
    Unsaid,
}

async fn check_within(
    options: &CheckOptions,
    program: &Payload,
    findings: Findings,
    within: Duration,
    interrupted: &CancellationToken,
) -> Result<Exit, CheckError> {
    let input =
        options.input.as_deref().map(|input| tokio::task::block_in_place(|| choose(options, input, interrupted)));
    let input = match input.transpose() {
        Err(CheckError::Survey(SurveyError::Interrupted)) => return Ok(Exit::Interrupted),
        input => input?,
    };
    let args = options.peasant_args(input.as_ref())?;
    // A job without a king uses this peasant, too.
    let peasant = options.peasant.clone().unwrap_or_else(find_peasant);
    let mut command = Command::new(&peasant);
    let cannot_start = |source| CheckError::Start { path: peasant.clone(), source };
    let (args, handed) = args.split().map_err(cannot_start)?;
    command.args(args).env_clear().stdin(Stdio::piped()).kill_on_drop(true);
    if findings == Findings::Unsaid {
        command.stdout(Stdio::null());
    }
    end_with_this_thread(&mut command, handed.as_ref().map(Handed::descriptor));
    let mut child = command.spawn().map_err(cannot_start)?;
    let stdin = child.stdin.take();
    let ended = tokio::select! {
        status = feed_and_wait(&mut child, stdin, program) => Some(status.map_err(CheckError::Wait)?),
        () = interrupted.cancelled() => None,
        () = tokio::time::sleep(within) => {
            child.kill().await.map_err(CheckError::Wait)?;
            return Err(CheckError::TooLong { within });
        }
    };
    match ended {
        Some(status) => exit_of(status, options.input.is_some()),
        None => {
            child.kill().await.map_err(CheckError::Wait)?;
            Ok(Exit::Interrupted)
        }
    }
}

/// Says whether a job on this machine would have to compile the program.
async fn say_whether_known(options: &CheckOptions, program: &Payload) {
    let peasant = &options.peasant.clone().unwrap_or_else(find_peasant);
    let digest = Digest::of(program.chunks().map(AsRef::as_ref));
    let folder = options.cache.clone().unwrap_or_else(cache_folder);
    // A peasant that does not tell its engine has just compiled the program; there is nothing else to say.
    match is_compiled(&folder, peasant, digest, options.guest.calling.deterministic).await {
        Some(true) => stderr::say("it is compiled already: a job on this machine begins at once"),
        Some(false) => stderr::say("it is not compiled yet: the first job on this machine compiles it, and keeps it"),
        None => {}
    }
}

async fn feed_and_wait(child: &mut Child, stdin: Option<ChildStdin>, program: &Payload) -> io::Result<ExitStatus> {
    let feed = async {
        let Some(mut stdin) = stdin else { return };
        for chunk in program.chunks() {
            // A peasant that ends before it has read everything has printed the reason.
            if stdin.write_all(chunk).await.is_err() {
                return;
            }
        }
    };
    let ((), status) = tokio::join!(feed, child.wait());
    status
}

fn exit_of(status: ExitStatus, had_input: bool) -> Result<Exit, CheckError> {
    match status.code() {
        Some(0) => Ok(Exit::Done),
        Some(1) if had_input => Ok(Exit::SomeFailed),
        // Without an input nothing can fail on one: the machine is to blame, and the peasant has printed the reason.
        Some(1 | 2) => Ok(Exit::CouldNotRun),
        Some(status) => Err(CheckError::Status { status }),
        None => Err(CheckError::Killed { signal: status.signal().unwrap_or_default() }),
    }
}

impl CheckOptions {
    /// How long the whole check may take.
    fn patience(&self) -> Duration {
        let timeout = self.timeout.unwrap_or(CHECK_WITHIN);
        COMPILE_WITHIN.saturating_add(timeout.saturating_mul(2))
    }

    /// The arguments of the peasant.
    fn peasant_args(&self, input: Option<&Chosen>) -> Result<Arguments, CheckError> {
        // The archives are not used: packing them shows whether it works.
        let (mut guest, _archives) = guest_options::prepare(&self.guest, &project_of(&self.program))?;
        guest_options::name_like(&self.program, &mut guest);
        let flag = |name: &str, value: &OsStr| {
            let mut flag = OsString::from(name);
            flag.push("=");
            flag.push(value);
            flag
        };
        // A name that is not UTF-8 is shown with replacement characters.
        let mut args = vec!["check".into(), flag("--name", self.program.to_string_lossy().as_ref().as_ref())];
        if let Some(input) = input {
            check_input(&input.path)?;
            args.push(flag("--input", input.path.as_os_str()));
            if matches!(input.place.names, Names::Stdin(_)) {
                args.push(flag("--input-name", STDIN.as_ref()));
            }
        }
        let timeout_ms = self.timeout.unwrap_or(CHECK_WITHIN).as_millis();
        let timeout_ms = u64::try_from(timeout_ms).unwrap_or(u64::MAX).max(1);
        args.push(flag("--within-ms", timeout_ms.to_string().as_ref()));
        if self.min_ram > 0 {
            args.push(flag("--memory-bytes", self.min_ram.saturating_mul(1 << 20).to_string().as_ref()));
        }
        args.extend(guest_flags(&guest));
        if guest.deterministic {
            args.push(flag("--seed", guest.seed.as_ref()));
        }
        args.push("--job=1".into());
        let required = self.require_jail.walls();
        if !required.is_empty() {
            args.push(flag("--walls", walls::names(required).as_ref()));
        }
        for ((host, _), share) in
            self.guest.directories().map_err(GuestOptionsError::from)?.into_iter().zip(&guest.shares)
        {
            let mut dir = host.into_os_string();
            dir.push("::");
            dir.push(&share.guest_path);
            args.push(flag("--dir", &dir));
        }
        Ok(Arguments { shown: args, handed: guest_words(&guest).collect() })
    }
}

/// The input of a check.
struct Chosen {
    path: PathBuf,
    /// Where it is; keeps what was read from stdin.
    place: InputPlace,
}

/// Chooses an input: the file that was named, or the first one in a folder that the flags leave.
fn choose(options: &CheckOptions, input: &Path, interrupted: &CancellationToken) -> Result<Chosen, CheckError> {
    let flags = &options.selection;
    let place = input_place::open(input, flags.input_list.as_deref(), flags.null, UNIT_BYTES_MAX)?;
    let path = match &place.names {
        Names::Stdin(path) => path.clone(),
        Names::Listed(_) if flags.input_list.is_none() => input.to_owned(),
        names => {
            let (names, follows_links) = (names.clone(), flags.follows_links(names));
            let mut rules = InputRules { names, follows_links, selection: flags.selection()?, ..InputRules::default() };
            flags.draw_sample(&place.folder, &mut rules, interrupted)?;
            let first = Survey { input: &place.folder, rules: &rules, interrupted }.first()?;
            let first = first.ok_or_else(|| CheckError::NoInput { path: input.to_owned() })?;
            stderr::say(&format!("the input is {}", harmless_path(&first)));
            place.folder.join(first)
        }
    };
    Ok(Chosen { path, place })
}

fn check_input(path: &Path) -> Result<(), CheckError> {
    let cannot_read = |source| CheckError::Input { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(cannot_read)?;
    if !metadata.is_file() {
        return Err(CheckError::InputNoFile { path: path.to_owned() });
    }
    if metadata.len() > UNIT_BYTES_MAX {
        return Err(CheckError::InputTooLarge { path: path.to_owned(), bytes: metadata.len() });
    }
    rustix::fs::access(path, rustix::fs::Access::READ_OK).map_err(|errno| cannot_read(errno.into()))
}

/// Has the kernel kill the child when the thread that starts it ends: when the queen is killed, no peasant is left.
#[cfg(target_os = "linux")]
fn end_with_this_thread(command: &mut Command, kept: Option<RawFd>) {
    let queen = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The queen may have died before the line above.
        if rustix::process::getppid() != Some(queen) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        kept.map_or(Ok(()), handed::keep_open)
    };
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(before_exec);
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_this_thread(_command: &mut Command, _kept: Option<RawFd>) {}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        check: CheckOptions,
    }

    /// Options of a check of a small program.
    fn options(args: &[&str]) -> (tempfile::TempDir, CheckOptions) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("some.wat");
        fs::write(&program, "(module)").unwrap();
        let typed = ["check", program.to_str().unwrap()].into_iter().chain(args.iter().copied());
        (folder, Line::try_parse_from(typed).unwrap().check)
    }

    /// A check by a peasant that is this script.
    async fn check_by(script: &str, interrupted: &CancellationToken, within: Duration) -> Result<Exit, CheckError> {
        let (folder, mut options) = options(&[]);
        let peasant = folder.path().join("peasant");
        fs::write(&peasant, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&peasant, fs::Permissions::from_mode(0o755)).unwrap();
        options.peasant = Some(peasant);
        loop {
            let program = read_program(&options.program)?;
            match check_within(&options, &program, Findings::Shown, within, interrupted).await {
                // Another test may have started a process while the script was open for writing.
                Err(CheckError::Start { source, .. }) if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
                checked => return checked,
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_the_peasant_is_told() {
        let long = Duration::from_secs(100);
        let told = async |script| check_by(script, &CancellationToken::new(), long).await.map_err(|e| e.to_string());
        assert_eq!(told("exit 0").await, Ok(Exit::Done));
        assert_eq!(told("exit 1").await, Ok(Exit::CouldNotRun), "there was no input to fail on");
        assert_eq!(told("exit 2").await, Ok(Exit::CouldNotRun));
        assert!(told("exit 101").await.unwrap_err().contains("ended with status 101"));
        assert!(told("kill -9 $$").await.unwrap_err().contains("killed by signal 9"));
    }

    #[tokio::test]
    async fn a_peasant_that_hangs_is_ended() {
        let checked = check_by("exec sleep 1000", &CancellationToken::new(), Duration::from_millis(50)).await;
        assert!(matches!(checked, Err(CheckError::TooLong { .. })), "{checked:?}");
    }

    #[tokio::test]
    async fn an_interrupted_check_ends() {
        let interrupted = CancellationToken::new();
        interrupted.cancel();
        let checked = check_by("exec sleep 1000", &interrupted, Duration::from_secs(100)).await;
        assert_eq!(checked.unwrap(), Exit::Interrupted);
    }

    #[test]
    fn options_of_a_check_go_to_the_peasant() {
        let (_folder, told) =
            options(&["--deterministic", "--env=A=1", "--env=A=2", "--timeout=1us", "--min-ram=2", "--", "--x"]);
        let args = told.peasant_args(None).unwrap();
        let args: Vec<&str> = args.shown.iter().chain(&args.handed).filter_map(|arg| arg.to_str()).collect();
        let after_name = [
            "--within-ms=1",
            "--memory-bytes=2097152",
            "--fresh",
            "--deterministic",
            "--seed=some",
            "--job=1",
            "--argv0=some.wat",
            "--env=A=2",
            "--",
            "--x",
        ];
        assert_eq!(args[2..], after_name);
    }

    #[test]
    fn files_and_directories_that_cannot_be_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let chosen = |path: &Path, args: &[&str]| {
            let (_folder, options) = options(args);
            choose(&options, path, &CancellationToken::new()).map(|chosen| chosen.path)
        };
        assert!(matches!(chosen(Path::new("/nowhere"), &[]), Err(CheckError::Inputs(_))));
        assert!(matches!(chosen(place.path(), &[]), Err(CheckError::NoInput { .. })));
        for name in ["a.x", "b.y", "c.y"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let found = chosen(place.path(), &["--include=*.y"]).unwrap();
        assert_eq!(found.file_name().unwrap(), "b.y");
        assert!(matches!(chosen(place.path(), &["--exclude=*"]), Err(CheckError::NoInput { .. })));
        let file = place.path().join("c.y");
        assert_eq!(chosen(&file, &["--exclude=*"]).unwrap(), file);
        let told = |dirs: &[&str]| {
            let (_folder, mut options) = options(&[]);
            options.guest.dirs = dirs.iter().map(OsString::from).collect();
            options.peasant_args(None)
        };
        for dirs in [&["/"][..], &["::/x"], &["/nowhere::/x"], &["/dev/null::/x"]] {
            assert!(matches!(told(dirs), Err(CheckError::Guest(_))), "{dirs:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let dir = |place: &str| format!("{}::{place}", folder.path().display());
        assert!(matches!(told(&[&dir("/x"), &dir("/x/y")]), Err(CheckError::Guest(_))));
        let args = told(&[&dir("/x//y/")]).unwrap().shown;
        assert!(args.contains(&format!("--dir={}", dir("/x/y")).into()), "{args:?}");
    }
}
