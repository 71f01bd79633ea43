//! When a run is stopped before its end: too many failures, or too much time.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use distwasm_proto::{limits::FAILURES_JUDGED_FROM, time::Time};

/// The limits of a run. None is set by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunLimits {
    /// How many units may fail.
    pub failures: Option<FailureLimit>,
    /// When the run ends, even if units are left.
    pub ends_at: Option<Time>,
}

/// How many units may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureLimit {
    /// This many units.
    Count(u64),
    /// This many millionths of the finished units, once [`FAILURES_JUDGED_FROM`] are finished.
    Share(u32),
}

/// The forms of a failure limit.
const FAILURE_LIMIT: &str = "a number such as 10, or a percentage from 0% to 100% such as 5% or 0.5%";

const MILLIONTHS_IN_PERCENT: f64 = 10_000.0;

impl FailureLimit {
    /// Whether this many failures are too many.
    pub fn is_exceeded(self, failed: u64, finished: u64) -> bool {
        match self {
            FailureLimit::Count(most) => failed > most,
            FailureLimit::Share(millionths) => {
                let allowed = u128::from(finished) * u128::from(millionths);
                finished >= FAILURES_JUDGED_FROM && u128::from(failed) * 1_000_000 > allowed
            }
        }
    }
}

impl FromStr for FailureLimit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<FailureLimit, Self::Err> {
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().map(FailureLimit::Count).map_err(|_| FAILURE_LIMIT);
        };
        let percent: f64 = percent.parse().map_err(|_| FAILURE_LIMIT)?;
        // NaN is not within the range, either.
        if !(0.0..=100.0).contains(&percent) {
            return Err(FAILURE_LIMIT);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to a million")]
        Ok(FailureLimit::Share((percent * MILLIONTHS_IN_PERCENT).round() as u32))
    }
}

impl Display for FailureLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureLimit::Count(most) => write!(f, "{most}"),
            FailureLimit::Share(millionths) => write!(f, "{}%", f64::from(*millionths) / MILLIONTHS_IN_PERCENT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_percentage() {
        for text in ["0", "10", "5%", "0.5%", "0%", "100%"] {
            assert_eq!(text.parse::<FailureLimit>().unwrap().to_string(), text);
        }
        for text in ["", "%", "-1", "-1%", "101%", "NaN%", "inf%", "1e3", "ten"] {
            assert!(text.parse::<FailureLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_judged_when_enough_is_finished() {
        let share: FailureLimit = "5%".parse().unwrap();
        assert!(!share.is_exceeded(99, 99));
        assert!(!share.is_exceeded(5, 100));
        assert!(share.is_exceeded(6, 100));
        assert!(!share.is_exceeded(u64::MAX / 20, u64::MAX));
        assert!(FailureLimit::Count(0).is_exceeded(1, 1));
        assert!(!FailureLimit::Count(1).is_exceeded(1, 1));
    }
}
