//! A log message that repeats is logged once and then counted, with pauses that grow.

use std::{collections::BTreeMap, time::Duration};

use distwasm_proto::{
    limits::{REPEATS_PAUSE_FIRST, REPEATS_PAUSE_MAX, REPEATS_TOLD_APART},
    time::Time,
};

/// Decides which messages are worth a line in the log. Pure: time is an argument.
#[derive(Debug, Default)]
pub struct Repeats {
    lines: BTreeMap<String, Repeat>,
}

#[derive(Debug)]
struct Repeat {
    /// Occurrences since the last line.
    since: u64,
    /// Before this, the message is not logged again.
    not_before: Time,
    pause: Duration,
}

impl Repeats {
    /// Counts an occurrence of a message; `Some` when it is worth a line, with the number of occurrences that were not
    /// logged since the last line.
    pub fn count(&mut self, now: Time, what: &str) -> Option<u64> {
        if let Some(repeat) = self.lines.get_mut(what) {
            if now < repeat.not_before {
                repeat.since += 1;
                return None;
            }
            repeat.pause = (repeat.pause * 2).min(REPEATS_PAUSE_MAX);
            repeat.not_before = now.after(repeat.pause);
            return Some(std::mem::take(&mut repeat.since));
        }
        if self.lines.len() >= REPEATS_TOLD_APART {
            // A peer that sends a different text each time must not fill the memory.
            self.lines.clear();
        }
        let not_before = now.after(REPEATS_PAUSE_FIRST);
        self.lines.insert(what.to_owned(), Repeat { since: 0, not_before, pause: REPEATS_PAUSE_FIRST });
        Some(0)
    }

    /// Forgets all messages: their cause is over, and they are worth a line at once when it happens again.
    pub fn forget(&mut self) {
        self.lines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_said_with_growing_pauses_and_counted() {
        let mut repeats = Repeats::default();
        let mut said = Vec::new();
        for second in 0..3600 {
            said.extend(repeats.count(Time(second * 1_000_000), "broken").map(|count| (second, count)));
        }
        assert_eq!(said[..4], [(0, 0), (5, 4), (15, 9), (35, 19)]);
        assert!(said.len() <= 12, "{said:?}");
        assert_eq!(repeats.count(Time(0), "something else"), Some(0));
        repeats.forget();
        assert_eq!(repeats.count(Time(0), "broken"), Some(0));
    }

    #[test]
    fn lines_that_never_repeat_do_not_fill_the_memory() {
        let mut repeats = Repeats::default();
        for number in 0..10 * REPEATS_TOLD_APART {
            assert_eq!(repeats.count(Time(0), &number.to_string()), Some(0));
            assert!(repeats.lines.len() <= REPEATS_TOLD_APART);
        }
    }
}
