//! Lengths of time as people type them: `90s`, `15m`, `24h`, `30d`.

use std::{fmt, str::FromStr, time::Duration};

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

/// A text that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a number and a unit: 90s, 15m, 24h or 30d")]
pub struct ParseSpanError;

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

impl Span {
    #[must_use]
    pub const fn hours(hours: u64) -> Self {
        Self(Duration::from_hours(hours))
    }

    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let text = text.trim();
        let (number, seconds) = UNITS
            .iter()
            .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
            .ok_or(ParseSpanError)?;
        let number: u64 = number.trim().parse().map_err(|_| ParseSpanError)?;
        let seconds = number.checked_mul(*seconds).filter(|seconds| *seconds > 0);
        Ok(Self(Duration::from_secs(seconds.ok_or(ParseSpanError)?)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, seconds)| self.as_secs().is_multiple_of(*seconds));
        let (unit, seconds) = whole.expect("every number is a multiple of one");
        write!(f, "{}{unit}", self.as_secs() / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_its_own_text_and_nothing_without_a_unit() {
        for text in ["90s", "15m", "24h", "30d"] {
            assert_eq!(text.parse::<Span>().unwrap().as_secs() % 5, 0, "{text}");
        }
        assert_eq!("86400s".parse::<Span>().unwrap().to_string(), "1d");
        for wrong in ["", "1", "h", "-1h", "0s", "1.5h", "1w", "99999999999999999999d", "1hh"] {
            wrong.parse::<Span>().unwrap_err();
        }
    }
}
