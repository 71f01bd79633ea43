//! The kernel's figures of processes: wall time, processor time, memory and children.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, park_timeout},
    time::Duration,
};

use anyhow::{Context, Result};
use distwasm_process::clock::Clock;

/// The first interval between two looks at memory, short for processes that end soon. It doubles each time.
const LOOK_FIRST: Duration = Duration::from_millis(1);
/// The longest interval between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process that has ended, with all its children that were waited for.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// From before it was started to its end, in microseconds.
    pub wall_us: u64,
    /// User and system time, in microseconds.
    pub cpu_us: u64,
    /// Its exit status, unless it was killed.
    pub status: Option<i32>,
}

/// Runs a command until it ends. `started` gets its process id.
///
/// # Errors
///
/// When it cannot be started.
pub fn run(command: &mut Command, started: impl FnOnce(u32)) -> Result<Finished> {
    let clock = Clock::start();
    let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let id = child.id();
    started(id);
    let pid = libc::pid_t::try_from(id)?;
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to whole values of their types, and `rusage` is valid if all bytes are zero. Nothing
    // else waits for this child: `child` is never polled.
    let usage = unsafe {
        while libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) != pid {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error).context("cannot wait for a process");
            }
        }
        usage.assume_init()
    };
    let wall_us = clock.now().0;
    let status = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    Ok(Finished { wall_us, cpu_us: micros(usage.ru_utime) + micros(usage.ru_stime), status })
}

fn micros(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0)
}

/// The processor time of a process so far, without its children, in microseconds.
pub fn cpu_us(id: u32) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let pid = libc::pid_t::try_from(id).ok()?;
    // SAFETY: both pointers are to whole values of their types.
    let is_read = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut time) == 0
    };
    is_read.then(|| u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1000).unwrap_or(0))
}

/// The processor time of the children that a process has waited for, in microseconds, counted in ticks of the kernel
/// (mostly 10 ms).
pub fn children_cpu_us(id: u32) -> Option<u64> {
    // After the name: state, parent, ...; cutime and cstime are the 14th and 15th of them.
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

/// The processor time of all processes of the machine so far, in microseconds, counted in ticks of the kernel.
pub fn machine_cpu_us() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // user, nice, system, and after idle and iowait: irq, softirq, steal.
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).enumerate();
    let busy = fields.filter(|(at, _)| !matches!(at, 3 | 4)).filter_map(|(_, ticks)| ticks.parse::<u64>().ok());
    busy.sum::<u64>() * 1_000_000 / rustix::param::clock_ticks_per_second()
}

/// Waits until the machine is idle, at most this long.
pub fn await_calm(patience: Duration) {
    let clock = Clock::start();
    while Duration::from_micros(clock.now().0) < patience {
        let (began, busy_us) = (clock.now(), machine_cpu_us());
        while clock.now().micros_since(began) < CALM_OVER_US {
            park_timeout(LOOK_EVERY);
        }
        if machine_cpu_us() - busy_us < CALM_OVER_US / 10 {
            return;
        }
    }
}

/// For how long a machine must be idle, except for a tenth of one processor.
const CALM_OVER_US: u64 = 300_000;

/// The peak memory of a process, in KiB.
pub fn peak_kib(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Resets a process's peak memory. If the kernel does not allow it, the peak is that of all runs so far.
pub fn forget_peak(id: u32) {
    let _written = fs::write(format!("/proc/{id}/clear_refs"), "5");
}

/// Finds the children of one process, at little cost for repeated calls.
#[derive(Debug, Default)]
pub struct Children {
    strangers: BTreeSet<u32>,
}

impl Children {
    /// The running children of a process, with their names.
    pub fn of(&mut self, parent: u32) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        let Ok(processes) = fs::read_dir("/proc") else { return found };
        for entry in processes.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.strangers.contains(&id) {
                continue;
            }
            match parent_and_name(id) {
                Some((other, name)) if other == parent => found.push((id, name)),
                _ => {
                    self.strangers.insert(id);
                }
            }
        }
        found
    }
}

/// The parent and the name of a process. `None` if it has ended.
fn parent_and_name(id: u32) -> Option<(u32, String)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let runs = !matches!(fields.next()?, "Z" | "X");
    runs.then_some((fields.next()?.parse().ok()?, name.to_owned()))
}

/// The file of the program that a process runs.
fn program(id: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{id}/exe")).ok()
}

/// The peak memory of each kind of process, in KiB.
pub type Peaks = BTreeMap<String, u64>;

/// Samples the memory of processes and of their children until it is stopped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Peaks>,
}

impl Watch {
    /// Watches these named processes from now on. Their children go by their own names.
    pub fn start(watched: Vec<(String, u32)>) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut peaks, mut pause) = (Peaks::new(), LOOK_FIRST);
            let mut families: Vec<(String, u32, Children)> =
                watched.into_iter().map(|(name, id)| (name, id, Children::default())).collect();
            while !stopped.load(Ordering::Relaxed) {
                for (name, id, children) in &mut families {
                    note(&mut peaks, name.clone(), *id);
                    for (child, name) in children.of(*id) {
                        // A child that has not executed its program yet still has its parent's size.
                        if program(child) != program(*id) {
                            note(&mut peaks, name, child);
                        }
                    }
                }
                park_timeout(pause);
                pause = LOOK_EVERY.min(2 * pause);
            }
            peaks
        });
        Watch { stop, thread }
    }

    /// Stops, and returns the peaks.
    pub fn stop(self) -> Peaks {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

fn note(peaks: &mut Peaks, name: String, id: u32) {
    if let Some(kib) = peak_kib(id) {
        let peak = peaks.entry(name).or_default();
        *peak = kib.max(*peak);
    }
}
