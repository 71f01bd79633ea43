//! Turns the end of a guest into the verdict for its queen.

use distwasm_proto::failure::{Failure, FailureKind};
use wasmtime::{ThrownException, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::guest::Guest;
use crate::last_words;
use crate::stdio::StdioError;

/// Judges a guest that ended with `error` instead of returning. An exit status that is a result is not a failure. To be
/// called before its streams end.
pub fn of_error(error: &wasmtime::Error, guest: &Guest) -> Result<(), Failure> {
    let (kind, mut message) = if let Some(I32Exit(status)) = error.downcast_ref() {
        match status {
            status if guest.grants().ok_statuses.contain(*status) => return Ok(()),
            status => (FailureKind::Exit, format!("exited with status {status}")),
        }
    } else if let Some(error) = error.downcast_ref::<StdioError>() {
        (error.kind(), error.to_string())
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        (FailureKind::Trap, of_trap(*trap, guest))
    } else if error.downcast_ref::<ThrownException>().is_some() {
        (FailureKind::Trap, "threw an exception that nothing caught".to_owned())
    } else {
        (FailureKind::Trap, causes(error))
    };
    // How a guest that was denied memory ends depends on its allocator.
    let is_exit_or_trap = matches!(kind, FailureKind::Exit | FailureKind::Trap);
    if let Some(bytes) = guest.bounds.denied().filter(|_| is_exit_or_trap) {
        let what = format!("wanted more than {} of memory, which is what its slot has", size(bytes));
        return Err(failure(FailureKind::Memory, format!("{what}: {message}"), error, guest));
    }
    if kind == FailureKind::Exit {
        message = with_last_words(message, guest);
        return Err(of_refusal(message, guest));
    }
    Err(failure(kind, message, error, guest))
}

/// The guest itself reported that it has no answer, and why. To be called before its streams end.
pub fn of_refusal(message: String, guest: &Guest) -> Failure {
    let stdio = guest.stdio.lock();
    Failure::new(FailureKind::Exit, message).with_stderr(&stdio.stderr()).with_stdout(stdio.output_start())
}

/// The guest ended with a failure status. The reason is in its log.
pub fn of_exit(status: i32, guest: &Guest) -> Failure {
    of_refusal(with_last_words(format!("exited with status {status}"), guest), guest)
}

/// The output could not be kept, found after the guest returned.
pub fn of_stdio(error: &StdioError, guest: &Guest) -> Failure {
    Failure::new(error.kind(), error.to_string()).with_stderr(&guest.stdio.lock().stderr())
}

/// A failure to answer as the ABI demands, found after the guest returned.
pub fn of_answer(message: String, guest: &Guest) -> Failure {
    Failure::new(FailureKind::Answer, message).with_stderr(&guest.stdio.lock().stderr())
}

fn failure(kind: FailureKind, message: String, error: &wasmtime::Error, guest: &Guest) -> Failure {
    let message = match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) if !backtrace.frames().is_empty() => format!("{message}\n{backtrace}"),
        _ => message,
    };
    Failure::new(kind, message).with_stderr(&guest.stdio.lock().stderr())
}

fn of_trap(trap: Trap, guest: &Guest) -> String {
    match trap {
        // How languages end a program that has panicked.
        Trap::UnreachableCodeReached => {
            let said = last_words::of_crash(&guest.stdio.lock().stderr());
            said.unwrap_or_else(|| trap.to_string().replace("wasm trap: ", ""))
        }
        Trap::StackOverflow => {
            format!("recursed deeper than its stack of {} allows (--stack gives it more)", size(guest.stack_bytes()))
        }
        trap => trap.to_string().replace("wasm trap: ", ""),
    }
}

/// The error and its causes in one line, without the backtrace, which is reported separately.
fn causes(error: &wasmtime::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !text.starts_with("error while executing at wasm backtrace") && parts.last() != Some(&text) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// Appends the line of stderr in which the program says why it exits, so that the message is useful on its own.
fn with_last_words(message: String, guest: &Guest) -> String {
    let stderr = guest.stdio.lock().stderr();
    let message = match last_words::of_exit(&stderr) {
        Some(line) => format!("{message}: {line}"),
        None => message,
    };
    with_absent(message, &stderr, guest)
}

/// Appends the path that the program did not find, if that may be the reason: it speaks of it, or says nothing.
fn with_absent(message: String, stderr: &[u8], guest: &Guest) -> String {
    let Some(path) = &guest.absent else { return message };
    let name = path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path);
    let speaks_of_it = String::from_utf8_lossy(stderr).contains(name);
    if !stderr.is_empty() && !speaks_of_it {
        return message;
    }
    format!("{message}; it looked for {path:?}, which is not there (--dir HOST::GUEST shares a folder with it)")
}

/// The guest returned, which counts as exit status 0.
pub fn of_return(guest: &Guest) -> Result<(), Failure> {
    if guest.grants().ok_statuses.contain(0) { Ok(()) } else { Err(of_exit(0, guest)) }
}

/// A number of bytes, as text for people.
pub fn size(bytes: usize) -> String {
    match bytes {
        0 => "0 bytes".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}
