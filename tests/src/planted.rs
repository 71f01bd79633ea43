//! Bugs that are planted into the cores on purpose, to check that the simulation finds them.

use std::{fs, path::Path};

use crate::real::root;

/// One bug.
#[derive(Debug)]
pub struct Bug {
    /// A sentence that says what goes wrong.
    pub what: String,
    /// The file that it is planted into.
    pub file: String,
    /// The lines that are there, and the lines that replace them.
    pub lines: (String, String),
}

/// All bugs of `tests/planted/bugs.txt`.
///
/// # Panics
///
/// When the file does not have the expected form.
pub fn bugs() -> Vec<Bug> {
    let text = fs::read_to_string(root().join("tests/planted/bugs.txt")).unwrap();
    let blocks = text.split("\n\n").filter_map(|block| block.trim_start_matches('\n').strip_prefix("# "));
    blocks.map(parse).collect()
}

fn parse(block: &str) -> Bug {
    let mut lines = block.lines();
    let (what, file) = (lines.next().unwrap().to_owned(), lines.next().unwrap().to_owned());
    let mut changed = (String::new(), String::new());
    for line in lines {
        let (place, line) = match line.split_at(1) {
            ("-", line) => (&mut changed.0, line),
            ("+", line) => (&mut changed.1, line),
            _ => panic!("{what}: neither - nor +: {line}"),
        };
        place.push_str(line);
        place.push('\n');
    }
    Bug { what, file, lines: changed }
}

impl Bug {
    /// The content of the file with the bug planted.
    ///
    /// # Panics
    ///
    /// When the lines are not in the file exactly once.
    pub fn planted(&self, folder: &Path) -> String {
        let text = fs::read_to_string(folder.join(&self.file)).unwrap();
        let count = text.matches(&self.lines.0).count();
        assert_eq!(count, 1, "{}: its lines are in {} {count} times", self.what, self.file);
        text.replacen(&self.lines.0, &self.lines.1, 1)
    }
}
