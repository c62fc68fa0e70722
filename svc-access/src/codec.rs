//! Events to and from their stored form: reads every version, writes the newest. Streams: `user-<name>` and `secret-<key>`.

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::Timestamp;
use prost::Message;
use proto::access::events::v1 as stored;

use crate::domain::{ADMINISTRATORS, Event, PasswordHash};

/// Streams that this service alone writes, by prefix.
pub(crate) const OWNS: &[&str] = &["user-", "secret-"];

pub(crate) fn stream(event: &Event) -> String {
    match event {
        Event::UserCreated { username, .. }
        | Event::UserRolesSet { username, .. }
        | Event::UserLoggedIn { username, .. }
        | Event::UserRemoved { username, .. }
        | Event::PasswordChanged { username, .. } => format!("user-{username}"),
        Event::SecretPut { key, .. } | Event::SecretRemoved { key, .. } => format!("secret-{key}"),
    }
}

pub(crate) fn encode(event: &Event) -> Encoded {
    match event.clone() {
        Event::UserCreated { username, display_name, password_hash, roles, at } => {
            let (password_hash, at) = (password_hash.0, at.0);
            let stored = stored::UserCreated { username, display_name, password_hash, at, roles };
            Encoded { version: 2, ..encoded("UserCreated", &stored) }
        }
        Event::UserRolesSet { username, roles, at } => {
            encoded("UserRolesSet", &stored::UserRolesSet { username, roles, at: at.0 })
        }
        Event::UserLoggedIn { username, at } => {
            encoded("UserLoggedIn", &stored::UserLoggedIn { username, at: at.0 })
        }
        Event::UserRemoved { username, at } => {
            encoded("UserRemoved", &stored::UserRemoved { username, at: at.0 })
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
    event(&recorded.event.event_type, recorded.event.version(), &recorded.event.data)
        .map_err(|error| DecodeError::new(recorded, error))
}

fn event(event_type: &str, version: u32, data: &[u8]) -> Result<Option<Event>, prost::DecodeError> {
    Ok(Some(match event_type {
        "UserCreated" => {
            let stored::UserCreated { username, display_name, password_hash, at, roles } =
                Message::decode(data)?;
            let (password_hash, at) = (PasswordHash(password_hash), Timestamp(at));
            // Before there were roles, every user could do everything.
            let roles = if version < 2 { vec![ADMINISTRATORS.to_owned()] } else { roles };
            Event::UserCreated { username, display_name, password_hash, roles, at }
        }
        "UserRolesSet" => {
            let stored::UserRolesSet { username, roles, at } = Message::decode(data)?;
            Event::UserRolesSet { username, roles, at: Timestamp(at) }
        }
        "UserLoggedIn" => {
            let stored::UserLoggedIn { username, at } = Message::decode(data)?;
            Event::UserLoggedIn { username, at: Timestamp(at) }
        }
        "UserRemoved" => {
            let stored::UserRemoved { username, at } = Message::decode(data)?;
            Event::UserRemoved { username, at: Timestamp(at) }
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
