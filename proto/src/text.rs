//! Text from elsewhere, made fit for a terminal: names of files, words of guests and of peers. A control character may
//! move the cursor or write on the clipboard, a line break may pretend to be a message of distwasm, and a mark of
//! direction may show a name in another order than it has.

use std::borrow::Cow;

use crate::limits::NAME_BYTES_MAX;

/// Whether a terminal shows this character as what it is.
fn is_plain(character: char) -> bool {
    // Marks of direction, and separators of lines and paragraphs.
    let is_mark =
        matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !is_mark
}

/// The text as one line: all that is not plain is written as an escape, except tabs.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character == '\t')
}

/// The text with its lines: all that is not plain is written as an escape, except tabs and line breaks.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| matches!(character, '\t' | '\n'))
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_fine = |character| is_plain(character) || is_kept(character);
    if text.chars().all(is_fine) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_fine(character) {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
    Cow::Owned(line)
}

/// Whether a project, a host or a label may be called so: at most [`NAME_BYTES_MAX`] bytes, all of them plain.
pub fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_controls_a_terminal() {
        for (text, shown) in [
            ("plain ä 漢 \u{1f600}", "plain ä 漢 \u{1f600}"),
            ("a\tb\x1b[2J\0\x7f\u{9b}", "a\tb\\u{1b}[2J\\u{0}\\u{7f}\\u{9b}"),
            ("a\nb\r", "a\\nb\\r"),
            ("x\u{202e}gpj.exe\u{2028}y", "x\\u{202e}gpj.exe\\u{2028}y"),
        ] {
            assert_eq!(line(text), shown);
        }
        assert_eq!(lines("a\n\x1bb\r\n"), "a\n\\u{1b}b\\r\n");
    }

    #[test]
    fn a_name_is_plain_and_not_too_long() {
        assert!(is_name("") && is_name("zone-ä") && is_name(&"n".repeat(255)));
        assert!(!is_name("a\nb") && !is_name("a\x1b") && !is_name("\u{202e}a") && !is_name(&"n".repeat(256)));
    }
}
