//! The tasks of the cases' guests in native code, without WebAssembly.

use anyhow::{Context, Result};

use crate::{options::Task, search};

/// Answers one input.
///
/// # Errors
///
/// When the input is not valid for the task.
pub fn answer(task: Task, input: &[u8]) -> Result<Vec<u8>> {
    Ok(match task {
        Task::Echo => input.to_vec(),
        Task::Upper => input.to_ascii_uppercase(),
        Task::Sum => {
            let text = std::str::from_utf8(input)?;
            let (left, right) = text.split_once('+').context("no sum")?;
            let sum = left.trim().parse::<i64>()?.checked_add(right.trim().parse()?).context("too large")?;
            format!("{sum}\n").into_bytes()
        }
        Task::Hash => {
            let text = std::str::from_utf8(input)?;
            let (a, zeros) = text.trim().split_once(' ').context("no two numbers")?;
            format!("{}\n", search::find(a.parse()?, zeros.parse()?)).into_bytes()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_the_guests() {
        let answer = |task, input: &str| String::from_utf8(answer(task, input.as_bytes()).unwrap()).unwrap();
        assert_eq!(answer(Task::Sum, "12 + -3\n"), "9\n");
        assert_eq!(answer(Task::Upper, "aBc1ä"), "ABC1ä");
        assert_eq!(answer(Task::Hash, "0 3"), "2832\n");
    }
}
