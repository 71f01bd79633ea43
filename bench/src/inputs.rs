//! Folders of inputs, and the check of their outputs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{native, options::Task};

/// A folder of inputs for one task.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The folder.
    pub folder: PathBuf,
    /// The number of inputs.
    pub units: u64,
    task: Task,
    /// How many of them, evenly spread, begin with `!` and are expected to fail.
    failing: u64,
}

impl Inputs {
    /// Makes inputs. `content` returns the content of each by its number.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn make(folder: PathBuf, units: u64, task: Task, content: impl Fn(u64) -> Vec<u8>) -> Result<Inputs> {
        fs::create_dir_all(&folder)?;
        for number in 0..units {
            let path = folder.join(name(number));
            fs::write(&path, content(number)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Inputs { folder, units, task, failing: 0 })
    }

    /// Sums of about 15 bytes.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn sums(folder: PathBuf, units: u64) -> Result<Inputs> {
        Inputs::make(folder, units, Task::Sum, |number| sum(number).into_bytes())
    }

    /// Sums of about 15 bytes, which are to be echoed.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn echoed(folder: PathBuf, units: u64) -> Result<Inputs> {
        Inputs::make(folder, units, Task::Echo, |number| sum(number).into_bytes())
    }

    /// Makes one in `every` inputs fail: it begins with `!`.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn with_failures(mut self, every: u64) -> Result<Inputs> {
        for number in (0..self.units).step_by(usize::try_from(every)?) {
            fs::write(self.folder.join(name(number)), format!("!{}", sum(number)))?;
            self.failing += 1;
        }
        Ok(self)
    }

    /// The first `units` of them in another folder, for contestants that are too slow for all.
    ///
    /// # Errors
    ///
    /// When they cannot be linked.
    pub fn first(&self, units: u64, folder: PathBuf) -> Result<Inputs> {
        fs::create_dir_all(&folder)?;
        let units = units.min(self.units);
        for number in 0..units {
            fs::hard_link(self.folder.join(name(number)), folder.join(name(number)))?;
        }
        Ok(Inputs { folder, units, ..self.clone() })
    }

    /// Checks that each input that does not fail has an output, and that a sample of the outputs is right.
    ///
    /// # Errors
    ///
    /// When the check fails. Says what is wrong.
    pub fn check(&self, output: &Path) -> Result<()> {
        let mut outputs = 0;
        for entry in fs::read_dir(output).with_context(|| format!("no {}", output.display()))? {
            let name = entry?.file_name();
            if name == ".distwasm" {
                // The record of the run.
                continue;
            }
            ensure!(!name.as_encoded_bytes().starts_with(b"."), "an unfinished output was left: {}", name.display());
            outputs += 1;
        }
        let wanted = self.units - self.failing;
        ensure!(outputs == wanted, "{outputs} outputs where {wanted} should be");
        for number in (0..self.units).step_by(usize::try_from(self.units / 50 + 1)?).chain(self.units.checked_sub(1)) {
            let input = fs::read(self.folder.join(name(number)))?;
            if input.starts_with(b"!") {
                continue;
            }
            let got = fs::read(output.join(name(number)))?;
            ensure!(got == native::answer(self.task, &input)?, "the output of {} is wrong", name(number));
        }
        Ok(())
    }
}

/// The name of the input with this number.
pub fn name(number: u64) -> String {
    format!("unit-{number:07}")
}

/// A sum of about 15 bytes.
pub fn sum(number: u64) -> String {
    let (left, right) = summands(number);
    format!("{left} + {right}\n")
}

/// The two numbers to add in the input with this number.
pub fn summands(number: u64) -> (u64, u64) {
    (10_000 + number % 32_768, 10_000 + number * 7919 % 32_768)
}

/// Text of this length with letters of both cases, different for each number.
pub fn text(number: u64, bytes: usize) -> Vec<u8> {
    let line = b"The quick brown fox jumps over the Lazy Dog, 0123456789; and so on.\n";
    let mut content = format!("unit {number}: ").into_bytes();
    content.truncate(bytes);
    content.extend(line.iter().cycle().take(bytes - content.len()));
    content
}
