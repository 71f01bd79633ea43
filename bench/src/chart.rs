//! A small bar chart as SVG: wall times as multiples of the reference loop's, with their goals.

use std::fmt::Write as _;

use crate::{
    figures::digits,
    report::{Bound, Goal},
};

const LEFT: f64 = 130.0;
const WIDTH: f64 = 480.0;
const ROW: f64 = 26.0;
const TOP: f64 = 40.0;

/// One bar for each goal; a line across it shows the goal itself.
pub fn bars(goals: &[&Goal]) -> String {
    let bound = |goal: &Goal| match goal.bound {
        Bound::AtMost(bound) | Bound::AtLeast(bound) => bound,
    };
    let longest = goals.iter().map(|goal| goal.measured.max(bound(goal))).fold(1.0, f64::max);
    let x = |ratio: f64| LEFT + WIDTH * ratio / longest;
    let height = TOP + ROW * goals.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\">Wall time as a multiple of the reference loop; the mark is the goal</text>\n",
        LEFT + WIDTH + 70.0
    );
    for (row, goal) in goals.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let fill = if goal.is_met() { "#4c8c5a" } else { "#b5533c" };
        let (end, mark) = (x(goal.measured), x(bound(goal)));
        let _infallible = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"16\" fill=\"{fill}\"/>\n\
             <line x1=\"{mark:.1}\" x2=\"{mark:.1}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"black\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            LEFT - 8.0,
            y + 13.0,
            goal.case,
            end - LEFT,
            y - 3.0,
            y + 19.0,
            end.max(mark) + 6.0,
            y + 13.0,
            digits(goal.measured),
        );
    }
    let one = x(1.0);
    let _infallible = writeln!(
        svg,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{:.0}\" y2=\"{height:.0}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>\n</svg>",
        TOP - 8.0
    );
    svg
}
