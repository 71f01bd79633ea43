//! Finds the line in a program's log that says why it ended: what a person would read out of it.

/// A longer line is cut.
const WORDS_BYTES_MAX: usize = 200;

/// The line that says why, if the program was ended by its language's run-time system.
pub fn of_crash(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let found = of_panic(&lines).or_else(|| of_traceback(&lines)).or_else(|| of_go(&lines).map(str::to_owned));
    found.map(|line| cut(&line))
}

/// The line that says why, in a program that may have ended by itself.
pub fn of_exit(log: &[u8]) -> Option<String> {
    of_crash(log).or_else(|| {
        let text = String::from_utf8_lossy(log);
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let last = lines.clone().next_back();
        lines.find(|line| says_error(line)).or(last).map(cut)
    })
}

/// A panic of Rust: where, and in the next line what.
fn of_panic(lines: &[&str]) -> Option<String> {
    let index = lines.iter().rposition(|line| line.starts_with("thread '") && line.contains("' panicked at "))?;
    let (_, place) = lines.get(index)?.split_once("' panicked at ")?;
    match (place.strip_suffix(':'), lines.get(index + 1)) {
        (Some(place), Some(what)) => Some(format!("panicked at {place}: {what}")),
        // Before Rust 1.73 it was one line.
        _ => Some(format!("panicked at {place}")),
    }
}

/// An exception of Python: the first line after the frames, which are indented.
fn of_traceback(lines: &[&str]) -> Option<String> {
    let index = lines.iter().rposition(|line| line.starts_with("Traceback (most recent call last)"))?;
    let after = lines.iter().skip(index + 1);
    after.copied().find(|line| !line.is_empty() && !line.starts_with([' ', '\t'])).map(str::to_owned)
}

/// A panic of Go, or an end by its run-time system.
fn of_go<'a>(lines: &[&'a str]) -> Option<&'a str> {
    lines.iter().copied().find(|line| line.starts_with("panic: ") || line.starts_with("fatal error: "))
}

/// Whether a line begins as those do that report errors: `error: …`, `Error: …`, `prog: error: …`, `ValueError: …`.
fn says_error(line: &str) -> bool {
    let before = line.split(": ").take(3);
    before.map(str::to_ascii_lowercase).any(|word| {
        let ends_well = ["error", "fatal", "exception"].iter().any(|end| word.ends_with(end));
        (ends_well || word.starts_with("error[")) && !word.contains(' ') || word == "fatal error"
    })
}

fn cut(line: &str) -> String {
    line.get(..line.floor_char_boundary(WORDS_BYTES_MAX)).unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: &str) -> String {
        of_exit(log.as_bytes()).unwrap_or_default()
    }

    #[test]
    fn the_line_that_says_why_is_found() {
        for (log, wanted) in [
            ("", ""),
            ("\n\n", ""),
            ("not found\n", "not found"),
            ("working\nstill working\ngave up at last\n", "gave up at last"),
            ("usage: f FILE\nf: error: no FILE\nsee f --help\n", "f: error: no FILE"),
            (
                "thread 'main' panicked at src/main.rs:5:9:\nno number: x\nnote: run with RUST_BACKTRACE=1\n",
                "panicked at src/main.rs:5:9: no number: x",
            ),
            ("thread 'main' panicked at 'old', a.rs:1:2\nnote: x\n", "panicked at 'old', a.rs:1:2"),
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n    f()\nValueError: no x\n",
                "ValueError: no x",
            ),
            ("panic: no x\n\ngoroutine 1 [running]:\nmain.main()\n\t/a.go:3\nexit status 2\n", "panic: no x"),
            ("Error: near line 1: no such table: t\nbye\n", "Error: near line 1: no such table: t"),
            ("a.c:3:1: error: expected ';'\n1 error generated.\n", "a.c:3:1: error: expected ';'"),
            ("error[E0308]: mismatched types\n --> a.rs\n", "error[E0308]: mismatched types"),
            ("this error: was an error of mine\nlast\n", "last"),
        ] {
            assert_eq!(told(log), wanted, "{log:?}");
        }
    }

    #[test]
    fn a_long_line_is_cut_between_two_characters() {
        assert_eq!(told(&"ä".repeat(500)).len(), WORDS_BYTES_MAX);
        assert_eq!(of_exit(&[0xff; 3]).unwrap(), "\u{fffd}".repeat(3));
    }

    #[test]
    fn only_run_time_systems_say_why_after_a_trap() {
        assert_eq!(of_crash(b"error: x\n"), None);
        assert!(of_crash(b"fatal error: all goroutines are asleep - deadlock!\n").is_some());
    }
}
