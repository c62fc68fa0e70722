//! Who the users are, and what the vault holds.
//!
//! ```text
//!             create                          put              remove
//!   (nobody) ────────▶ user ⟲ password   (–) ─────▶ secret ⟲ ────────▶ (–)
//! ```
//!
//! Invariants:
//! - A user is created once.
//! - A password is changed only by who proved to know the present one.
//! - This module does no IO, reads no clock, and draws no random numbers; what it holds is hashed or
//!   sealed already.

use std::{collections::BTreeMap, fmt};

use eventlog::Fold;
use ids::Timestamp;

#[cfg(test)]
mod tests;

/// A wish. It can be refused.
#[derive(Clone, Debug)]
pub enum Command {
    /// Nothing happens when the user exists.
    CreateUser {
        username: String,
        display_name: String,
        password_hash: PasswordHash,
        at: Timestamp,
    },
    ChangePassword {
        username: String,
        /// Of the password that was proved to be known.
        proved: Generation,
        password_hash: PasswordHash,
        at: Timestamp,
    },
    PutSecret {
        key: String,
        sealed: Vec<u8>,
        at: Timestamp,
    },
    RemoveSecret {
        key: String,
        at: Timestamp,
    },
}

/// A fact, stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    UserCreated {
        username: String,
        display_name: String,
        password_hash: PasswordHash,
        at: Timestamp,
    },
    PasswordChanged {
        username: String,
        password_hash: PasswordHash,
        at: Timestamp,
    },
    SecretPut {
        key: String,
        sealed: Vec<u8>,
        at: Timestamp,
    },
    SecretRemoved {
        key: String,
        at: Timestamp,
    },
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the user name or the password is wrong")]
    WrongPassword,
}

/// PHC string. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

/// How often the password of a user was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    users: BTreeMap<String, User>,
    secrets: BTreeMap<String, Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub display_name: String,
    pub password_hash: PasswordHash,
    pub generation: Generation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub sealed: Vec<u8>,
    pub updated_at: Timestamp,
}

/// The facts that follow from `command`. Empty: it was already so.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::CreateUser { username, display_name, password_hash, at } => {
            let is_new = !state.users.contains_key(&username);
            let event = Event::UserCreated { username, display_name, password_hash, at };
            Ok(if is_new { vec![event] } else { vec![] })
        }
        Command::ChangePassword { username, proved, password_hash, at } => {
            let user = state.users.get(&username).ok_or(Rejection::WrongPassword)?;
            if user.password_hash == password_hash {
                return Ok(vec![]);
            }
            if user.generation != proved {
                return Err(Rejection::WrongPassword);
            }
            Ok(vec![Event::PasswordChanged { username, password_hash, at }])
        }
        Command::PutSecret { key, sealed, at } => {
            let is_known = state.secrets.get(&key).is_some_and(|secret| secret.sealed == sealed);
            Ok(if is_known { vec![] } else { vec![Event::SecretPut { key, sealed, at }] })
        }
        Command::RemoveSecret { key, at } => {
            let is_known = state.secrets.contains_key(&key);
            Ok(if is_known { vec![Event::SecretRemoved { key, at }] } else { vec![] })
        }
    }
}

impl Fold for State {
    type Event = Event;

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::UserCreated { username, display_name, password_hash, .. } => {
                let user = User {
                    display_name: display_name.clone(),
                    password_hash: password_hash.clone(),
                    generation: Generation(1),
                };
                self.users.insert(username.clone(), user);
            }
            Event::PasswordChanged { username, password_hash, .. } => {
                if let Some(user) = self.users.get_mut(username) {
                    user.password_hash = password_hash.clone();
                    user.generation.0 += 1;
                }
            }
            Event::SecretPut { key, sealed, at } => {
                let secret = Secret { sealed: sealed.clone(), updated_at: *at };
                self.secrets.insert(key.clone(), secret);
            }
            Event::SecretRemoved { key, .. } => {
                self.secrets.remove(key);
            }
        }
    }
}

impl State {
    #[must_use]
    pub fn user(&self, username: &str) -> Option<&User> {
        self.users.get(username)
    }

    #[must_use]
    pub fn secret(&self, key: &str) -> Option<&Secret> {
        self.secrets.get(key)
    }

    /// All secrets, in order of their keys.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.secrets.iter().map(|(key, secret)| (key.as_str(), secret))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}
