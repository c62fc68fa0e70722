//! Moments as people type them: a position, a time, or how long ago.

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, Local, NaiveDate, NaiveDateTime, SecondsFormat, TimeZone, Utc};

/// What the server understands: a position stays one, any time becomes RFC 3339.
pub(super) fn for_server(text: &str, now: DateTime<Utc>) -> Result<String> {
    if text.parse::<u64>().is_ok() {
        return Ok(text.to_owned());
    }
    Ok(time(text, now)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// What [`typed`] takes, or `90s`, `15m`, `2h`, `3d` (ago).
fn time(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    if let Some(ago) = ago(text) {
        return now.checked_sub_signed(ago).with_context(|| format!("`{text}` is too long ago"));
    }
    typed(text)?.with_context(|| {
        format!(
            "`{text}` is no moment: give a position, a time such as 2026-01-31T12:00:00Z or \
             \"2026-01-31 12:00\", or how long ago, such as 15m, 2h or 3d"
        )
    })
}

/// `2026-01-31T12:00:00Z`, and `2026-01-31 12:00` and `2026-01-31` in local time; `None`: none of these.
pub(super) fn typed(text: &str) -> Result<Option<DateTime<Utc>>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Some(time.to_utc()));
    }
    let formats = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];
    let local = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let local = local.or_else(|| text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0));
    let Some(local) = local else { return Ok(None) };
    let time = Local.from_local_datetime(&local).earliest();
    let time = time.with_context(|| format!("`{text}` did not exist: the clocks were changed"))?;
    Ok(Some(time.to_utc()))
}

fn ago(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count = digits.parse::<u32>().ok()?.into();
    match unit {
        "s" => Some(Duration::seconds(count)),
        "m" => Some(Duration::minutes(count)),
        "h" => Some(Duration::hours(count)),
        "d" => Some(Duration::days(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_position_a_time_or_how_long_ago() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let read = |text| for_server(text, now);
        assert_eq!(read("17").unwrap(), "17");
        assert_eq!(read("2026-01-31T12:00:00+01:00").unwrap(), "2026-01-31T11:00:00.000Z");
        assert_eq!(read("90s").unwrap(), "1970-01-12T13:45:10.000Z");
        assert_eq!(read("2h").unwrap(), "1970-01-12T11:46:40.000Z");
        let noon = NaiveDate::from_ymd_opt(2026, 1, 31).unwrap().and_hms_opt(12, 0, 0).unwrap();
        let noon = Local.from_local_datetime(&noon).earliest().unwrap().to_utc();
        let noon = noon.to_rfc3339_opts(SecondsFormat::Millis, true);
        assert_eq!(read("2026-01-31 12:00").unwrap(), noon);
        for wrong in ["", "m", "-1", "tomorrow", "1w", "2026-02-30", "é"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}` is no moment")), "{error}");
        }
    }
}
