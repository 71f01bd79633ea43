//! The addition itself: `A + B` in, the sum and a newline out.

/// Answers `A + B`, two decimal integers of up to 128 bits with any sign and any white space around them.
pub fn answer(input: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(input).map_err(|_| "the input is not text".to_string())?.trim();
    // The plus between the numbers is the first after the first number's own sign and digits.
    let split = text
        .char_indices()
        .skip(1)
        .find(|&(at, letter)| {
            letter == '+' && text[..at].ends_with(|before: char| before.is_ascii_digit() || before.is_whitespace())
        })
        .map(|(at, _)| at)
        .ok_or_else(|| format!("expected `A + B`, found `{}`", shortened(text)))?;
    let a = number(&text[..split])?;
    let b = number(&text[split + 1..])?;
    let sum = a.checked_add(b).ok_or_else(|| format!("the sum of {a} and {b} does not fit into 128 bits"))?;
    Ok(format!("{sum}\n").into_bytes())
}

fn number(text: &str) -> Result<i128, String> {
    let text = text.trim();
    text.parse().map_err(|error| format!("`{}` is not an integer: {error}", shortened(text)))
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        text.to_string()
    } else {
        text.chars().take(SHOWN).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn sums() {
        for (input, wanted) in [
            ("1 + 2", "3\n"),
            ("1+2\n", "3\n"),
            ("  -1 + 2 ", "1\n"),
            ("-1 + -2", "-3\n"),
            ("+1 + +2", "3\n"),
            ("1++2", "3\n"),
            ("\t007\n+\r\n8", "15\n"),
            ("170141183460469231731687303715884105727 + -170141183460469231731687303715884105728", "-1\n"),
        ] {
            assert_eq!(answer(input.as_bytes()), Ok(wanted.as_bytes().to_vec()), "{input:?}");
        }
    }

    #[test]
    fn anything_else_is_told() {
        for (input, part) in [
            (&b""[..], "expected `A + B`, found ``"),
            (b"12", "expected `A + B`"),
            (b"+", "expected `A + B`"),
            (b"1 - 2", "expected `A + B`"),
            (b"+ 2", "expected `A + B`"),
            (b"1 + ", "`` is not an integer"),
            (b"1 + 2 + 3", "`2 + 3` is not an integer"),
            (b"1 + x", "`x` is not an integer"),
            (b"1.5 + 2", "`1.5` is not an integer"),
            (b"\xff + 1", "the input is not text"),
            (b"170141183460469231731687303715884105727 + 1", "does not fit into 128 bits"),
            (b"170141183460469231731687303715884105728 + 1", "too large"),
        ] {
            let error = answer(input).unwrap_err();
            assert!(error.contains(part), "{input:?}: {error}");
        }
    }
}
