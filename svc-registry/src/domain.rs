//! Who the workers are, and what is known of them.
//!
//! ```text
//!              register            lose                    deregister
//!   (unknown) ──────────▶ present ──────▶ lost     (any) ──────────────▶ deregistered, for ever
//!                            ▲              │
//!                            └──────────────┘
//!                                 attach
//! ```
//!
//! Beside it each worker is suspended or not: a suspended worker may be lost and come back, and is
//! still suspended. Suspending says what a worker may get from now on; it does not touch what it runs.
//!
//! Invariants:
//! - A deregistered worker never changes again.
//! - What a worker says of itself is stored only when it differs from what is known.
//! - A registration is accepted only with the newest registration secret, or a join token (`token`).
//! - This module does no IO, reads no clock, and draws no random numbers.

use std::collections::BTreeMap;

use eventlog::Fold;
use ids::{Timestamp, WorkerId};

pub mod certificate;
#[cfg(test)]
mod tests;
pub mod token;

/// A wish. It can be refused.
#[derive(Clone, Debug)]
pub enum Command {
    RegisterWorker {
        registration: Registration,
        /// The generation of the secret that the registration was checked against.
        secret: Generation,
        at: Timestamp,
    },
    AttachWorker {
        worker: WorkerId,
        description: Description,
        at: Timestamp,
    },
    LoseWorker {
        worker: WorkerId,
        last_contact_at: Timestamp,
        at: Timestamp,
    },
    SuspendWorker {
        worker: WorkerId,
        note: String,
        at: Timestamp,
    },
    ResumeWorker {
        worker: WorkerId,
        at: Timestamp,
    },
    DeregisterWorker {
        worker: WorkerId,
        note: String,
        at: Timestamp,
    },
    /// The first registration secret; nothing happens when there is one.
    CreateRegistrationSecret {
        sealed: Vec<u8>,
        at: Timestamp,
    },
    ResetRegistrationSecret {
        sealed: Vec<u8>,
        at: Timestamp,
    },
    Token(token::Command),
    Certificate(certificate::Command),
}

/// A fact, stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    WorkerRegistered { registration: Registration, at: Timestamp },
    WorkerReported { worker: WorkerId, description: Description, at: Timestamp },
    WorkerSuspended { worker: WorkerId, note: String, at: Timestamp },
    WorkerResumed { worker: WorkerId, at: Timestamp },
    WorkerLost { worker: WorkerId, last_contact_at: Timestamp, at: Timestamp },
    WorkerReturned { worker: WorkerId, at: Timestamp },
    WorkerDeregistered { worker: WorkerId, note: String, at: Timestamp },
    RegistrationSecretReset { sealed: Vec<u8>, at: Timestamp },
    Token(token::Event),
    Certificate(certificate::Event),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("worker {0} is not registered; list the workers to see which are")]
    UnknownWorker(WorkerId),
    #[error("worker {0} is registered already")]
    WorkerExists(WorkerId),
    #[error(
        "the registration secret is wrong, or was reset; ask the administrator for the new one"
    )]
    WrongSecret,
    #[error(transparent)]
    Token(#[from] token::Refusal),
    #[error(transparent)]
    Certificate(#[from] certificate::Refusal),
}

/// Who a new worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub worker: WorkerId,
    pub name: String,
    pub tags: Vec<String>,
    /// The embedded agent of a server.
    pub primary: bool,
    /// Hex.
    pub certificate_serial: String,
    pub certificate_expires_at: Timestamp,
}

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// How many runs it takes at once; 0: not said.
    pub slots: u32,
    pub tags: Vec<String>,
    /// Empty: not said; like the next two.
    pub os: String,
    pub arch: String,
    pub version: String,
}

/// How often the registration secret was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u64);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Registered ones, and those that were deregistered.
    workers: BTreeMap<WorkerId, Worker>,
    secret: Vec<u8>,
    generation: Generation,
    pub tokens: token::Tokens,
    pub certificates: certificate::Certificates,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub name: String,
    pub primary: bool,
    pub description: Description,
    pub certificate_serial: String,
    pub certificate_expires_at: Timestamp,
    pub registered_at: Timestamp,
    /// The newest sign of life that the log knows of.
    pub last_contact_at: Timestamp,
    pub lost: bool,
    /// Why it is suspended; `None`: it is not.
    pub suspended: Option<String>,
    pub deregistered: bool,
}

/// The facts that follow from `command`. Empty: it was already so.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::RegisterWorker { registration, secret, at } => {
            register_worker(state, registration, secret, at)
        }
        Command::AttachWorker { worker, description, at } => {
            attach_worker(state, worker, description, at)
        }
        Command::LoseWorker { worker, last_contact_at, at } => {
            Ok(lose_worker(state, worker, last_contact_at, at))
        }
        Command::SuspendWorker { worker, note, at } => {
            let known = registered(state, worker)?;
            Ok(when(known.suspended.is_none(), Event::WorkerSuspended { worker, note, at }))
        }
        Command::ResumeWorker { worker, at } => {
            let known = registered(state, worker)?;
            Ok(when(known.suspended.is_some(), Event::WorkerResumed { worker, at }))
        }
        Command::DeregisterWorker { worker, note, at } => {
            let known = state.worker(worker).ok_or(Rejection::UnknownWorker(worker))?;
            Ok(when(!known.deregistered, Event::WorkerDeregistered { worker, note, at }))
        }
        Command::CreateRegistrationSecret { sealed, at } => {
            let is_first = state.generation == Generation::default();
            Ok(when(is_first, Event::RegistrationSecretReset { sealed, at }))
        }
        Command::ResetRegistrationSecret { sealed, at } => {
            Ok(vec![Event::RegistrationSecretReset { sealed, at }])
        }
        Command::Token(command) => token::decide(state, command),
        Command::Certificate(command) => certificate::decide(state, command),
    }
}

fn register_worker(
    state: &State,
    registration: Registration,
    secret: Generation,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    if secret != state.generation {
        return Err(Rejection::WrongSecret);
    }
    if state.workers.contains_key(&registration.worker) {
        return Err(Rejection::WorkerExists(registration.worker));
    }
    Ok(vec![Event::WorkerRegistered { registration, at }])
}

fn attach_worker(
    state: &State,
    worker: WorkerId,
    said: Description,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let known = registered(state, worker)?;
    let mut events = when(known.lost, Event::WorkerReturned { worker, at });
    let description = said.completed_by(&known.description);
    if !description.says_the_same_as(&known.description) {
        events.push(Event::WorkerReported { worker, description, at });
    }
    Ok(events)
}

fn lose_worker(
    state: &State,
    worker: WorkerId,
    last_contact_at: Timestamp,
    at: Timestamp,
) -> Vec<Event> {
    let is_present = state.worker(worker).is_some_and(Worker::is_present);
    when(is_present, Event::WorkerLost { worker, last_contact_at, at })
}

fn registered(state: &State, worker: WorkerId) -> Result<&Worker, Rejection> {
    state.worker(worker).filter(|known| !known.deregistered).ok_or(Rejection::UnknownWorker(worker))
}

fn when(condition: bool, event: Event) -> Vec<Event> {
    if condition { vec![event] } else { vec![] }
}

impl Fold for State {
    type Event = Event;

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::WorkerRegistered { registration, at } => {
                self.certificates.add(&certificate::of(registration), *at);
                self.workers.insert(registration.worker, Worker::new(registration, *at));
            }
            Event::WorkerReported { worker, description, at } => self.change(*worker, |known| {
                known.description = description.clone();
                known.last_contact_at = *at;
            }),
            Event::WorkerSuspended { worker, note, .. } => {
                self.change(*worker, |known| known.suspended = Some(note.clone()));
            }
            Event::WorkerResumed { worker, .. } => {
                self.change(*worker, |known| known.suspended = None);
            }
            Event::WorkerLost { worker, last_contact_at, .. } => self.change(*worker, |known| {
                known.lost = true;
                known.last_contact_at = *last_contact_at;
            }),
            Event::WorkerReturned { worker, at } => self.change(*worker, |known| {
                known.lost = false;
                known.last_contact_at = *at;
            }),
            Event::WorkerDeregistered { worker, .. } => {
                self.change(*worker, |known| known.deregistered = true);
                self.certificates.revision += 1;
            }
            Event::RegistrationSecretReset { sealed, .. } => {
                self.secret.clone_from(sealed);
                self.generation.0 += 1;
            }
            Event::Token(event) => self.tokens.evolve(event),
            Event::Certificate(event) => {
                self.certificates.evolve(event);
                if let certificate::Event::CertificateIssued { certificate, .. } = event {
                    self.certify(certificate);
                }
            }
        }
    }
}

impl State {
    /// A worker, also when it was deregistered.
    #[must_use]
    pub fn worker(&self, worker: WorkerId) -> Option<&Worker> {
        self.workers.get(&worker)
    }

    /// All that are registered, in order of their ids.
    pub fn registered(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().filter(|(_, known)| !known.deregistered).map(|(&id, known)| (id, known))
    }

    /// The registration secret, sealed, and its generation.
    pub(crate) fn secret(&self) -> (&[u8], Generation) {
        (&self.secret, self.generation)
    }

    fn certify(&mut self, issue: &certificate::Issue) {
        if let certificate::Subject::Worker(worker) = issue.subject {
            self.change(worker, |known| {
                known.certificate_serial.clone_from(&issue.serial);
                known.certificate_expires_at = issue.expires_at;
            });
        }
    }

    fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(known) = self.workers.get_mut(&worker) {
            change(known);
        }
    }
}

impl Worker {
    fn new(registration: &Registration, at: Timestamp) -> Self {
        Self {
            name: registration.name.clone(),
            primary: registration.primary,
            description: Description { tags: registration.tags.clone(), ..Description::default() },
            certificate_serial: registration.certificate_serial.clone(),
            certificate_expires_at: registration.certificate_expires_at,
            registered_at: at,
            last_contact_at: at,
            lost: false,
            suspended: None,
            deregistered: false,
        }
    }

    /// Neither lost nor deregistered.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !self.lost && !self.deregistered
    }
}

impl Description {
    /// What was not said stays as it was known. Tags are always said: an empty list takes all away.
    fn completed_by(self, known: &Self) -> Self {
        let or = |said: String, known: &String| if said.is_empty() { known.clone() } else { said };
        Self {
            slots: if self.slots == 0 { known.slots } else { self.slots },
            tags: self.tags,
            os: or(self.os, &known.os),
            arch: or(self.arch, &known.arch),
            version: or(self.version, &known.version),
        }
    }

    /// Tags are a set, and their case does not matter.
    fn says_the_same_as(&self, other: &Self) -> bool {
        let with_sorted_tags = |description: &Self| {
            let mut tags: Vec<_> = description.tags.iter().map(|tag| tag.to_lowercase()).collect();
            tags.sort_unstable();
            Self { tags, ..description.clone() }
        };
        with_sorted_tags(self) == with_sorted_tags(other)
    }
}
