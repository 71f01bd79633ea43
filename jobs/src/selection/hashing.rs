//! Shards and samples: a name's hash decides, so that the choice stays the same from run to run and from machine to
//! machine, and hardly changes when inputs come and go.

use std::{collections::BinaryHeap, os::unix::ffi::OsStrExt, path::Path, str::FromStr};

use distwasm_proto::digest::Digest;

/// The first 8 bytes of the SHA-256 of these bytes, as a big-endian number.
fn hash(chunks: &[&[u8]]) -> u64 {
    Digest::of(chunks.iter().copied()).prefix()
}

/// One of several parts of the inputs. A name belongs to shard `hash % of + 1`, where the hash is the first 8 bytes of
/// the SHA-256 of its path below the input folder, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 1.
    index: u64,
    /// How many there are.
    of: u64,
}

impl Shard {
    /// Shard `index` of `of`; `None` if there is no such shard.
    pub fn new(index: u64, of: u64) -> Option<Shard> {
        (index >= 1 && index <= of).then_some(Shard { index, of })
    }

    /// Whether this input belongs to it.
    pub fn has(self, path: &Path) -> bool {
        hash(&[path.as_os_str().as_bytes()]) % self.of == self.index - 1
    }

    /// A word for file names.
    pub fn word(self) -> String {
        format!("shard-{}-of-{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let form = "it must be I/N, such as 2/3 for the second of three shards";
        let (index, of) = text.split_once('/').ok_or(form)?;
        let number =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        match (number(index), number(of)) {
            (Some(index), Some(of)) if of > 0 => {
                Shard::new(index, of).ok_or_else(|| format!("there is no shard {index} of {of}: {form}"))
            }
            _ => Err(form.to_owned()),
        }
    }
}

/// A sample of the inputs: those with the smallest hashes of the seed and the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    seed: u64,
    /// The largest hash of an input in the sample; `None` for a sample without inputs.
    largest: Option<u64>,
}

impl Sample {
    /// Whether this input belongs to it.
    pub fn has(self, path: &Path) -> bool {
        self.largest.is_some_and(|largest| sample_hash(self.seed, path) <= largest)
    }
}

fn sample_hash(seed: u64, path: &Path) -> u64 {
    hash(&[&seed.to_be_bytes(), path.as_os_str().as_bytes()])
}

/// Draws a sample. Takes 8 bytes for each input in the sample.
#[derive(Debug)]
pub struct SampleDraw {
    size: usize,
    seed: u64,
    smallest: BinaryHeap<u64>,
}

impl SampleDraw {
    /// For a sample of this size.
    pub fn new(size: u64, seed: u64) -> SampleDraw {
        SampleDraw { size: usize::try_from(size).unwrap_or(usize::MAX), seed, smallest: BinaryHeap::new() }
    }

    /// There is this input.
    pub fn add(&mut self, path: &Path) {
        let hash = sample_hash(self.seed, path);
        if self.smallest.len() < self.size {
            self.smallest.push(hash);
        } else if let Some(mut largest) = self.smallest.peek_mut()
            && hash < *largest
        {
            *largest = hash;
        }
    }

    /// The sample of the inputs that there are.
    pub fn finish(self) -> Sample {
        Sample { seed: self.seed, largest: self.smallest.peek().copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        (0..3000).map(|number| format!("d{}/{number}", number % 7)).collect()
    }

    #[test]
    fn each_input_is_in_one_shard_and_shards_are_of_like_size() {
        let mut sizes = [0; 3];
        for name in names() {
            let shards: Vec<u64> =
                (1..=3).filter(|index| Shard { index: *index, of: 3 }.has(Path::new(&name))).collect();
            let [shard] = shards[..] else { panic!("{name}: {shards:?}") };
            sizes[shard as usize - 1] += 1;
        }
        assert!(sizes.iter().all(|size| (900..1100).contains(size)), "{sizes:?}");
        // The rule is documented, so that others can follow it: `printf abc | sha256sum` begins with this.
        assert_eq!(hash(&[b"a", b"bc"]), 0xba78_16bf_8f01_cfea);
    }

    #[test]
    fn a_shard_is_a_number_of_a_number() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, of: 3 }));
        for text in ["", "3", "0/3", "4/3", "1/0", "+1/2", "1/2/3", "a/b", "-1/2", "1/", "/1"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        assert!("3/2".parse::<Shard>().unwrap_err().contains("there is no shard 3 of 2"));
    }

    #[test]
    fn a_sample_has_its_size_and_is_the_same_in_each_run() {
        let sample = |names: &[String], size, seed| {
            let mut draw = SampleDraw::new(size, seed);
            names.iter().for_each(|name| draw.add(Path::new(name)));
            let sample = draw.finish();
            names.iter().filter(|name| sample.has(Path::new(name))).cloned().collect::<Vec<String>>()
        };
        let names = names();
        assert_eq!(sample(&names, 100, 0).len(), 100);
        assert_eq!(sample(&names, 100, 0), sample(&names, 100, 0));
        assert_ne!(sample(&names, 100, 0), sample(&names, 100, 1));
        assert_eq!(sample(&names, 5000, 0).len(), names.len());
        assert!(sample(&[], 5, 0).is_empty());
        let fewer: Vec<String> = names.iter().skip(30).cloned().collect();
        let (before, after) = (sample(&names, 100, 0), sample(&fewer, 100, 0));
        assert!(after.iter().filter(|name| before.contains(name)).count() > 90, "it hardly changes");
    }
}
