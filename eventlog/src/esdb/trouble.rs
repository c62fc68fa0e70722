//! Which errors pass, and how long one waits for that.

use std::time::Duration;

use kurrentdb::Error;
use tokio::time::{Instant, sleep};

use crate::log::LogError;

/// How long an append or a read is tried before the caller hears that the log is away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Pause after the first failure; each further one doubles it, up to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// gRPC codes, as numbers: the client's are of another version of the crate than ours.
pub(crate) mod code {
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const NOT_FOUND: i32 = 5;
    pub(crate) const ALREADY_EXISTS: i32 = 6;
    pub(crate) const PERMISSION_DENIED: i32 = 7;
    pub(crate) const FAILED_PRECONDITION: i32 = 9;
    pub(crate) const OUT_OF_RANGE: i32 = 11;
}

/// Failures in a row.
#[derive(Default)]
pub(crate) struct Trouble {
    since: Option<Instant>,
    failures: u32,
}

impl Trouble {
    pub(crate) fn is_there(&self) -> bool {
        self.since.is_some()
    }

    /// Waits before the next try, or says why there should be none.
    pub(crate) async fn wait(
        &mut self,
        error: &Error,
        patience: Option<Duration>,
    ) -> Result<(), LogError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if let Some(last) = last_word(error) {
            return Err(last);
        }
        if patience.is_some_and(|patience| since.elapsed() > patience) {
            return Err(LogError::Unavailable(error.to_string()));
        }
        if self.failures == 0 {
            tracing::warn!(%error, "the log is out of reach, trying again");
        }
        sleep((PAUSE * 2_u32.saturating_pow(self.failures.min(8))).min(LONGEST_PAUSE)).await;
        self.failures += 1;
        Ok(())
    }
}

/// What there is to say if another try would be answered alike.
pub(crate) fn last_word(error: &Error) -> Option<LogError> {
    match error {
        Error::AccessDenied => Some(LogError::Invalid(
            "access denied: what this certificate or this user may do does not include it".into(),
        )),
        Error::UnsupportedFeature => {
            Some(LogError::Invalid("the server does not know what is asked".into()))
        }
        Error::Grpc { code, message } => match *code as i32 {
            code::INVALID_ARGUMENT | code::OUT_OF_RANGE => Some(LogError::Invalid(message.clone())),
            code::PERMISSION_DENIED => {
                Some(LogError::Invalid(format!("access denied ({message})")))
            }
            _ => None,
        },
        Error::InternalParsingError(message) => Some(LogError::Corrupt(message.clone())),
        Error::InitializationError(message) => Some(LogError::Invalid(message.clone())),
        Error::ServerError(message) if message.contains("data loss") => {
            Some(LogError::Corrupt(message.clone()))
        }
        Error::ServerError(message) if is_untrusted(message) => {
            Some(LogError::Unavailable(message.clone()))
        }
        _ => None,
    }
}

/// No second look makes a certificate good.
fn is_untrusted(message: &str) -> bool {
    message.contains("invalid peer certificate")
}

/// Whether the stream was not as expected: a single call's answer, or a session's.
pub(crate) fn is_conflict(error: &Error) -> bool {
    match error {
        Error::WrongExpectedVersion { .. } => true,
        Error::Grpc { code, message } => {
            matches!(*code as i32, code::FAILED_PRECONDITION | code::ALREADY_EXISTS)
                && message.contains("WrongExpectedVersion")
        }
        _ => false,
    }
}
