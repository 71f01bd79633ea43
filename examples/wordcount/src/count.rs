//! The counting itself: any bytes in, a line of JSON out.

use std::convert::Infallible;

/// Counts newlines, words between ASCII white space, and bytes.
pub fn answer(input: &[u8]) -> Result<Vec<u8>, Infallible> {
    let lines = input.iter().filter(|&&byte| byte == b'\n').count();
    let words = input.split(is_space).filter(|word| !word.is_empty()).count();
    let bytes = input.len();
    Ok(format!("{{\"lines\":{lines},\"words\":{words},\"bytes\":{bytes}}}\n").into_bytes())
}

/// As C has it, so with the vertical tab, which `u8::is_ascii_whitespace` leaves out.
fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn counts() {
        for (input, lines, words) in [
            (&b""[..], 0, 0),
            (b"\n", 1, 0),
            (b"one", 0, 1),
            (b"one two\nthree\n", 2, 3),
            (b" \t one\x0btwo\x0cthree\rfour  \n", 1, 4),
            (b"no\xc2\xa0break", 0, 1),
            (b"\0 \xff", 0, 2),
        ] {
            let wanted = format!("{{\"lines\":{lines},\"words\":{words},\"bytes\":{}}}\n", input.len());
            assert_eq!(answer(input), Ok(wanted.into_bytes()), "{input:?}");
        }
    }
}
