//! Streamed results, as the reactor sees them: asks the king for parts, and has the writers store them.

use super::{Reactor, arriving::Ask};
use crate::{
    king_link::{LinkError, OutputOffered, words},
    outputs::WriteOrder,
    reactor::Command,
    report::Reporter,
};

impl<R: Reporter> Reactor<R> {
    /// The same reactor, of which no more than this much of each streamed result is on its way.
    pub fn with_window(mut self, bytes: u64) -> Reactor<R> {
        self.arriving.set_window(bytes);
        self
    }

    /// The king has a result that comes in parts.
    pub(super) fn on_output_offered(&mut self, offered: OutputOffered) {
        if !self.open.contains_key(&offered.unit) {
            let why = LinkError::Nonsense("it offers the result of a unit that does not wait for one");
            return self.lose_king(why.into());
        }
        self.arriving.offer(offered);
    }

    /// Has parts written that have come, and asks for more.
    pub(super) fn go_on_with_results(&mut self) {
        if self.end.is_some() {
            return;
        }
        let parts = self.arriving.next_parts().into_iter();
        let orders: Vec<WriteOrder> =
            parts.filter_map(|(unit, parts)| Some(WriteOrder::Parts(self.open.get(&unit)?.clone(), parts))).collect();
        if !orders.is_empty() {
            self.commands.push(Command::Write(orders));
        }
        for Ask { transfer, from, until, gives_up } in self.arriving.ask() {
            self.commands.push(Command::Say(words::output_wanted(transfer, from, until, gives_up)));
        }
    }
}
