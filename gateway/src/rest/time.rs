//! Times as Gaia's API writes them.

use chrono::{DateTime, SecondsFormat};

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
}
