//! Bounds on what comes in, so that nothing that is accepted is too big to be stored.

use std::time::Duration;

use crate::error::ApiError;

/// Bytes of a name: of a pipeline, worker, user, branch, tag.
pub(crate) const NAME: usize = 200;
/// Bytes of an address of a repository.
pub(crate) const URL: usize = 2_000;
/// Bytes of a password or registration secret.
pub(crate) const PASSWORD: usize = 4 << 10;
/// Bytes of a private key.
pub(crate) const PRIVATE_KEY: usize = 32 << 10;
/// Bytes of a value of the vault.
pub(crate) const SECRET: usize = 64 << 10;
/// Bytes of a note, a reason, what a job said.
pub(crate) const NOTE: usize = 2_000;
/// Bytes of one argument's value, and of all values of a start together.
pub(crate) const ARGUMENT: usize = 16 << 10;
pub(crate) const ARGUMENTS: usize = 64 << 10;

/// How long a request's body may take to come, where it is read whole.
pub(crate) const BODY: Duration = Duration::from_mins(1);
/// Tags of a worker, a pipeline or a run.
pub(crate) const TAGS: usize = 100;
/// Jobs of a pipeline: each can be two events of one report.
pub(crate) const JOBS: usize = 400;
/// Bytes of a build's jobs, as stored.
pub(crate) const BUILD: usize = 128 << 10;
/// Bytes of a request for a certificate.
pub(crate) const CERTIFICATE_REQUEST: usize = 16 << 10;
/// Bytes of a token.
pub(crate) const TOKEN: usize = 8 << 10;

/// The text, if it fits.
pub(crate) fn text(field: &str, value: &str, most: usize) -> Result<(), ApiError> {
    if value.len() <= most {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "`{field}` has {} bytes, at most {most} are taken: shorten it",
        value.len()
    )))
}

pub(crate) fn tags(tags: &[String]) -> Result<(), ApiError> {
    if tags.len() > TAGS {
        return Err(ApiError::bad_request(format!(
            "`tags` has {} entries, at most {TAGS} are taken: leave some out",
            tags.len()
        )));
    }
    tags.iter().try_for_each(|tag| text("tags", tag, NAME))
}

/// Cuts a text to at most so many bytes, between characters.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

/// A text as it may stand in one line of an event stream.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}
