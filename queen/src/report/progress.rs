//! The progress of a run: a bar on a terminal, otherwise a line now and then.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use distwasm_jobs::report::{Compiling, Counts, LongestInput};
use distwasm_process::{clock::Clock, stderr};
use distwasm_proto::{limits::PROGRESS_EVERY, time::Time};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use rustix::termios::Winsize;

use super::human::{harmless, harmless_path, megabytes};

/// What takes long at present.
#[derive(Clone, Copy, Default)]
pub(super) struct Activity<'a> {
    /// What the job waits for; empty if it does not wait.
    pub(super) waits_for: &'a str,
    /// The duke that has been compiling the program longest.
    pub(super) compiling: Option<&'a Compiling>,
    /// The input that has been running longest.
    pub(super) longest: Option<&'a LongestInput>,
}

/// Shows the progress of a run.
pub(super) enum Progress {
    /// Nothing is shown (`--quiet`).
    Hidden,
    Bar(ProgressBar),
    Lines {
        next: Time,
    },
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Progress {
        if quiet {
            return Progress::Hidden;
        }
        if !io::stderr().is_terminal() {
            return Progress::Lines { next: Time::default().after(PROGRESS_EVERY) };
        }
        let screen = Box::new(Screen::default());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like_with_hz(screen, 10));
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
            bar.set_style(style);
        }
        Progress::Bar(bar)
    }

    pub(super) fn update(&mut self, clock: &Clock, counts: &Counts, activity: Activity<'_>) {
        let now = clock.now();
        let settled = counts.done + counts.failed;
        match self {
            Progress::Bar(bar) => {
                // The bar appears with the first input, so that a run with nothing to do shows none.
                if counts.found == 0 {
                    return;
                }
                bar.set_length(counts.found);
                bar.set_position(settled);
                bar.set_message(describe(now, counts, activity));
            }
            Progress::Lines { next } if now >= *next => {
                *next = now.after(PROGRESS_EVERY);
                self.say(&describe(now, counts, activity));
            }
            Progress::Hidden | Progress::Lines { .. } => {}
        }
    }

    /// Prints a line of talk, above the bar if there is one.
    pub(super) fn say(&self, line: &str) {
        match self {
            Progress::Bar(bar) if !bar.is_finished() => bar.suspend(|| super::human::talk(line)),
            Progress::Hidden | Progress::Bar(_) | Progress::Lines { .. } => super::human::talk(line),
        }
    }

    pub(super) fn finish(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// The terminal on stderr, drawn on without waiting for it.
#[derive(Debug, Default)]
struct Screen(Mutex<String>);

impl Screen {
    fn append(&self, text: impl Display) -> io::Result<()> {
        let mut picture = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *picture += &text.to_string();
        Ok(())
    }

    /// Columns and rows, as far as they are known.
    fn size() -> (u16, u16) {
        match rustix::termios::tcgetwinsize(io::stderr()) {
            Ok(Winsize { ws_col: columns @ 1.., ws_row: rows @ 1.., .. }) => (columns, rows),
            _ => (80, 20),
        }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        Screen::size().0
    }

    fn height(&self) -> u16 {
        Screen::size().1
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        if lines == 0 { Ok(()) } else { self.append(format_args!("\x1b[{lines}A")) }
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        if lines == 0 { Ok(()) } else { self.append(format_args!("\x1b[{lines}B")) }
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        if columns == 0 { Ok(()) } else { self.append(format_args!("\x1b[{columns}C")) }
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        if columns == 0 { Ok(()) } else { self.append(format_args!("\x1b[{columns}D")) }
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.append(format_args!("{line}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.append(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.append("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let picture = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        stderr::redraw(picture.into_bytes());
        Ok(())
    }
}

fn describe(now: Time, counts: &Counts, Activity { waits_for, compiling, longest }: Activity<'_>) -> String {
    let settled = counts.done + counts.failed;
    let seconds = (now.0 as f64 / 1e6).max(1e-6);
    let rate = settled as f64 / seconds;
    let more = if counts.all_found { "" } else { "+" };
    let mut text = format!("{} of {}{more}", counts.done, counts.found);
    if counts.failed > 0 {
        text += &format!(", {} failed", counts.failed);
    }
    if !waits_for.is_empty() {
        return format!("{text}, waiting: {waits_for}");
    }
    let compiling = compiling.map(|Compiling { duke, since }| {
        let seconds = now.micros_since(*since) / 1_000_000;
        format!(", compiling: {seconds} s (on {})", harmless(duke))
    });
    if settled == 0
        && longest.is_none()
        && let Some(compiling) = compiling
    {
        // No unit has ended, and none has run for long.
        return text + &compiling;
    }
    let bytes = counts.bytes_sent + counts.bytes_written;
    text += &format!(", {} running, {rate:.0}/s, {}/s", counts.slots, megabytes(bytes as f64 / seconds));
    let left = counts.found.saturating_sub(settled);
    // The rate of finished units does not predict when the last running ones end.
    let is_last = left <= u64::from(counts.slots) && longest.is_some();
    if rate > 0.0 && counts.all_found && left > 0 && !is_last {
        let left = Duration::from_secs_f64((left as f64 / rate).clamp(1.0, 1e9));
        text += &format!(", {} left", HumanDuration(left));
    }
    if let Some(LongestInput { path, duke, since }) = longest {
        let running = Duration::from_secs(now.micros_since(*since) / 1_000_000);
        let (path, duke) = (harmless_path(path), harmless(duke));
        text += &format!(", longest: {path}, on {duke} for {}", HumanDuration(running));
    }
    text + compiling.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn no_time_is_left_only_when_nothing_is() {
        let counts = Counts { found: 10_000, all_found: true, done: 9999, slots: 2, ..Counts::default() };
        let longest = LongestInput { path: PathBuf::from("a/\x1bb"), duke: "here".to_owned(), since: Time(5_000_000) };
        let at = |seconds: u64, counts: &Counts, longest| {
            describe(Time(seconds * 1_000_000), counts, Activity { longest, ..Activity::default() })
        };
        assert!(at(30, &counts, None).ends_with(", 1 second left"), "{}", at(30, &counts, None));
        let told = at(30, &counts, Some(&longest));
        assert!(told.ends_with("/s, longest: a/\\u{1b}b, on here for 25 seconds"), "{told}");
        let many = Counts { done: 5000, ..counts };
        let told = at(30, &many, Some(&longest));
        assert!(told.contains(", 30 seconds left, longest: "), "{told}");
        assert!(!at(30, &Counts { done: 10_000, ..counts }, None).contains("left"));
    }

    #[test]
    fn compiling_is_told_with_its_time() {
        let compiling = Compiling { duke: "here".to_owned(), since: Time(1_000_000) };
        let activity = Activity { compiling: Some(&compiling), ..Activity::default() };
        let counts = Counts { found: 10, slots: 2, ..Counts::default() };
        assert_eq!(describe(Time(15_500_000), &counts, activity), "0 of 10+, compiling: 14 s (on here)");
        let told = describe(Time(15_500_000), &Counts { done: 5, ..counts }, activity);
        assert!(told.starts_with("5 of 10+, 2 running") && told.ends_with(", compiling: 14 s (on here)"), "{told}");
    }
}
