//! Times as Gaia's API writes them.

use chrono::{DateTime, SecondsFormat};
use serde::Deserialize;

use crate::{error::ApiError, limits};

/// A time as clients send it.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Time {
    /// None, or 0.
    #[default]
    Never,
    /// Milliseconds since the epoch.
    Millis(u64),
    /// RFC 3339.
    Text(String),
}

impl Time {
    /// In milliseconds since the epoch; 0: none.
    pub(super) fn read(&self, field: &str) -> Result<u64, ApiError> {
        match self {
            Self::Never => Ok(0),
            Self::Millis(millis) => Ok(*millis),
            Self::Text(text) if text.is_empty() => Ok(0),
            Self::Text(text) => millis(field, text),
        }
    }
}

/// RFC 3339 in milliseconds since the epoch.
pub(super) fn millis(field: &str, text: &str) -> Result<u64, ApiError> {
    let time = DateTime::parse_from_rfc3339(text).ok();
    time.and_then(|time| u64::try_from(time.timestamp_millis()).ok()).ok_or_else(|| {
        let text = limits::cut(text.to_owned(), 60);
        ApiError::bad_request(format!(
            "`{field}` is `{text}`, which is no time: write it like 2026-11-24T10:00:00Z"
        ))
    })
}

/// RFC 3339; what has not happened yet is Go's zero time, as Gaia's clients expect it.
pub(super) fn rfc3339(millis: u64) -> String {
    const NEVER: &str = "0001-01-01T00:00:00Z";
    if millis == 0 {
        return NEVER.to_owned();
    }
    let time = i64::try_from(millis).ok().and_then(DateTime::from_timestamp_millis);
    time.map_or(NEVER.to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_happened_is_gos_zero_time() {
        assert_eq!(rfc3339(0), "0001-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_500), "1970-01-01T00:00:01.500Z");
        assert_eq!(rfc3339(u64::MAX), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn times_are_read_as_text_or_number() {
        let read = |json: &str| serde_json::from_str::<Time>(json).unwrap().read("until");
        assert_eq!(read("null").unwrap(), 0);
        assert_eq!(read("1500").unwrap(), 1_500);
        assert_eq!(read("\"1970-01-01T01:00:01.5+01:00\"").unwrap(), 1_500);
        for bad in ["\"tomorrow\"", "\"1969-12-31T23:59:59Z\"", "\"2026-11-24\""] {
            assert!(read(bad).unwrap_err().message().starts_with("`until` is `"), "{bad}");
        }
    }
}
