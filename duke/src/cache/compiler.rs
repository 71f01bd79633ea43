//! Runs a compiler: a child process with limits, which is stopped when no job waits for its program any more.

use std::{ffi::OsString, os::unix::process::ExitStatusExt, path::Path, process::ExitStatus, time::Duration};

use distwasm_process::handed::Arguments;
use distwasm_proto::{
    error_text::chain,
    failure::{Failure, FailureKind},
    limits::{
        COMPILE_ALONE_SLOTS_MAX, COMPILE_DATA_BYTES_MAX, COMPILE_DATA_BYTES_MIN, COMPILE_PATIENCE_FACTOR,
        COMPILE_RAM_DIVISOR, PEASANT_STDERR_BYTES_MAX,
    },
};
use distwasm_transport::payload::Payload;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Child,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::supplies::{MakeError, Recipe};
use crate::peasant::{Spawner, describe};

/// What compilers may take of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// How many compile at a time. As many shared directories are unpacked at a time.
    pub parallel: u32,
    /// The processor time of one.
    pub cpu: Duration,
    /// The memory of one, in bytes.
    pub data_bytes: u64,
}

impl CompileLimits {
    /// The limits of a duke with this number of slots and this memory for guests. `parallel` is what its user chose.
    pub(crate) fn of_machine(cpus: u32, ram_bytes: u64, parallel: Option<u32>, cpu: Duration) -> CompileLimits {
        let parallel = parallel.unwrap_or(if cpus <= COMPILE_ALONE_SLOTS_MAX { 1 } else { 2 }).max(1);
        let share = ram_bytes / COMPILE_RAM_DIVISOR / u64::from(parallel);
        let data_bytes = share.clamp(COMPILE_DATA_BYTES_MIN, COMPILE_DATA_BYTES_MAX);
        CompileLimits { parallel, cpu, data_bytes }
    }

    /// The processor time as a peasant takes it: whole seconds, at least one.
    fn cpu_seconds(&self) -> u64 {
        self.cpu.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.cpu_seconds()).saturating_mul(COMPILE_PATIENCE_FACTOR)
    }

    fn too_slow(&self) -> Failure {
        let seconds = self.cpu_seconds();
        unfit(format!("compiling it takes more than {seconds} s of processor time (--compile-timeout allows more)"))
    }

    fn too_large(&self) -> Failure {
        let mb = self.data_bytes >> 20;
        let more = match self.parallel {
            _ if self.data_bytes >= COMPILE_DATA_BYTES_MAX => "no compiler may have more".to_owned(),
            1 => "a larger --ram-limit allows more: half of it is for the compiler".to_owned(),
            more => {
                format!("a larger --ram-limit allows more: half of it is for {more} compilers (--compile-parallel)")
            }
        };
        unfit(format!("compiling it takes more than {mb} MB of memory; {more}"))
    }

    fn late(&self) -> MakeError {
        MakeError::Trouble(format!(
            "compiling took longer than {:?}, because this machine is busy (--compile-timeout)",
            self.patience()
        ))
    }
}

fn unfit(message: String) -> Failure {
    Failure::new(FailureKind::Program, message)
}

/// Compiles a program to a file. If it is stopped, or takes too long, the compiler has ended when this returns.
pub(super) async fn run(
    recipe: &Recipe,
    output: &Path,
    program: Payload,
    spawner: &Spawner,
    limits: CompileLimits,
    stop: &CancellationToken,
) -> Result<(), MakeError> {
    let trouble = MakeError::Trouble;
    let child = spawner.spawn(command_line(recipe, output, limits)).await;
    let mut child = child.map_err(|error| trouble(chain(&error)))?;
    let ended = timeout(limits.patience(), stop.run_until_cancelled(feed_and_listen(&mut child, program))).await;
    if !matches!(ended, Ok(Some(_))) {
        child.kill().await.map_err(|error| trouble(format!("the compiler cannot be ended: {error}")))?;
    }
    let Some(ended) = ended.map_err(|_| limits.late())? else { return Err(MakeError::Stopped) };
    let (status, said) = ended.map_err(|error| trouble(format!("the compiler cannot be waited for: {error}")))?;
    judge(status, said, limits)
}

fn command_line(recipe: &Recipe, output: &Path, limits: CompileLimits) -> Arguments {
    let mut args: Vec<OsString> = vec!["compile".into(), "--output".into(), output.into()];
    args.push(format!("--cpu-seconds={}", limits.cpu_seconds()).into());
    args.push(format!("--data-bytes={}", limits.data_bytes).into());
    if !recipe.call.is_empty() {
        args.push(format!("--call={}", recipe.call).into());
    }
    if recipe.traps_unknown_imports {
        args.push("--unknown-imports=trap".into());
    }
    if recipe.deterministic {
        args.push("--deterministic".into());
    }
    Arguments { shown: args, handed: Vec::new() }
}

/// Writes the program, and reads what the compiler says, until it ends.
async fn feed_and_listen(child: &mut Child, program: Payload) -> std::io::Result<(ExitStatus, String)> {
    let (Some(mut stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
        return Err(std::io::Error::other("it has no pipes"));
    };
    let feed = async {
        for chunk in program.chunks() {
            // A compiler that ends early says why on stderr.
            if stdin.write_all(chunk).await.is_err() {
                break;
            }
        }
        // The compiler has the program now, so it need not be held here while it is compiled.
        drop((stdin, program));
    };
    let mut said = Vec::new();
    let listen = async {
        let mut limited = stderr.take(PEASANT_STDERR_BYTES_MAX as u64 * 4);
        limited.read_to_end(&mut said).await
    };
    let ((), _, status) = tokio::join!(feed, listen, child.wait());
    Ok((status?, String::from_utf8_lossy(&said).trim().to_owned()))
}

/// The exit status by which the compiler says that the program is to blame.
const UNFIT: i32 = 2;

/// What Rust says before it aborts a process that gets no memory, and what the system says.
const NO_MEMORY: [&str; 2] = ["memory allocation of ", "Cannot allocate memory"];

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGXCPU: i32 = 24;

/// What the end of a compiler says of its program. A limit is hit everywhere; a machine that is busy, or has no memory
/// left, proves nothing.
fn judge(status: ExitStatus, said: String, limits: CompileLimits) -> Result<(), MakeError> {
    let failed = || MakeError::Trouble(format!("the compiler failed: {}; it said: {said}", describe(status)));
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        _ if NO_MEMORY.iter().any(|words| said.contains(words)) => Err(MakeError::Unfit(limits.too_large())),
        (Some(UNFIT), _) if !said.is_empty() => Err(MakeError::Unfit(unfit(said))),
        (Some(_), _) | (None, Some(SIGKILL | SIGTERM)) => Err(failed()),
        (None, Some(SIGXCPU)) => Err(MakeError::Unfit(limits.too_slow())),
        // It crashed. The next compiler would crash, too.
        (None, _) => Err(MakeError::Unfit(unfit(format!("the compiler did not finish: {}", describe(status))))),
    }
}

#[cfg(test)]
mod tests {
    use distwasm_proto::digest::Digest;

    use super::*;

    fn limits() -> CompileLimits {
        CompileLimits { parallel: 1, cpu: Duration::from_millis(1500), data_bytes: 600 << 20 }
    }

    #[test]
    fn the_compiler_is_told_how_the_program_is_called_and_what_it_may_take() {
        let digest = Digest::of([b"".as_slice()]);
        let told = |call: &str, deterministic| {
            let traps_unknown_imports = !call.is_empty();
            let recipe = Recipe { digest, deterministic, call: call.to_owned(), traps_unknown_imports };
            let words = command_line(&recipe, Path::new("c"), limits()).shown.into_iter();
            words.map(|arg| arg.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        let plain = "compile --output c --cpu-seconds=2 --data-bytes=629145600";
        assert_eq!(told("", false), plain);
        assert_eq!(told("-f", true), format!("{plain} --call=-f --unknown-imports=trap --deterministic"));
    }

    #[test]
    fn compilers_take_a_share_of_the_memory_for_guests() {
        let of = |cpus, gib: u64, parallel| {
            let limits = CompileLimits::of_machine(cpus, gib << 30, parallel, Duration::ZERO);
            (limits.parallel, limits.data_bytes >> 20)
        };
        assert_eq!(of(4, 4, None), (1, 2048));
        assert_eq!(of(5, 4, None), (2, 1024));
        assert_eq!(of(1, 4, Some(4)), (4, 512));
        assert_eq!(of(1, 0, None), (1, COMPILE_DATA_BYTES_MIN >> 20));
        assert_eq!(of(1, 1000, None), (1, COMPILE_DATA_BYTES_MAX >> 20));
    }

    #[test]
    fn a_limit_of_compilers_is_a_fault_of_the_program_and_names_its_flag() {
        let judged =
            |status: i32, said: &str, limits| match judge(ExitStatus::from_raw(status), said.to_owned(), limits) {
                Ok(()) => "fit".to_owned(),
                Err(MakeError::Unfit(failure)) => format!("unfit: {}", failure.message),
                Err(MakeError::Trouble(why)) => format!("trouble: {why}"),
                Err(MakeError::Stopped) => "stopped".to_owned(),
            };
        let (slow, no_memory) = (SIGXCPU, "memory allocation of 7 bytes failed");
        let says = |status, said, limits, text: &str| {
            let judged = judged(status, said, limits);
            assert!(judged.starts_with(text), "{judged}");
        };
        says(0, "", limits(), "fit");
        says(2 << 8, "no `f`", limits(), "unfit: no `f`");
        says(1 << 8, "disk full", limits(), "trouble: the compiler failed: it ended with exit status 1");
        says(slow, "", limits(), "unfit: compiling it takes more than 2 s of processor time (--compile-timeout");
        says(SIGKILL, "", limits(), "trouble: the compiler failed: it was killed by signal 9");
        says(11, "", limits(), "unfit: the compiler did not finish: it was killed by signal 11");
        let large = "unfit: compiling it takes more than 600 MB of memory; a larger --ram-limit";
        says(6, no_memory, limits(), &format!("{large} allows more: half of it is for the compiler"));
        says(2 << 8, "Cannot allocate memory (os error 12)", limits(), large);
        says(
            6,
            no_memory,
            CompileLimits { parallel: 2, ..limits() },
            &format!("{large} allows more: half of it is for 2 compilers"),
        );
        let most = CompileLimits { data_bytes: COMPILE_DATA_BYTES_MAX, ..limits() };
        says(6, no_memory, most, "unfit: compiling it takes more than 8192 MB of memory; no compiler");
        assert!(
            matches!(limits().late(), MakeError::Trouble(why) if why.contains("20s") && why.contains("--compile-"))
        );
    }
}
