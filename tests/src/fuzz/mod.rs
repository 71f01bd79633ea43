//! A structured fuzzer: peers that say almost what honest peers say, to a king with its borders as they are; a king that
//! says almost what a king says, to dukes and queens.
//!
//! Messages are changed as trees of fields (`fields.rs`), with values that the king has told before, so that they get
//! past the first check. One that leads to an answer which was not seen before is kept, and changed further. It is
//! one loop without threads, and the same seed gives the same run.

mod fields;
mod kingdom;
mod others;
mod seeds;

use std::collections::HashSet;

use distwasm_proto::wire::{FromDuke, FromQueen};
use fastrand::Rng;
use prost::Message;

use kingdom::Kingdom;

/// Steps of an episode, after which the king is a new one.
const STEPS: usize = 600;

/// Messages that are worth changing further.
#[derive(Debug)]
pub struct Corpus {
    of_dukes: Vec<Vec<u8>>,
    of_queens: Vec<Vec<u8>>,
    answers: HashSet<String>,
}

/// How many messages of each side are kept at most.
const CORPUS_MAX: usize = 2000;

impl Default for Corpus {
    fn default() -> Corpus {
        let of_dukes = seeds::of_duke().into_iter().map(|word| FromDuke { words: vec![word.into()] }.encode_to_vec());
        let of_queens =
            seeds::of_queen().into_iter().map(|word| FromQueen { words: vec![word.into()] }.encode_to_vec());
        Corpus { of_dukes: of_dukes.collect(), of_queens: of_queens.collect(), answers: HashSet::new() }
    }
}

impl Corpus {
    fn pick(&self, is_duke: bool, rng: &mut Rng) -> Vec<u8> {
        let messages = if is_duke { &self.of_dukes } else { &self.of_queens };
        messages[rng.usize(..messages.len())].clone()
    }

    /// Keeps a message if its answer is a new one. When there are many, it replaces another.
    fn learn(&mut self, is_duke: bool, bytes: &[u8], answer: &str, rng: &mut Rng) {
        let template: String = answer.chars().filter(char::is_ascii_alphabetic).take(80).collect();
        let messages = if is_duke { &mut self.of_dukes } else { &mut self.of_queens };
        if bytes.len() >= 10_000 || !self.answers.insert(format!("{is_duke} {template}")) {
            return;
        }
        if messages.len() < CORPUS_MAX {
            messages.push(bytes.to_vec());
        } else {
            let place = rng.usize(..CORPUS_MAX);
            messages[place] = bytes.to_vec();
        }
    }

    /// How many different answers there were.
    pub fn answers(&self) -> usize {
        self.answers.len()
    }
}

/// One episode: a king from its beginning, and some words to dukes and queens.
///
/// # Panics
///
/// When something breaks. The message names it; the same corpus and seed lead there again.
pub fn episode(corpus: &mut Corpus, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    others::episode(&mut rng);
    let mut kingdom = Kingdom::new(corpus, rng);
    for _ in 0..STEPS {
        kingdom.step();
    }
    kingdom.end();
}
