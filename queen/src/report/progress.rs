//! How far a run is: a bar on a terminal, a line now and then otherwise.

use std::{io::IsTerminal, time::Duration};

use distwasm_proto::{
    limits::PROGRESS_EVERY,
    time::{Clock, Time},
};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Counts, human::megabytes};

/// Shows how far a run is.
pub(super) enum Progress {
    /// Nobody wants to know.
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
        if !std::io::stderr().is_terminal() {
            return Progress::Lines { next: Time::default().after(PROGRESS_EVERY) };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
            bar.set_style(style);
        }
        Progress::Bar(bar)
    }

    pub(super) fn update(&mut self, clock: &Clock, counts: &Counts, waits_for: &str) {
        let now = clock.now();
        let settled = counts.done + counts.failed;
        match self {
            Progress::Bar(bar) => {
                // The bar comes with the first sign of life, so that a run with nothing to do shows none.
                if counts.found == 0 {
                    return;
                }
                bar.set_length(counts.found);
                bar.set_position(settled);
                bar.set_message(describe(now, counts, waits_for));
            }
            Progress::Lines { next } if now >= *next => {
                *next = now.after(PROGRESS_EVERY);
                self.say(&describe(now, counts, waits_for));
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

fn describe(now: Time, counts: &Counts, waits_for: &str) -> String {
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
    let bytes = counts.bytes_sent + counts.bytes_written;
    text += &format!(", {} running, {rate:.0}/s, {}/s", counts.slots, megabytes(bytes as f64 / seconds));
    if rate > 0.0 && counts.all_found {
        let left = counts.found.saturating_sub(settled) as f64 / rate;
        text += &format!(", {} left", HumanDuration(Duration::from_secs_f64(left.min(1e9))));
    }
    text
}
