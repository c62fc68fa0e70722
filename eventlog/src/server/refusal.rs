//! How errors travel: a gRPC status whose metadata say `exception: <kind>`, which is what clients
//! look at; in a batch session a `google.rpc.Status` in the answer, named after its packed details.

use prost::Message;
use proto::{
    event_store::client::{
        AccessDenied, BadRequest, MaximumAppendSizeExceeded, StreamDeleted, Timeout, Unknown,
        WrongExpectedVersion, wrong_expected_version as wrong,
    },
    google,
};
use tonic::{Code, Status, metadata::MetadataValue};

use super::names;
use crate::{
    event::Expected,
    log::{AppendError, Log, LogError},
};

/// Why an append, a delete or a tombstone was not done.
#[derive(Debug)]
pub(super) enum Refusal {
    Log(AppendError),
    TooLarge,
    Late,
    Status(Status),
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        Self::Log(error)
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

pub(super) fn lacks(property: &str) -> Status {
    let message = format!("Required Metadata Property '{property}' is missing");
    let properties = format!("{},{}", names::TYPE, names::CONTENT_TYPE);
    with(
        Status::invalid_argument(message),
        &[
            ("exception", "missing-required-metadata-property"),
            ("required-metadata-properties", &properties),
        ],
    )
}

pub(super) fn denied(why: String) -> Status {
    with(Status::permission_denied(why), &[("exception", "access-denied")])
}

fn too_large() -> Status {
    let most = Log::MAX_BATCH_BYTES.to_string();
    with(
        Status::invalid_argument(format!("Maximum Append Size of {most} Exceeded.")),
        &[("exception", "maximum-append-size-exceeded"), ("maximum-append-size", &most)],
    )
}

pub(super) fn deleted(stream: &str) -> Status {
    with(
        Status::failed_precondition(format!("Event stream '{stream}' is deleted.")),
        &[("exception", "stream-deleted"), ("stream-name", stream)],
    )
}

/// How delete and tombstone say that the stream is not as expected. −1: there is none, −2: any, −4: it
/// must exist.
pub(super) fn conflict(
    operation: &str,
    stream: &str,
    expected: Expected,
    current: Option<u64>,
) -> Status {
    let expected = match expected {
        Expected::None => "-1".to_owned(),
        Expected::Any => "-2".to_owned(),
        Expected::Exists => "-4".to_owned(),
        Expected::Revision(revision) => revision.to_string(),
    };
    let actual = current.map_or_else(|| "-1".to_owned(), |revision| revision.to_string());
    with(
        Status::failed_precondition(format!(
            "{operation} failed due to WrongExpectedVersion. Stream: {stream}, Expected version: \
             {expected}, Actual version: {actual}"
        )),
        &[
            ("exception", "wrong-expected-version"),
            ("stream-name", stream),
            ("expected-version", &expected),
            ("actual-version", &actual),
        ],
    )
}

/// A value that headers cannot carry is left out; the message has it.
fn with(mut status: Status, metadata: &[(&'static str, &str)]) -> Status {
    for (key, value) in metadata {
        if let Ok(value) = MetadataValue::try_from(*value) {
            status.metadata_mut().insert(*key, value);
        }
    }
    status
}

impl From<LogError> for Status {
    fn from(error: LogError) -> Self {
        let message = error.to_string();
        match error {
            LogError::Invalid(_) => Self::invalid_argument(message),
            LogError::Corrupt(_) => Self::data_loss(message),
            LogError::Deleted { stream } => deleted(&stream),
            LogError::Stopped(_) | LogError::Unavailable(_) => Self::unavailable(message),
        }
    }
}

impl Refusal {
    /// As the failure of a call that does `operation`.
    pub(super) fn status(self, operation: &str) -> Status {
        match self {
            Self::Status(status) => status,
            Self::TooLarge => too_large(),
            Self::Late => Status::deadline_exceeded("the deadline has passed"),
            Self::Log(AppendError::Conflict { stream, expected, current }) => {
                conflict(operation, &stream, expected, current)
            }
            Self::Log(AppendError::Deleted { stream }) => deleted(&stream),
            Self::Log(AppendError::Log(error)) => error.into(),
        }
    }

    /// As one answer among others.
    pub(super) fn answer(self) -> google::rpc::Status {
        match self {
            Self::TooLarge => {
                let most = Log::MAX_BATCH_BYTES as u32;
                packed(
                    Code::InvalidArgument,
                    "MaximumAppendSizeExceeded",
                    &MaximumAppendSizeExceeded { max_append_size: most },
                )
            }
            Self::Late => packed(Code::DeadlineExceeded, "Timeout", &Timeout {}),
            Self::Log(AppendError::Conflict { expected, current, .. }) => packed(
                Code::AlreadyExists,
                "WrongExpectedVersion",
                &wrong_version(expected, current),
            ),
            Self::Log(AppendError::Deleted { stream }) => {
                let stream_identifier = Some(names::identifier(stream.into_bytes()));
                packed(Code::NotFound, "StreamDeleted", &StreamDeleted { stream_identifier })
            }
            Self::Log(AppendError::Log(LogError::Invalid(message))) => {
                packed(Code::InvalidArgument, "BadRequest", &BadRequest { message })
            }
            Self::Log(AppendError::Log(_)) => packed(Code::Unknown, "Unknown", &Unknown {}),
            Self::Status(status) => match status.code() {
                Code::PermissionDenied => {
                    packed(Code::PermissionDenied, "AccessDenied", &AccessDenied {})
                }
                code => {
                    packed(code, "BadRequest", &BadRequest { message: status.message().to_owned() })
                }
            },
        }
    }
}

fn wrong_version(expected: Expected, current: Option<u64>) -> WrongExpectedVersion {
    use wrong::{CurrentStreamRevisionOption as Current, ExpectedStreamPositionOption as Wanted};
    WrongExpectedVersion {
        current_stream_revision_option: Some(match current {
            Some(revision) => Current::CurrentStreamRevision(revision),
            None => Current::CurrentNoStream(()),
        }),
        expected_stream_position_option: Some(match expected {
            Expected::Any => Wanted::ExpectedAny(()),
            Expected::None => Wanted::ExpectedNoStream(()),
            Expected::Exists => Wanted::ExpectedStreamExists(()),
            Expected::Revision(revision) => Wanted::ExpectedStreamPosition(revision),
        }),
    }
}

/// The message's name is the status's text too: clients go by either.
fn packed(code: Code, name: &str, details: &impl Message) -> google::rpc::Status {
    let type_url = format!("type.googleapis.com/event_store.client.{name}");
    let value = details.encode_to_vec();
    let details = Some(prost_types::Any { type_url, value });
    google::rpc::Status { code: code.into(), message: name.to_owned(), details }
}
