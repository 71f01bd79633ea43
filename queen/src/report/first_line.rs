//! The words at the start of a run: what runs over what, and where.

use std::path::Path;

use distwasm_jobs::{report::Counts, selection::LeftOut};
use indicatif::HumanCount;

use super::human::harmless_path;

/// What is known of a run before it begins.
#[derive(Clone, Debug)]
pub struct FirstLine {
    /// The program.
    pub program: String,
    /// The inputs, such as `inputs of logs/`; without a number if there is one.
    pub inputs: String,
    /// Where they run, such as `2 slots on this machine`.
    pub place: String,
}

impl FirstLine {
    /// The line at the start of a run.
    pub(super) fn line(&self, counts: &Counts) -> String {
        let FirstLine { program, inputs, place } = self;
        let total = counts.found + counts.done_before;
        let many = match (counts.all_found, total) {
            (false, _) => format!("at least {} {inputs}", HumanCount(total)),
            (true, 1) => format!("1 input{}", inputs.strip_prefix("inputs").unwrap_or(inputs)),
            (true, _) => format!("{} {inputs}", HumanCount(total)),
        };
        let mut notes = left_out(&counts.left_out);
        if counts.done_before > 0 {
            notes.push(format!("{} done before", HumanCount(counts.done_before)));
        }
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        format!("{program} over {many}{notes}, {place}")
    }
}

/// The program's file name, and the folder of inputs, for people.
pub(crate) fn shown(path: &Path) -> String {
    let shown = harmless_path(path);
    if path.is_dir() && !shown.ends_with('/') { shown + "/" } else { shown }
}

/// What was left out, by what, each in words.
pub(crate) fn left_out(left_out: &LeftOut) -> Vec<String> {
    let mut words: Vec<String> =
        left_out.files().map(|(count, flag)| format!("{} left out by {flag}", HumanCount(count))).collect();
    match left_out.folders {
        0 => {}
        1 => words.push("1 folder left out by --exclude".to_owned()),
        folders => words.push(format!("{} folders left out by --exclude", HumanCount(folders))),
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_runs_over_what_and_where() {
        let first_line = FirstLine {
            program: "summer.wasm".to_owned(),
            inputs: "inputs of logs/".to_owned(),
            place: "2 slots on this machine".to_owned(),
        };
        let mut counts = Counts { found: 800, all_found: true, done_before: 4200, ..Counts::default() };
        counts.left_out.exclude = 3;
        let expected = "summer.wasm over 5,000 inputs of logs/ (3 left out by --exclude, 4,200 done before), \
                        2 slots on this machine";
        assert_eq!(first_line.line(&counts), expected);
        let one = Counts { found: 1, all_found: true, ..Counts::default() };
        assert_eq!(first_line.line(&one), "summer.wasm over 1 input of logs/, 2 slots on this machine");
        let some = Counts { found: 1_234_567, ..Counts::default() };
        assert!(first_line.line(&some).starts_with("summer.wasm over at least 1,234,567 inputs of logs/, "));
    }
}
