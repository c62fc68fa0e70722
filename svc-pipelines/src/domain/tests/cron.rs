//! When schedules come.

use chrono::DateTime;
use chrono_tz::{America::Sao_Paulo, Europe::Berlin, Tz, UTC};
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    Timestamp(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis() as u64)
}

fn times(cron: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(cron).unwrap();
    let first = cron.next(at(from), zone);
    let times = std::iter::successors(first, |time| cron.next(*time, zone)).take(count);
    let show = |time: Timestamp| {
        let time = DateTime::from_timestamp_millis(time.0 as i64).unwrap();
        time.with_timezone(&zone).format("%m-%dT%H:%M:%S%z").to_string()
    };
    times.map(show).collect()
}

/// Examples of robfig's own tests, and what Gaia's program did.
#[test]
fn the_next_time_is_robfigs() {
    for (from, cron, expected) in [
        ("2012-07-09T14:45:00Z", "0 0/15 * * *", "2012-07-09T15:00:00Z"),
        ("2012-07-09T14:59:00Z", "0 0/15 * * *", "2012-07-09T15:00:00Z"),
        ("2012-07-09T14:59:59Z", "0 0/15 * * *", "2012-07-09T15:00:00Z"),
        ("2012-07-09T15:45:00Z", "0 20-35/15 * * *", "2012-07-09T16:20:00Z"),
        ("2012-07-09T23:46:00Z", "0 */15 * * *", "2012-07-10T00:00:00Z"),
        ("2012-07-09T23:45:00Z", "0 20-35/15 * * *", "2012-07-10T00:20:00Z"),
        ("2012-07-09T23:35:51Z", "15/35 20-35/15 * * *", "2012-07-10T00:20:15Z"),
        ("2012-07-09T23:35:51Z", "15/35 20-35/15 1/2 * *", "2012-07-10T01:20:15Z"),
        ("2012-07-09T23:35:51Z", "15/35 20-35/15 10-12 * *", "2012-07-10T10:20:15Z"),
        ("2012-07-09T23:35:51Z", "15/35 20-35/15 1/2 */2 * *", "2012-07-11T01:20:15Z"),
        ("2012-07-09T23:35:51Z", "15/35 20-35/15 * 9-20 * *", "2012-07-10T00:20:15Z"),
        ("2012-07-09T23:35:51Z", "15/35 20-35/15 * 9-20 Jul *", "2012-07-10T00:20:15Z"),
        ("2012-07-09T23:35:00Z", "0 0 0 9 Apr-Oct ?", "2012-08-09T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 0 */5 Apr,Aug,Oct Mon", "2012-08-06T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 0 */5 Oct Mon", "2012-10-01T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 0 * Feb Mon", "2013-02-04T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 0 * Feb Mon/2", "2013-02-01T00:00:00Z"),
        ("2012-07-09T23:35:00Z", "0 0 0 29 Feb ?", "2016-02-29T00:00:00Z"),
        // Both kinds of days are given: either is enough.
        ("2012-07-15T00:00:00Z", "0 0 12 1,15 * Sun", "2012-07-15T12:00:00Z"),
        ("2012-07-16T00:00:00Z", "0 0 12 1,15 * Sun", "2012-07-22T12:00:00Z"),
        // Five fields begin with seconds too.
        ("2026-11-24T10:00:01Z", "*/5 * * * *", "2026-11-24T10:00:05Z"),
        ("2026-11-24T10:00:01.900Z", "@every 1h30m", "2026-11-24T11:30:01Z"),
        ("2026-11-24T10:00:01Z", "@every 100ms", "2026-11-24T10:00:02Z"),
        ("2026-11-24T10:00:01Z", "@midnight", "2026-11-25T00:00:00Z"),
        ("2026-11-24T10:00:01Z", "@weekly", "2026-11-29T00:00:00Z"),
        ("2026-11-24T10:00:01Z", "@annually", "2027-01-01T00:00:00Z"),
    ] {
        let next = Cron::parse(cron).unwrap().next(at(from), UTC);
        assert_eq!(next, Some(at(expected)), "{cron} after {from}");
    }
}

#[test]
fn clocks_that_are_put_forward_or_back_are_robfigs() {
    let night = "0 30 2 * * *";
    let spring = ["03-28T02:30:00+0100", "03-30T02:30:00+0200"];
    assert_eq!(times(night, Berlin, "2026-03-27T12:00:00Z", 2), spring);
    let autumn = ["10-25T02:30:00+0200", "10-25T02:30:00+0100", "10-26T02:30:00+0100"];
    assert_eq!(times(night, Berlin, "2026-10-24T12:00:00Z", 3), autumn);
    // A day that begins at one o'clock.
    let hourly = ["11-03T23:00:00-0300", "11-04T01:00:00-0200", "11-04T02:00:00-0200"];
    assert_eq!(times("@hourly", Sao_Paulo, "2018-11-04T01:30:00Z", 3), hourly);
}

#[test]
fn what_never_comes_is_found_out() {
    for never in ["0 0 0 30 2 *", "0 0 0 31 4,6,9,11 ?"] {
        assert_eq!(Cron::parse(never).unwrap().next(at("2026-11-24T10:00:00Z"), UTC), None);
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (bad, why) in [
        ("", "is empty: write six fields, or `@daily`"),
        ("* * * *", "`* * * *` has 4 fields: write second"),
        ("TZ=UTC 0 0 0 * * *", "`TZ=UTC 0 0 0 * * *` has 7 fields"),
        ("60 * * * *", "second: `60` is out of range: use 0 to 59"),
        ("0 0 0 0 * *", "day of month: `0` is out of range: use 1 to 31"),
        ("0 0 0 * * 7", "day of week: `7` is out of range: use 0 to 6"),
        ("0 0 0 L * *", "day of month: `L` is no day of month: use a number, `*`"),
        ("0 0 0 * foo *", "month: `foo` is no month: use a number or a name, jan to dec"),
        ("0 5-1 * * *", "minute: `5-1` ends before it begins"),
        ("0 1-2-3 * * *", "minute: `1-2-3` is no minute"),
        ("0 */0 * * *", "minute: `*/0` has a step of 0"),
        ("0 1/2/3 * * *", "minute: `1/2/3` is no minute"),
        ("0 -1 * * *", "minute: `-1` is no minute"),
        ("0 , * * *", "minute: `,` holds nothing"),
        ("@reboot", "`@reboot` is none of @yearly"),
        ("@every", "`@every` is none of"),
        ("@every ", "`@every` is none of"),
        ("@every 5", "`@every 5` is no duration: write it like 90s or 1h30m"),
        ("@every -5s", "`@every -5s` is no duration"),
        ("@every 9999999h", "`@every 9999999h` is longer than a year"),
    ] {
        let error = Cron::parse(bad).unwrap_err();
        assert!(error.starts_with(why), "{bad}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[0-9*?/,@a-z -]{0,30}", after in 0..4e12 as u64) {
        if let Ok(cron) = Cron::parse(&text)
            && let Some(next) = cron.next(Timestamp(after), Berlin)
        {
            prop_assert!(next.0 > after && next.0 % 1_000 == 0);
        }
    }
}
