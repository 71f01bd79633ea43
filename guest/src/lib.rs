//! What a guest program of distwasm written in Rust links.
//!
//! A guest is a function from the bytes of an input to the bytes of a result. There are two ways to make a program of it.
//!
//! As *ProcessStdio*, in a crate of type `cdylib`: one instance lives on from unit to unit, which is the fastest, and what the
//! program sets up once it keeps. See [`process_stdio!`].
//!
//! As a *command*, in an ordinary program: a fresh instance for each unit, and nothing is kept. See [`command`].
//!
//! Either way the unit fails when the function returns an error (its text goes to stderr, and from there into the report)
//! or panics. The crate has no dependencies and compiles with Rust 1.63 and later.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::process::ExitCode;

/// Makes a ProcessStdio guest of a function `fn(&[u8]) -> Result<Vec<u8>, impl Display>`.
///
/// To be used once in a crate of type `cdylib`, compiled for `wasm32-wasip1`. On other targets nothing is exported, so
/// that the crate can be tested natively.
///
/// ```
/// fn reversed(input: &[u8]) -> Result<Vec<u8>, String> {
///     if input.is_empty() {
///         return Err("nothing to reverse".to_owned());
///     }
///     Ok(input.iter().rev().copied().collect())
/// }
///
/// distwasm_guest::process_stdio!(reversed);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! process_stdio {
    ($answer:path) => {
        /// Answers one unit of `size` bytes from stdin to stdout.
        #[cfg_attr(target_os = "wasi", no_mangle)]
        #[allow(non_snake_case, dead_code)]
        pub extern "C" fn ProcessStdio(size: i32) {
            $crate::process_unit(size, $answer)
        }

        // Without a function of this name that calls the constructors, the linker wraps every export in constructors and
        // destructors, and no state would survive a unit.
        #[cfg(target_os = "wasi")]
        #[no_mangle]
        #[doc(hidden)]
        pub extern "C" fn _initialize() {
            extern "C" {
                fn __wasm_call_ctors();
            }
            // SAFETY: called once, by the host, before anything else.
            unsafe { __wasm_call_ctors() }
        }
    };
}

/// Answers one unit in the ABI of ProcessStdio: what [`process_stdio!`] calls.
#[doc(hidden)]
pub fn process_unit<E: Display>(size: i32, answer: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>) {
    let size = u64::try_from(size).unwrap_or(0);
    let answered = read(io::stdin().lock().take(size)).and_then(|input| {
        if input.len() as u64 != size {
            return Err(format!("the input ended after {} bytes of {size}", input.len()));
        }
        with_length(answer(&input).map_err(|error| error.to_string())?)
    });
    if let Err(error) = answered.and_then(|bytes| write(io::stdout().lock(), &bytes)) {
        log(&error);
        // Ends this instance; the peasant makes a fresh one for the next unit.
        std::process::exit(1);
    }
}

/// Answers one unit as a plain command: all of stdin is the input, all of stdout the result.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn length(input: &[u8]) -> Result<Vec<u8>, std::convert::Infallible> {
///     Ok(input.len().to_string().into_bytes())
/// }
///
/// fn main() -> ExitCode {
///     distwasm_guest::command(length)
/// }
/// ```
pub fn command<E: Display>(answer: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>) -> ExitCode {
    let answered = read(io::stdin().lock()).and_then(|input| answer(&input).map_err(|error| error.to_string()));
    match answered.and_then(|bytes| write(io::stdout().lock(), &bytes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&error);
            ExitCode::FAILURE
        }
    }
}

fn read(mut source: impl Read) -> Result<Vec<u8>, String> {
    let mut input = Vec::new();
    source.read_to_end(&mut input).map_err(|error| format!("cannot read the input: {error}"))?;
    Ok(input)
}

fn write(mut sink: impl Write, bytes: &[u8]) -> Result<(), String> {
    sink.write_all(bytes).and_then(|()| sink.flush()).map_err(|error| format!("cannot write the result: {error}"))
}

/// The result with its length before it, 32 bits, little-endian.
fn with_length(mut result: Vec<u8>) -> Result<Vec<u8>, String> {
    let length = u32::try_from(result.len()).map_err(|_| format!("a result of {} bytes is too long", result.len()))?;
    result.splice(0..0, length.to_le_bytes());
    Ok(result)
}

fn log(error: &str) {
    // If there is no stderr, the exit status has to be enough.
    let _ = writeln!(io::stderr(), "{error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_goes_before_the_result() {
        assert_eq!(with_length(b"abc".to_vec()).unwrap(), b"\x03\0\0\0abc");
        assert_eq!(with_length(Vec::new()).unwrap(), b"\0\0\0\0");
    }

    #[test]
    fn a_read_takes_all() {
        assert_eq!(read(&b"some input"[..]).unwrap(), b"some input");
        assert_eq!(read(b"some input".take(4)).unwrap(), b"some");
    }

    #[test]
    fn a_full_sink_is_an_error_with_a_text() {
        let mut room = [0; 2];
        assert!(write(&mut room[..], b"abc").unwrap_err().starts_with("cannot write the result: "));
    }
}
