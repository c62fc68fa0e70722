//! The `grpc-timeout` header (gRPC over HTTP/2, "Timeout"): how long a caller waits.

use http::HeaderMap;
use std::{pin::Pin, task::Context, time::Duration};
use tokio::time::{Instant, Sleep};

const HEADER: &str = "grpc-timeout";
// The specification allows at most eight digits.
const MAX_DIGITS: usize = 8;

/// When the call must be over; `None` if it may take for ever, or if the header cannot be read.
pub(crate) fn of(headers: &HeaderMap) -> Option<Instant> {
    let timeout = parse(headers.get(HEADER)?.to_str().ok()?)?;
    Instant::now().checked_add(timeout)
}

/// Tells a body that its time is over.
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        Self(deadline.map(|at| Box::pin(tokio::time::sleep_until(at))))
    }

    /// Registers the task to be woken when it is.
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 60 * 60)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_understood() {
        for (text, expected) in [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("4S", Duration::from_secs(4)),
            ("50m", Duration::from_millis(50)),
            ("6u", Duration::from_micros(6)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_timeout_is_ignored() {
        for text in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "5é"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
