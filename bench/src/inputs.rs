//! Folders of inputs, and the check of their outputs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
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

    /// One input of this size, which is to be echoed. It is a hole but for its beginning, so that it takes no room.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn hole(folder: PathBuf, bytes: u64) -> Result<Inputs> {
        let inputs = Inputs::make(folder, 1, Task::Echo, |number| sum(number).into_bytes())?;
        OpenOptions::new().write(true).open(inputs.folder.join(name(0)))?.set_len(bytes)?;
        Ok(inputs)
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
            let (input, output) = (self.folder.join(name(number)), output.join(name(number)));
            let is_right = match self.task {
                Task::Echo => starts_with_a_failure(&input)? || have_equal_bytes(&input, &output)?,
                task => fs::read(&output)? == native::answer(task, &fs::read(&input)?)?,
            };
            ensure!(is_right, "the output of {} is wrong", name(number));
        }
        Ok(())
    }
}

fn starts_with_a_failure(path: &Path) -> io::Result<bool> {
    let mut first = Vec::new();
    File::open(path)?.take(1).read_to_end(&mut first)?;
    Ok(first == b"!")
}

/// Compares two files, which may be larger than memory.
fn have_equal_bytes(left: &Path, right: &Path) -> io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut from_left, mut from_right) = (Vec::new(), Vec::new());
    loop {
        from_left.clear();
        from_right.clear();
        left.by_ref().take(COMPARED_BYTES).read_to_end(&mut from_left)?;
        right.by_ref().take(COMPARED_BYTES).read_to_end(&mut from_right)?;
        if from_left != from_right || from_left.is_empty() {
            return Ok(from_left == from_right);
        }
    }
}

const COMPARED_BYTES: u64 = 1 << 20;

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
