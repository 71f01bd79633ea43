//! Counts the words of an input.

distwasm_guest::process_stdio!(answer);

/// Answers one input. The report shows its error.
///
/// Print to stderr (`eprintln!`): stdout is for the answer. One instance answers many inputs, so it is not told their
/// names. With `queen --fresh` each input has its own, and `std::env::var("DISTWASM_INPUT")` is the input's name.
fn answer(input: &[u8]) -> Result<Vec<u8>, String> {
    let words = input.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
    if words == 0 {
        return Err("there is no word in it".to_owned());
    }
    Ok(format!("{words} words\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn words_are_counted() {
        assert_eq!(answer(b" one\ntwo "), Ok(b"2 words\n".to_vec()));
        assert!(answer(b" \n").is_err());
    }
}
