//! How answers are shown: tables for people, JSON for programs.

use std::{io::IsTerminal, time::Duration};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// What standard output gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables and sentences, for people
    #[default]
    Text,
    /// One JSON document, or one a line where a command follows something
    Json,
}

impl Output {
    /// Shows `value` as JSON, or what `text` makes of it.
    pub fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self {
            Self::Text => anstream::println!("{}", text(value)),
            Self::Json => anstream::println!("{}", serde_json::to_string_pretty(value)?),
        }
        Ok(())
    }

    /// Like [`Output::show`], on one line: for streams of values.
    pub fn line<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self {
            Self::Text => anstream::println!("{}", text(value)),
            Self::Json => anstream::println!("{}", serde_json::to_string(value)?),
        }
        Ok(())
    }
}

/// A table without lines between its rows: it survives copying into a ticket.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// `3.2 s`, `180 ms`, `2 min 5 s`, `3 h 12 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Local time of a moment in milliseconds since the epoch; a dash for "never".
pub(crate) fn time(millis: u64) -> String {
    local(millis, "%Y-%m-%d %H:%M:%S")
}

/// The same for whoever must prove it: with milliseconds, and how far local time is from UTC.
pub(crate) fn exact_time(millis: u64) -> String {
    local(millis, "%Y-%m-%d %H:%M:%S%.3f %:z")
}

fn local(millis: u64, format: &str) -> String {
    let utc = i64::try_from(millis).ok().and_then(chrono::DateTime::from_timestamp_millis);
    match utc {
        Some(utc) if millis > 0 => utc.with_timezone(&chrono::Local).format(format).to_string(),
        _ => "–".to_owned(),
    }
}

/// Between two moments in milliseconds since the epoch; a dash while the second has not come.
pub(crate) fn between(start: u64, end: u64) -> String {
    if start == 0 || end == 0 {
        return "–".to_owned();
    }
    duration(Duration::from_millis(end.saturating_sub(start)))
}

/// Something turns while people wait; silent where nobody watches.
pub(crate) fn spinner(message: impl Into<String>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .expect("the template is well-formed");
    let bar = ProgressBar::new_spinner().with_style(style).with_message(message.into());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown: Vec<_> =
            [3, 1_250, 125_000, 11_520_000].map(|ms| duration(Duration::from_millis(ms))).into();
        assert_eq!(shown, ["3 ms", "1.2 s", "2 min 5 s", "3 h 12 min"]);
    }

    #[test]
    fn what_has_not_happened_is_a_dash() {
        assert_eq!(time(0), "–");
        assert_eq!(between(5, 0), "–");
        assert_eq!(between(5, 25), "20 ms");
    }
}
