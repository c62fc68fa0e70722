//! When a periodic schedule starts its pipeline, with Gaia's meaning: that of robfig/cron, version 1
//! (<https://github.com/robfig/cron/tree/v1>).
//!
//! Five or six fields, and the *first is seconds*: second, minute, hour, day of month, month, and day of
//! week, which may be missing. A field is `*`, `?`, or a list of numbers, names and ranges, each with
//! an optional step. Where neither kind of day is `*` or `?`, either may match. Beside fields there are
//! `@yearly` and its kin, and `@every` with a duration in Go's form.
//!
//! Where clocks are put forward, times that do not exist are left out; where they are put back, times
//! that come twice count twice. That is robfig's meaning too.

use std::{fmt, time::Duration};

use chrono::{DateTime, Datelike, Days, NaiveTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use ids::Timestamp;

/// In characters.
const LONGEST: usize = 200;
/// A schedule that has no time within these many years has none at all.
const YEARS: i32 = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    times: Times,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    Fields(Fields),
    /// Whole seconds.
    Every(u64),
}

/// Bit n: the value n fits.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// One of the two kinds of days was left open: both must fit. Otherwise either is enough.
    both_days: bool,
}

struct Bounds {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const SECONDS: Bounds = Bounds { name: "second", first: 0, last: 59, names: &[] };
const MINUTES: Bounds = Bounds { name: "minute", first: 0, last: 59, names: &[] };
const HOURS: Bounds = Bounds { name: "hour", first: 0, last: 23, names: &[] };
const DAYS: Bounds = Bounds { name: "day of month", first: 1, last: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    name: "month",
    first: 1,
    last: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds {
    name: "day of week",
    first: 0,
    last: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// The error says what is wrong and what to do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty: write six fields, or `@daily`".into());
        }
        if text.chars().count() > LONGEST {
            return Err(format!("has more than {LONGEST} characters: shorten it"));
        }
        let times = match text.strip_prefix('@') {
            Some(name) => named(name)?,
            None => Times::Fields(fields(text)?),
        };
        Ok(Self { text: text.to_owned(), times })
    }

    /// The first time after `after`; `None`: there is none.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: Tz) -> Option<Timestamp> {
        let second = after.0 / 1_000;
        match &self.times {
            Times::Every(period) => second.checked_add(*period)?.checked_mul(1_000).map(Timestamp),
            Times::Fields(fields) => {
                let from = zone.timestamp_opt(i64::try_from(second).ok()? + 1, 0).single()?;
                let next = fields.next(from)?.timestamp();
                Some(Timestamp(u64::try_from(next).ok()? * 1_000))
            }
        }
    }
}

impl Fields {
    /// The first that fits, from `time` on, which is a whole second.
    fn next(&self, mut time: DateTime<Tz>) -> Option<DateTime<Tz>> {
        let last_year = time.year() + YEARS;
        loop {
            let (minute, second) = (i64::from(time.minute()), i64::from(time.second()));
            if time.year() > last_year {
                return None;
            } else if !self.fits_day(&time) {
                time = next_day(&time)?;
            } else if !has(self.hours, time.hour()) {
                time += TimeDelta::seconds(3_600 - 60 * minute - second);
            } else if !has(self.minutes, time.minute()) {
                time += TimeDelta::seconds(60 - second);
            } else if !has(self.seconds, time.second()) {
                time += TimeDelta::seconds(1);
            } else {
                return Some(time);
            }
        }
    }

    fn fits_day(&self, time: &DateTime<Tz>) -> bool {
        let day = has(self.days, time.day());
        let weekday = has(self.weekdays, time.weekday().num_days_from_sunday());
        has(self.months, time.month())
            && if self.both_days { day && weekday } else { day || weekday }
    }
}

const fn has(bits: u64, value: u32) -> bool {
    bits >> value & 1 == 1
}

/// Its first moment, which is not always midnight.
fn next_day(time: &DateTime<Tz>) -> Option<DateTime<Tz>> {
    let midnight = time.date_naive().checked_add_days(Days::new(1))?.and_time(NaiveTime::MIN);
    let mut quarters = (0..96).map(|quarter| midnight + TimeDelta::minutes(15 * quarter));
    quarters.find_map(|local| time.timezone().from_local_datetime(&local).earliest())
}

fn named(name: &str) -> Result<Times, String> {
    let text = match name {
        "yearly" | "annually" => "0 0 0 1 1 *",
        "monthly" => "0 0 0 1 * *",
        "weekly" => "0 0 0 * * 0",
        "daily" | "midnight" => "0 0 0 * * *",
        "hourly" => "0 0 * * * *",
        _ => match name.strip_prefix("every ") {
            Some(duration) => return every(duration.trim()),
            None => {
                return Err(format!(
                    "`@{}` is none of @yearly, @monthly, @weekly, @daily, @hourly and @every with a duration like 1h30m",
                    shown(name)
                ));
            }
        },
    };
    fields(text).map(Times::Fields)
}

fn fields(text: &str) -> Result<Fields, String> {
    let given: Vec<_> = text.split_whitespace().collect();
    if !(5..=6).contains(&given.len()) {
        return Err(format!(
            "`{}` has {} fields: write second, minute, hour, day of month, month and, if you like, day of week",
            shown(text),
            given.len()
        ));
    }
    let (days, any_day) = field(given[3], &DAYS)?;
    let (weekdays, any_weekday) = field(given.get(5).copied().unwrap_or("*"), &WEEKDAYS)?;
    Ok(Fields {
        seconds: field(given[0], &SECONDS)?.0,
        minutes: field(given[1], &MINUTES)?.0,
        hours: field(given[2], &HOURS)?.0,
        days,
        months: field(given[4], &MONTHS)?.0,
        weekdays,
        both_days: any_day || any_weekday,
    })
}

/// The values that fit, and whether the field is left open.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let mut bits = 0;
    let mut is_open = false;
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step, part, bounds)?)),
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => {
                is_open = true;
                (bounds.first, bounds.last)
            }
            Some((first, last)) => (value(first, part, bounds)?, value(last, part, bounds)?),
            // `5/10` means from 5 on.
            None => {
                let first = value(range, part, bounds)?;
                (first, if step.is_some() { bounds.last } else { first })
            }
        };
        let refuse = |why: &str| Err(wrong(part, bounds, why));
        match step {
            Some(0) => return refuse("has a step of 0: use 1 or more"),
            _ if first > last => return refuse("ends before it begins"),
            _ => (first..=last).step_by(step.unwrap_or(1) as usize).for_each(|n| bits |= 1 << n),
        }
    }
    if bits == 0 {
        return Err(wrong(text, bounds, "holds nothing"));
    }
    Ok((bits, is_open))
}

fn value(text: &str, part: &str, bounds: &Bounds) -> Result<u32, String> {
    let named = bounds.names.iter().position(|name| name.eq_ignore_ascii_case(text));
    let value = match named {
        Some(index) => index as u32 + bounds.first,
        None => number(text, part, bounds)?,
    };
    if !(bounds.first..=bounds.last).contains(&value) {
        let why = format!("is out of range: use {} to {}", bounds.first, bounds.last);
        return Err(wrong(part, bounds, &why));
    }
    Ok(value)
}

fn number(text: &str, part: &str, bounds: &Bounds) -> Result<u32, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = is_number.then(|| text.parse().ok()).flatten();
    value.ok_or_else(|| {
        let names = bounds.names.first().zip(bounds.names.last());
        let names = names.map(|(first, last)| format!(" or a name, {first} to {last}"));
        let why = format!(
            "is no {}: use a number{}, `*`, a range like 1-5, or a step like */5",
            bounds.name,
            names.unwrap_or_default()
        );
        wrong(part, bounds, &why)
    })
}

fn wrong(part: &str, bounds: &Bounds, why: &str) -> String {
    format!("{}: `{}` {why}", bounds.name, shown(part))
}

/// A duration as Go reads it, in whole seconds, and no less than one.
fn every(text: &str) -> Result<Times, String> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3_600.0),
    ];
    let refuse = || format!("`@every {}` is no duration: write it like 90s or 1h30m", shown(text));
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let amount: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = UNITS.iter().find(|(unit, _)| *unit == &rest[..end]).ok_or_else(refuse)?;
        seconds += amount * unit.1;
        rest = &rest[end..];
    }
    let longest = Duration::from_hours(366 * 24);
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !text.is_empty() && duration <= longest => {
            Ok(Times::Every(duration.as_secs().max(1)))
        }
        Ok(duration) if duration > longest => {
            Err(format!("`@every {}` is longer than a year: shorten it", shown(text)))
        }
        _ => Err(refuse()),
    }
}

/// What a message repeats of bad input.
fn shown(text: &str) -> String {
    text.chars().take(60).collect::<String>().escape_debug().to_string()
}
