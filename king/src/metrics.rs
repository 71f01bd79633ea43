//! The view in Prometheus' text format.

use std::fmt::{self, Write};

use crate::view::View;

impl View {
    /// The figures in Prometheus' text format, version 0.0.4, with how many requests were refused.
    pub(crate) fn to_text(&self, refusals: u64) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _written = self.write(&mut text, refusals);
        text
    }

    fn write(&self, out: &mut String, refusals: u64) -> fmt::Result {
        let View { census, totals, input_bytes, program_bytes, share_bytes, .. } = self;
        let gauges = [
            ("distwasm_jobs", "Jobs that are open.", &[("", census.jobs as u64)][..]),
            ("distwasm_dukes", "Dukes that are connected.", &[("", census.dukes as u64)]),
            (
                "distwasm_slots",
                "Slots of all dukes, and how many of them serve a job.",
                &[("{state=\"all\"}", census.slots), ("{state=\"granted\"}", census.slots_granted)],
            ),
            (
                "distwasm_units",
                "Units without a verdict, by state.",
                &[("{state=\"waiting\"}", census.units_waiting), ("{state=\"running\"}", census.units_running)],
            ),
            (
                "distwasm_bytes_in_flight",
                "Bytes that the king holds, by kind.",
                &[
                    ("{kind=\"inputs\"}", *input_bytes),
                    ("{kind=\"results\"}", census.results_bytes),
                    ("{kind=\"programs\"}", *program_bytes),
                    ("{kind=\"shares\"}", *share_bytes),
                ],
            ),
        ];
        let counters = [
            ("distwasm_jobs_total", "Jobs that were opened.", &[("", totals.jobs)][..]),
            ("distwasm_units_added_total", "Units that arrived.", &[("", totals.units)]),
            (
                "distwasm_verdicts_total",
                "Units that got their verdict.",
                &[("{verdict=\"done\"}", totals.units_done), ("{verdict=\"failed\"}", totals.units_failed)],
            ),
            ("distwasm_attempts_total", "Attempts that were handed to dukes.", &[("", totals.attempts)]),
            (
                "distwasm_bytes_total",
                "Bytes that passed through the king.",
                &[("{kind=\"inputs\"}", totals.input_bytes), ("{kind=\"results\"}", totals.result_bytes)],
            ),
            ("distwasm_refusals_total", "Requests that were refused for want of a fitting token.", &[("", refusals)]),
        ];
        for (kind, metrics) in [("gauge", &gauges[..]), ("counter", &counters[..])] {
            for (name, help, values) in metrics {
                writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
                for (label, value) in *values {
                    writeln!(out, "{name}{label} {value}")?;
                }
            }
        }
        Ok(())
    }
}
