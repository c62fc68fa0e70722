//! Places in the log, as queries name them: a position, or a moment.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveTime};
use eventlog::{Log, LogError};
use ids::Timestamp;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Position(u64),
    Time(Timestamp),
}

#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is neither a position nor a time: give a number, or a time such as 2026-01-31T12:00:00Z or 2026-01-31"
)]
pub(super) struct NotAPlace(String);

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        // A plus sign that was not escaped arrives as a space.
        let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+"))
            .map(|time| time.timestamp_millis())
            .or_else(|_| {
                text.parse::<NaiveDate>()
                    .map(|day| day.and_time(NaiveTime::MIN).and_utc().timestamp_millis())
            });
        let millis = time.ok().and_then(|time| u64::try_from(time).ok());
        millis
            .map(|millis| Self::Time(Timestamp(millis)))
            .ok_or_else(|| NotAPlace(crate::limits::cut(text.to_owned(), 60)))
    }
}

impl Place {
    /// The first position that is not before this place.
    pub(super) async fn from(self, log: &Log) -> Result<u64, LogError> {
        match self {
            Self::Position(position) => Ok(position),
            Self::Time(Timestamp(0)) => Ok(0),
            Self::Time(Timestamp(time)) => log.position_after(Timestamp(time - 1)).await,
        }
    }

    /// The first position behind this place.
    pub(super) async fn end(self, log: &Log) -> Result<u64, LogError> {
        match self {
            Self::Position(position) => Ok(position.saturating_add(1)),
            Self::Time(time) => log.position_after(time).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_position_or_a_moment() {
        let time = |text: &str| match text.parse() {
            Ok(Place::Time(time)) => Some(time.0),
            _ => None,
        };
        assert_eq!("17".parse::<Place>().unwrap(), Place::Position(17));
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Some(1_500));
        assert_eq!(time("1970-01-01T01:00:01+01:00"), Some(1_000));
        assert_eq!(time("1970-01-01T01:00:01 01:00"), Some(1_000));
        assert_eq!(time("1970-01-02"), Some(86_400_000));
        for wrong in ["", "-1", "yesterday", "1969-12-31", "2026-13-01", "18446744073709551616"] {
            let error = wrong.parse::<Place>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}` is neither")), "{error}");
        }
    }
}
