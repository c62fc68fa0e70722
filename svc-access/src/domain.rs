//! Who the users are, and what the vault holds.
//!
//! ```text
//!             create                        remove          put              remove
//!   (nobody) ────────▶ user ⟲ password, roles ────▶ (–)   (–) ─────▶ secret ⟲ ────────▶ (–)
//! ```
//!
//! Invariants:
//! - A user is created once. Who is removed and created again has none of the old sessions.
//! - There is an administrator as soon as there was one: the last one is not removed, nor made less.
//! - A password is changed only by who proved to know the present one, or is set anew by somebody who
//!   knew what the user may do at that moment.
//! - This module does no IO, reads no clock, and draws no random numbers; what it holds is hashed or
//!   sealed already.

use std::{collections::BTreeMap, fmt};

use eventlog::Fold;
use ids::Timestamp;

#[cfg(test)]
mod tests;

/// The group whose last user stays.
pub const ADMINISTRATORS: &str = "admin";

/// A wish. It can be refused.
#[derive(Clone, Debug)]
pub enum Command {
    CreateUser {
        username: String,
        display_name: String,
        password_hash: PasswordHash,
        /// Names of roles and groups.
        roles: Vec<String>,
        at: Timestamp,
    },
    SetRoles {
        username: String,
        /// What the user could do when it was checked who may change that.
        seen: Vec<String>,
        roles: Vec<String>,
        at: Timestamp,
    },
    /// Without proof of the present password.
    ResetPassword {
        username: String,
        seen: Vec<String>,
        password_hash: PasswordHash,
        at: Timestamp,
    },
    RemoveUser {
        username: String,
        seen: Vec<String>,
        at: Timestamp,
    },
    LogIn {
        username: String,
        proved: Generation,
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
        roles: Vec<String>,
        at: Timestamp,
    },
    UserRolesSet {
        username: String,
        roles: Vec<String>,
        at: Timestamp,
    },
    UserRemoved {
        username: String,
        at: Timestamp,
    },
    UserLoggedIn {
        username: String,
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the user name or the password is wrong")]
    WrongPassword,
    #[error("there is a user `{0}` already; choose another name")]
    UserExists(String),
    #[error("there is no user `{0}`; list the users to see who there is")]
    UnknownUser(String),
    #[error("`{0}` is the last administrator; make another user one first")]
    LastAdministrator(String),
    #[error("somebody else changes what `{0}` may do at the same moment; look, and try again")]
    RolesChanged(String),
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
    /// The last generation of who was removed, so that nobody takes over their sessions.
    removed: BTreeMap<String, Generation>,
    secrets: BTreeMap<String, Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub display_name: String,
    pub password_hash: PasswordHash,
    pub generation: Generation,
    /// Names of roles and groups.
    pub roles: Vec<String>,
    /// `None`: never.
    pub last_login_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub sealed: Vec<u8>,
    pub updated_at: Timestamp,
}

/// The facts that follow from `command`. Empty: it was already so.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::CreateUser { username, display_name, password_hash, roles, at } => {
            let mut users = state.users.iter();
            match users.find(|(known, _)| known.eq_ignore_ascii_case(&username)) {
                Some((_, user)) if user.password_hash == password_hash => Ok(vec![]),
                Some((known, _)) => Err(Rejection::UserExists(known.clone())),
                None => {
                    let event =
                        Event::UserCreated { username, display_name, password_hash, roles, at };
                    Ok(vec![event])
                }
            }
        }
        Command::SetRoles { username, seen, roles, at } => {
            if state.known(&username)?.roles == roles {
                return Ok(vec![]);
            }
            state.seen(&username, &seen)?;
            if !is_administrator(&roles) {
                state.keep_an_administrator(&username)?;
            }
            Ok(vec![Event::UserRolesSet { username, roles, at }])
        }
        Command::ResetPassword { username, seen, password_hash, at } => {
            if state.known(&username)?.password_hash == password_hash {
                return Ok(vec![]);
            }
            state.seen(&username, &seen)?;
            Ok(vec![Event::PasswordChanged { username, password_hash, at }])
        }
        Command::RemoveUser { username, seen, at } => {
            state.seen(&username, &seen)?;
            state.keep_an_administrator(&username)?;
            Ok(vec![Event::UserRemoved { username, at }])
        }
        Command::LogIn { username, proved, at } => {
            let user = state.users.get(&username);
            user.filter(|user| user.generation == proved).ok_or(Rejection::WrongPassword)?;
            Ok(vec![Event::UserLoggedIn { username, at }])
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

fn is_administrator(roles: &[String]) -> bool {
    roles.iter().any(|role| role == ADMINISTRATORS)
}

impl Fold for State {
    type Event = Event;

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::UserCreated { username, display_name, password_hash, roles, .. } => {
                let Generation(last) = self.removed.remove(username).unwrap_or_default();
                let user = User {
                    display_name: display_name.clone(),
                    password_hash: password_hash.clone(),
                    generation: Generation(last + 1),
                    roles: roles.clone(),
                    last_login_at: None,
                };
                self.users.insert(username.clone(), user);
            }
            Event::UserRolesSet { username, roles, .. } => {
                if let Some(user) = self.users.get_mut(username) {
                    user.roles.clone_from(roles);
                }
            }
            Event::UserLoggedIn { username, at } => {
                if let Some(user) = self.users.get_mut(username) {
                    user.last_login_at = Some(*at);
                }
            }
            Event::UserRemoved { username, .. } => {
                if let Some(user) = self.users.remove(username) {
                    self.removed.insert(username.clone(), user.generation);
                }
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

    /// All users, in order of their names.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user))
    }

    fn known(&self, username: &str) -> Result<&User, Rejection> {
        self.users.get(username).ok_or_else(|| Rejection::UnknownUser(username.to_owned()))
    }

    /// The user may still do what was seen.
    fn seen(&self, username: &str, seen: &[String]) -> Result<(), Rejection> {
        let is_so = self.known(username)?.roles == seen;
        is_so.then_some(()).ok_or_else(|| Rejection::RolesChanged(username.to_owned()))
    }

    /// Somebody else is an administrator too, or this user is none.
    fn keep_an_administrator(&self, username: &str) -> Result<(), Rejection> {
        let mut administrators =
            self.users.iter().filter(|(_, user)| is_administrator(&user.roles));
        let is_last = administrators.next().is_some_and(|(name, _)| name == username)
            && administrators.next().is_none();
        if is_last { Err(Rejection::LastAdministrator(username.to_owned())) } else { Ok(()) }
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
