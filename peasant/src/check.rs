//! Reports what a program is and whether it would run, by doing all that a duke and a peasant would do with it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{self, Display, Write as _};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use distwasm_proto::{
    exit::Exit,
    failure::Failure,
    ids::UnitNo,
    limits::{ANSWER_SHOWN_BYTES, COMPILING_SHOWN_EVERY, ENTRIES_SHOWN, UNIT_BYTES_MAX},
    pipe::{Description, HEADER_BYTES},
    text,
    walls::Wall,
};
use wasmtime::ExternType;

use crate::abi::{self, Unit};
use crate::guest::Grants;
use crate::options::CompileLimits;
use crate::program::{ComponentEntry, ModuleEntry, Program, Unfit};
use crate::sandbox::Weak;
use crate::stdio::Input;
use crate::verdict::size;
use crate::{CompileError, enter_to_compile, read_program, sandbox};

/// Why a program failed its check, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The program cannot run.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It runs, and failed on the input.
    #[error("{0}")]
    Failed(Failed),
    /// The machine is to blame.
    #[error(transparent)]
    Machine(#[from] io::Error),
    /// A wall that was wanted does not hold, so the program was not read.
    #[error(transparent)]
    Jail(#[from] Weak),
}

impl From<CompileError> for CheckError {
    fn from(error: CompileError) -> CheckError {
        match error {
            CompileError::Unfit(why) => CheckError::Unfit(why),
            CompileError::Machine(error) => CheckError::Machine(error),
            CompileError::Jail(weak) => CheckError::Jail(weak),
        }
    }
}

/// A failure, as it is shown to people.
#[derive(Debug)]
pub struct Failed(Failure);

impl Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", text::lines(&self.0.message), self.0.kind.name())?;
        if self.0.stderr.is_empty() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&self.0.stderr);
        f.write_str("\nit wrote to stderr:")?;
        stderr.trim_end().lines().try_for_each(|line| write!(f, "\n{}", text::line(line)))
    }
}

/// An input that the program is to answer.
#[derive(Debug)]
pub struct CheckedInput {
    /// Its file.
    pub path: PathBuf,
    /// Its name for the guest, if it is not that of the file.
    pub name: Option<String>,
}

/// Checks the program on stdin, and reports on stdout. `name` is the program's name in messages, `input` an input to
/// answer. Ends the process if initialising the program, or answering, takes longer than `within`.
pub fn check(
    name: &str,
    input: Option<CheckedInput>,
    within: Duration,
    mut grants: Grants,
    required: &[Wall],
) -> Result<(), CheckError> {
    let input = input.map(|input| Ok::<_, io::Error>((read_input(&input.path)?, input.description()))).transpose()?;
    grants
        .claim_stack()
        .and_then(|()| grants.open_dirs())
        .map_err(|failure| Unfit(format!("cannot be initialised: {}", failure.message)))?;
    grants.make_files().map_err(|failure| Unfit(failure.message))?;
    let mut jail = enter_to_compile(&grants.open_folders(), CompileLimits::default())?;
    // Started before the jail is locked, which allows no threads afterwards.
    let watch = Watch::start(within, name.to_owned());
    jail.lock(grants.needs(), required)?;
    let mut report = io::stdout().lock();

    let began = now();
    let program = Program::compile(&read_program()?, &grants)?.ready(&grants)?;
    writeln!(report, "{}: {}", text::line(name), describe(&program, &grants))?;
    writeln!(report, "  compiled  in {}", Millis(began.elapsed()))?;
    report.flush()?;

    program.make_image()?;
    let runtime = abi::runtime(&program)?;
    match grants.needs().writes_files {
        true => sandbox::survive_file_limit(),
        false => sandbox::limit_files()?,
    }
    watch.begin("be initialised", Exit::CouldNotRun);
    let is_folder = grants.args.name_output_folder();
    let began = now();
    let started = abi::start(program, grants, runtime);
    let mut guest = started.map_err(|failure| Unfit(format!("cannot be initialised: {}", Failed(failure))))?;
    writeln!(report, "  ready     in {}", Millis(began.elapsed()))?;
    report.flush()?;

    let Some((input, description)) = input else { return Ok(()) };
    watch.begin("answer", Exit::SomeFailed);
    let input_bytes = input.len();
    let unit = Unit { input: Input::Bytes(input), output: None, description: Some(description) };
    let began = now();
    let answer = guest.answer(unit).map_err(|failure| CheckError::Failed(Failed(failure)))?;
    let (took, bytes) = (Millis(began.elapsed()), answer.len());
    writeln!(report, "  answered  {input_bytes} bytes with {bytes} bytes in {took}:")?;
    match is_folder {
        true => report.write_all(listed(answer)?.as_bytes())?,
        false => report.write_all(&shown(answer))?,
    }
    Ok(report.flush()?)
}

/// The files and folders in an answer that is an archive of them, one a line.
fn listed(archive: &[u8]) -> io::Result<String> {
    let mut lines = String::new();
    for (count, entry) in tar::Archive::new(archive).entries()?.enumerate() {
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if count >= ENTRIES_SHOWN {
            lines += "[... and more]\n";
            break;
        }
        let ending =
            if entry.header().entry_type().is_dir() { "/".to_owned() } else { format!(": {} bytes", entry.size()) };
        lines += &format!("{}{ending}\n", text::line(&path));
    }
    Ok(lines)
}

fn read_input(path: &Path) -> io::Result<Bytes> {
    let why = |error: io::Error| io::Error::new(error.kind(), format!("the input {}: {error}", path.display()));
    let mut input = Vec::new();
    File::open(path).map_err(why)?.take(UNIT_BYTES_MAX).read_to_end(&mut input).map_err(why)?;
    Ok(input.into())
}

impl CheckedInput {
    /// The description of the first attempt of the first unit, named like the input.
    fn description(&self) -> Bytes {
        let of_file = || self.path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
        let name = self.name.as_deref().map_or_else(of_file, str::as_bytes);
        let mut frame = Vec::new();
        Description { unit: UnitNo(0), attempt: 1, name }.append(|part| frame.extend_from_slice(part));
        Bytes::from(frame).split_off(HEADER_BYTES)
    }
}

/// Describes the program: its kind, exports, imports and memory.
fn describe(program: &Program, grants: &Grants) -> String {
    let mut text = String::new();
    let (kind, exports, imports, memory) = match program {
        Program::Module(program) => {
            let module = program.linked.module();
            let kind = match &program.entry {
                ModuleEntry::ProcessStdio if grants.fresh => "ProcessStdio, a fresh instance for each unit".to_owned(),
                ModuleEntry::ProcessStdio => "ProcessStdio, one instance for many units".to_owned(),
                ModuleEntry::Command => "Command, a fresh instance for each unit".to_owned(),
                ModuleEntry::Call(name) => format!("Call of `{name}`, a fresh instance for each unit"),
            };
            let exports: Vec<_> = module.exports().map(|export| export.name().to_owned()).collect();
            let imports = by_module(module.imports().map(|import| (import.module(), import.name())));
            let memories = module.exports().filter_map(|export| match export.ty() {
                ExternType::Memory(memory) => {
                    Some(memory.maximum().map(|pages| pages.saturating_mul(memory.page_size())))
                }
                _ => None,
            });
            let most = memories.flatten().max();
            (kind, exports, imports, (module.resources_required().max_initial_memory_size, most))
        }
        Program::Component(program) => {
            let component = program.linked.component();
            let kind = match &program.entry {
                ComponentEntry::Command(_) => "Component, a command of WASI 0.2".to_owned(),
                ComponentEntry::Program(_) => "Component, of the world distwasm:guest/program".to_owned(),
                ComponentEntry::Call(_) => {
                    format!("Component, Call of `{}`", grants.call.as_deref().unwrap_or_default())
                }
            };
            let engine = component.engine();
            let kinds = component.component_type();
            let exports: Vec<_> = kinds.exports(engine).map(|(name, _)| name.to_owned()).collect();
            let imports: Vec<_> = kinds.imports(engine).map(|(name, _)| name.to_owned()).collect();
            let initial = component.resources_required().and_then(|needs| needs.max_initial_memory_size);
            (kind, exports, imports, (initial, None))
        }
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{kind}");
    let _ = writeln!(text, "  exports   {}", names(&exports));
    let all_there = if imports.is_empty() { "" } else { " (all there)" };
    let _ = writeln!(text, "  imports   {}{all_there}", names(&imports));
    text + &format!("  memory    {}", memory_line(memory, grants.memory_bytes_max))
}

/// One text for each module, with its imports.
fn by_module<'a>(imports: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let mut modules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (module, name) in imports {
        modules.entry(module).or_default().push(name);
    }
    modules.into_iter().map(|(module, names)| format!("{module}: {}", names.join(", "))).collect()
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { text::line(&names.join(", ")).into_owned() }
}

/// `initial` in pages of 64 KiB, `most` in bytes.
fn memory_line((initial, most): (Option<u64>, Option<u64>), bound: usize) -> String {
    const PAGE_BYTES: u64 = 64 << 10;
    let bytes = |bytes: u64| size(usize::try_from(bytes).unwrap_or(usize::MAX));
    let Some(initial) = initial.map(|pages| bytes(pages.saturating_mul(PAGE_BYTES))) else {
        return "none".to_owned();
    };
    let grows = match most {
        Some(most) if most < bound as u64 => format!("may grow to {}, which the program itself says", bytes(most)),
        _ => format!("may grow to {}, which is what it is given", size(bound)),
    };
    format!("{initial} at the start; {grows}")
}

/// The beginning of an answer, as it is shown: as text, or with escapes for other bytes.
fn shown(answer: &[u8]) -> Vec<u8> {
    let (beginning, rest) = answer.split_at(answer.len().min(ANSWER_SHOWN_BYTES));
    let is_text = std::str::from_utf8(beginning).is_ok_and(|text| {
        text.chars().all(|character| !character.is_control() || matches!(character, '\n' | '\t' | '\r'))
    });
    let mut shown = if is_text { beginning.to_vec() } else { beginning.escape_ascii().to_string().into_bytes() };
    if !shown.ends_with(b"\n") {
        shown.push(b'\n');
    }
    if !rest.is_empty() {
        shown.extend_from_slice(format!("[... {} more bytes ...]\n", rest.len()).as_bytes());
    }
    shown
}

/// Says how long the program has been compiled, and ends the process if the guest takes too long: nothing else could
/// end it.
struct Watch(SyncSender<(&'static str, Exit)>);

impl Watch {
    fn start(within: Duration, name: String) -> Watch {
        let (begin, begun) = sync_channel::<(&'static str, Exit)>(1);
        std::thread::spawn(move || {
            let began = now();
            let mut stage = loop {
                match begun.recv_timeout(COMPILING_SHOWN_EVERY) {
                    Ok(stage) => break stage,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        let seconds = began.elapsed().as_secs();
                        let _ = writeln!(io::stderr(), "{}: compiling: {seconds} s", text::line(&name));
                    }
                }
            };
            loop {
                match begun.recv_timeout(within) {
                    Ok(next) => stage = next,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
            let (what, exit) = stage;
            // stderr may be closed; there is no other place to report to.
            let _ = writeln!(io::stderr(), "{}: did not {what} within {within:?} (--timeout)", text::line(&name));
            #[allow(
                clippy::exit,
                clippy::disallowed_methods,
                reason = "the thread that runs the guest cannot be made to return"
            )]
            std::process::exit(exit.status().into());
        });
        Watch(begin)
    }

    fn begin(&self, what: &'static str, exit: Exit) {
        // The thread receives as long as this lives.
        let _ = self.0.send((what, exit));
    }
}

/// A duration, shown for people.
struct Millis(Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1000.0;
        if millis < 10.0 { write!(f, "{millis:.3} ms") } else { write!(f, "{millis:.0} ms") }
    }
}

#[allow(clippy::disallowed_methods, reason = "times are shown; nothing is decided by them")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_as_text_if_it_is_text() {
        assert_eq!(shown("grün\n".as_bytes()), "grün\n".as_bytes());
        assert_eq!(shown(b"\x1b[2J\xff"), b"\\x1b[2J\\xff\n");
        let long = shown(&[b'a'; ANSWER_SHOWN_BYTES + 5]);
        assert!(long.ends_with(b"a\n[... 5 more bytes ...]\n"));
    }
}
