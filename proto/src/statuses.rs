//! Which exit statuses of a guest are results: a list such as `0,1,10-20`.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

use crate::limits::STATUS_RANGES_MAX;

/// Exit statuses that are results. By default 0 alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses {
    ranges: Vec<RangeInclusive<i32>>,
}

impl Default for Statuses {
    fn default() -> Statuses {
        Statuses { ranges: vec![0..=0] }
    }
}

impl Statuses {
    /// Whether a guest that ends with this status has a result.
    pub fn contain(&self, status: i32) -> bool {
        self.ranges.iter().any(|range| range.contains(&status))
    }
}

/// Why a list of exit statuses cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StatusesError {
    #[error("{part:?} is neither an exit status nor two with a dash between them (such as 0,1,10-20)")]
    Part { part: String },
    #[error("there are more than {STATUS_RANGES_MAX} ranges of exit statuses")]
    TooMany,
}

impl FromStr for Statuses {
    type Err = StatusesError;

    fn from_str(text: &str) -> Result<Statuses, StatusesError> {
        let range = |part: &str| {
            let number = |text: &str| text.trim().parse::<u32>().ok().and_then(|number| i32::try_from(number).ok());
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = number(first).zip(number(last)).map(|(first, last)| first..=last);
            range.filter(|range| !range.is_empty()).ok_or_else(|| StatusesError::Part { part: part.to_owned() })
        };
        let ranges: Vec<_> = text.split(',').take(STATUS_RANGES_MAX + 1).map(range).collect::<Result<_, _>>()?;
        if ranges.len() > STATUS_RANGES_MAX { Err(StatusesError::TooMany) } else { Ok(Statuses { ranges }) }
    }
}

impl Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_and_written_as_ranges() {
        let statuses: Statuses = "0, 1,10-20".parse().unwrap();
        assert!([0, 1, 10, 15, 20].iter().all(|status| statuses.contain(*status)));
        assert!([-1, 2, 9, 21].iter().all(|status| !statuses.contain(*status)));
        assert_eq!((statuses.to_string().as_str(), Statuses::default().to_string().as_str()), ("0,1,10-20", "0"));
        assert!(!"1".parse::<Statuses>().unwrap().contain(0));
    }

    #[test]
    fn what_is_no_list_of_statuses_is_refused() {
        for text in ["", "a", "1,,2", "3-1", "-1", "1-", "4294967296", "1-2-3"] {
            assert!(text.parse::<Statuses>().is_err(), "{text:?}");
        }
        let most = vec!["1"; STATUS_RANGES_MAX].join(",");
        assert!(most.parse::<Statuses>().is_ok());
        assert_eq!(format!("{most},1").parse::<Statuses>(), Err(StatusesError::TooMany));
    }
}
