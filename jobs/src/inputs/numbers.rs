//! The numbers of units, and the link over which they go: what is decided when inputs are sent. It is pure; the readers
//! share it behind a lock (`post.rs`).

use distwasm_proto::ids::UnitNo;

use super::Input;

/// The number of one of the queen's links; the first is 1.
pub type LinkNo = u64;

/// Whether units may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// There is no link at present: readers wait.
    #[default]
    Closed,
    /// Over this link.
    Open(LinkNo),
    /// The run is over: nothing is sent any more.
    Over,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Numbers {
    gate: Gate,
    units: u64,
}

impl Numbers {
    /// Whether units may be sent.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Units go over this link from now on.
    pub fn open(&mut self, link: LinkNo) {
        if self.gate != Gate::Over {
            self.gate = Gate::Open(link);
        }
    }

    /// The link broke: no input gets a number until there is another.
    pub fn close(&mut self) {
        if self.gate != Gate::Over {
            self.gate = Gate::Closed;
        }
    }

    /// The run is over.
    pub fn end(&mut self) {
        self.gate = Gate::Over;
    }

    /// Whether words that are meant for this link may go out. Words for an earlier link are void: the queen has told
    /// the king since then what it lacks.
    pub fn carries(&self, link: LinkNo) -> bool {
        self.gate == Gate::Open(link)
    }

    /// Gives inputs the next numbers, without gaps and in order. Call it when the gate is open, tell the reactor
    /// ([`super::Sent::Units`]), and then the king.
    pub fn number(&mut self, inputs: Vec<Input>) -> Vec<(UnitNo, Input)> {
        let first = self.units;
        self.units += inputs.len() as u64;
        (first..).map(UnitNo).zip(inputs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps_from_link_to_link() {
        let mut numbers = Numbers::default();
        let number = |numbers: &mut Numbers, count| -> Vec<u64> {
            let inputs = vec![Input::new("a", 1); count];
            numbers.number(inputs).into_iter().map(|(unit, _)| unit.0).collect()
        };
        numbers.open(1);
        assert_eq!(number(&mut numbers, 2), [0, 1]);
        numbers.close();
        numbers.open(2);
        assert_eq!(number(&mut numbers, 1), [2]);
    }

    #[test]
    fn words_for_an_earlier_link_are_void() {
        let mut numbers = Numbers::default();
        assert!(!numbers.carries(1));
        numbers.open(1);
        assert!(numbers.carries(1));
        numbers.close();
        assert!(!numbers.carries(1));
        numbers.open(2);
        assert!(!numbers.carries(1) && numbers.carries(2));
        numbers.end();
        numbers.open(3);
        assert_eq!(numbers.gate(), Gate::Over);
    }
}
