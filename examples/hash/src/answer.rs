//! From the text of a unit to its answer: `A difficulty` in, the counter and a newline out.

use crate::search::{self, ZEROS_MAX};

/// Answers two decimal integers: one of 64 bits, and how many zeros there are to be, at most 64.
pub fn answer(input: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(input).map_err(|_| "the input is not text".to_string())?;
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    let (a, difficulty) = match words[..] {
        [a, difficulty] => (integer(a)?, integer(difficulty)?),
        _ => return Err(format!("expected `A difficulty`, found {} words", words.len())),
    };
    if difficulty < 0 || difficulty > i64::from(ZEROS_MAX) {
        return Err(format!("a difficulty of {difficulty} is not between 0 and {ZEROS_MAX}"));
    }
    Ok(format!("{}\n", search::find(a, difficulty as u32)).into_bytes())
}

/// As C has it.
fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t'..='\r')
}

fn integer(word: &str) -> Result<i64, String> {
    word.parse().map_err(|_| format!("`{:.60}` is not an integer of 64 bits", word))
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn counters() {
        for (input, wanted) in [
            ("0 0", "1\n"),
            ("0 3", "2832\n"),
            ("0 4\n", "69732\n"),
            (" +1\t3 ", "2823\n"),
            ("001 3", "2823\n"),
            ("-9223372036854775808 2", "63\n"),
            ("9223372036854775807 2", "408\n"),
        ] {
            assert_eq!(answer(input.as_bytes()), Ok(wanted.as_bytes().to_vec()), "{input:?}");
        }
    }

    #[test]
    fn anything_else_is_told() {
        for (input, part) in [
            (&b""[..], "expected `A difficulty`, found 0 words"),
            (b"1", "found 1 words"),
            (b"1 2 3", "found 3 words"),
            (b"one 1", "`one` is not an integer of 64 bits"),
            (b"1 1.5", "`1.5` is not an integer of 64 bits"),
            (b"9223372036854775808 1", "is not an integer of 64 bits"),
            (b"1 -1", "a difficulty of -1 is not between 0 and 64"),
            (b"1 65", "a difficulty of 65 is not between 0 and 64"),
            (b"\xff 1", "the input is not text"),
        ] {
            let error = answer(input).unwrap_err();
            assert!(error.contains(part), "{input:?}: {error}");
        }
    }
}
