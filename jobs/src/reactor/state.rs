//! What the king says of the state of the job, for people.

use distwasm_proto::time::{Time, micros};

use super::Reactor;
use crate::{
    king_link::{Compilation, JobState, LongestUnit},
    report::{Compiling, LongestInput, Reporter},
    submission::Event,
};

impl<R: Reporter> Reactor<R> {
    pub(super) fn on_job_state(&mut self, state: JobState) {
        let JobState { slots, dukes, waits_for, longest, window_bytes, compiling } = state;
        self.events.push(Event::WindowChanged { bytes: window_bytes });
        self.counts.slots = slots;
        self.job.dukes = dukes;
        self.reporter.waits(&waits_for);
        self.on_longest(longest);
        self.on_compilation(compiling);
    }

    pub(super) fn on_longest(&mut self, longest: Option<LongestUnit>) {
        let named = longest.and_then(|longest| {
            // Its verdict may have arrived meanwhile.
            let input = self.open.get(&longest.unit)?;
            let since = Time(self.now.0.saturating_sub(micros(longest.running)));
            Some((longest.unit, LongestInput { path: input.path.clone(), duke: longest.duke, since }))
        });
        self.longest = named.as_ref().map(|(unit, _)| *unit);
        self.reporter.longest(named.map(|(_, longest)| longest));
    }

    pub(super) fn on_compilation(&mut self, compiling: Option<Compilation>) {
        let compiling = compiling.map(|Compilation { duke, running }| {
            let since = Time(self.now.0.saturating_sub(micros(running)));
            Compiling { duke, since }
        });
        self.reporter.compiling(compiling);
    }
}
