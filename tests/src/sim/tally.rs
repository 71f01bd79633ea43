//! Counts events, to show that a run of seeds has met every kind of them.

/// Defines the counts, and how two tallies are added.
macro_rules! tally {
    ($($count:ident),+ $(,)?) => {
        /// How often each thing happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names say it")]
        pub struct Tally {
            $(pub $count: u64,)+
        }

        impl Tally {
            /// Every count with its name.
            pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($count), self.$count)),+].into_iter()
            }

            /// Adds another tally to this one.
            pub fn add(&mut self, other: Tally) {
                $(self.$count += other.$count;)+
            }
        }
    };
}

tally! {
    events,
    verdicts,
    failed,
    dukes_lost,
    dukes_drained,
    dukes_out_of_time,
    queens_left,
    queens_killed,
    queens_gave_up,
    outputs_failed,
    results_written,
    results_named,
    queens_stopped,
    peasants_died,
    inputs_streamed,
    parts_sent,
    parts_broken,
    parts_passed,
    results_kept,
    files_needed,
    parts_read,
    parts_unreadable,
    outputs_offered,
    outputs_offered_again,
    outputs_passed,
    outputs_given_up,
    outputs_in_parts,
    jobs_unfit,
    compilers_stopped,
    compilers_busy,
    slots_asked_back,
    slots_taken,
    units_preempted,
    offers,
    kings_fallen,
    dukes_cut_off,
    queens_cut_off,
    attempts_kept,
    attempts_forgotten,
    jobs_abandoned,
    jobs_cancelled,
    halts,
    words_batched,
    queens_stalled,
    waits_for_room,
    had_no_room,
    lies,
    dukes_expelled,
    queens_expelled,
}
