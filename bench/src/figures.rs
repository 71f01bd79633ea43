//! Medians, and numbers formatted for people.

/// Repeated measurements of one quantity.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// The median: the mean of the middle two if the count is even, and 0 without measurements.
    pub fn median(&self) -> f64 {
        let (Some(low), Some(high)) = (self.0.get(self.0.len().saturating_sub(1) / 2), self.0.get(self.0.len() / 2))
        else {
            return 0.0;
        };
        (low + high) / 2.0
    }

    /// The smallest one.
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    /// The largest one.
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }

    /// The number of measurements.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Figures {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Figures(figures)
    }
}

/// Formats a time in microseconds with a fitting unit.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{} µs", digits(us)),
        us if us < 1_000_000.0 => format!("{} ms", digits(us / 1000.0)),
        us => format!("{} s", digits(us / 1_000_000.0)),
    }
}

/// Three significant digits, more if the number is large.
pub fn digits(number: f64) -> String {
    if number < 0.0 {
        return format!("−{}", digits(-number));
    }
    match number {
        small if small < 10.0 => format!("{number:.2}"),
        middle if middle < 100.0 => format!("{number:.1}"),
        _ => count(number.round() as u64),
    }
}

/// A whole number in groups of three digits.
pub fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// Formats bytes with a fitting unit.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        few if few < 1 << 10 => format!("{few} B"),
        few if few < 1 << 20 => format!("{} KiB", digits(few as f64 / 1024.0)),
        many => format!("{} MiB", digits(many as f64 / f64::from(1 << 20))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let median = |figures: &[f64]| figures.iter().copied().collect::<Figures>().median();
        assert_eq!([median(&[]), median(&[3.0]), median(&[9.0, 1.0, 2.0])], [0.0, 3.0, 2.0]);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [time(12.345), time(12_345.0), time(1.5e6), time(345.6e6)],
            ["12.3 µs", "12.3 ms", "1.50 s", "346 s"]
        );
        assert_eq!([count(7), count(1234), count(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!([digits(-0.5), digits(-1234.0)], ["−0.50", "−1,234"]);
        assert_eq!([bytes(5), bytes(2048), bytes(3 << 20)], ["5 B", "2.00 KiB", "3.00 MiB"]);
    }
}
