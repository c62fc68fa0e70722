//! Events to and from their stored form. Streams: `user-<name>` and `secret-<key>`.

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::Timestamp;
use prost::Message;
use proto::access::events::v1 as stored;

use crate::domain::{Event, PasswordHash};

/// Streams that this service alone writes, by prefix.
pub(crate) const OWNS: &[&str] = &["user-", "secret-"];

pub(crate) fn stream(event: &Event) -> String {
    match event {
        Event::UserCreated { username, .. } | Event::PasswordChanged { username, .. } => {
            format!("user-{username}")
        }
        Event::SecretPut { key, .. } | Event::SecretRemoved { key, .. } => format!("secret-{key}"),
    }
}

pub(crate) fn encode(event: &Event) -> Encoded {
    match event.clone() {
        Event::UserCreated { username, display_name, password_hash, at } => {
            let password_hash = password_hash.0;
            encoded(
                "UserCreated",
                &stored::UserCreated { username, display_name, password_hash, at: at.0 },
            )
        }
        Event::PasswordChanged { username, password_hash, at } => {
            let password_hash = password_hash.0;
            encoded(
                "PasswordChanged",
                &stored::PasswordChanged { username, password_hash, at: at.0 },
            )
        }
        Event::SecretPut { key, sealed, at } => {
            encoded("SecretPut", &stored::SecretPut { key, sealed: sealed.into(), at: at.0 })
        }
        Event::SecretRemoved { key, at } => {
            encoded("SecretRemoved", &stored::SecretRemoved { key, at: at.0 })
        }
    }
}

/// An event of this service; `None` for any other.
pub fn decode(recorded: &Recorded) -> Result<Option<Event>, DecodeError> {
    if !OWNS.iter().any(|prefix| recorded.stream.starts_with(prefix)) {
        return Ok(None);
    }
    check_version(recorded)?;
    event(&recorded.event.event_type, &recorded.event.data)
        .map_err(|error| DecodeError::new(recorded, error))
}

fn event(event_type: &str, data: &[u8]) -> Result<Option<Event>, prost::DecodeError> {
    Ok(Some(match event_type {
        "UserCreated" => {
            let stored::UserCreated { username, display_name, password_hash, at } =
                Message::decode(data)?;
            let (password_hash, at) = (PasswordHash(password_hash), Timestamp(at));
            Event::UserCreated { username, display_name, password_hash, at }
        }
        "PasswordChanged" => {
            let stored::PasswordChanged { username, password_hash, at } = Message::decode(data)?;
            let (password_hash, at) = (PasswordHash(password_hash), Timestamp(at));
            Event::PasswordChanged { username, password_hash, at }
        }
        "SecretPut" => {
            let stored::SecretPut { key, sealed, at } = Message::decode(data)?;
            Event::SecretPut { key, sealed: sealed.into(), at: Timestamp(at) }
        }
        "SecretRemoved" => {
            let stored::SecretRemoved { key, at } = Message::decode(data)?;
            Event::SecretRemoved { key, at: Timestamp(at) }
        }
        _ => return Ok(None),
    }))
}

fn encoded(event_type: &'static str, message: &impl Message) -> Encoded {
    Encoded { event_type, version: 1, data: message.encode_to_vec() }
}

#[cfg(test)]
mod tests;
