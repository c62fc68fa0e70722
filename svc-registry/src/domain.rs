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
//! Beside it each worker may be suspended or draining ([`Pause`]): such a worker may be lost and come
//! back, and is still so. It says what a worker may get from now on; it does not touch what it runs,
//! but for what a drain finds at its deadline.
//!
//! In reading order: this file, `event`, `worker`, `workers`, `pause`, `labels` (tags and who gave them), `environment`.
//!
//! Invariants:
//! - A deregistered worker never changes again.
//! - What a worker says of itself is stored only when it differs from what is known.
//! - A registration is accepted only with the newest registration secret, or a join token (`token`).
//! - This module does no IO, reads no clock, and draws no random numbers.

pub mod certificate;
mod environment;
mod event;
mod labels;
mod pause;
pub mod token;
mod worker;
mod workers;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use eventlog::Fold;
use ids::{Timestamp, WorkerId};

pub use environment::{MOST_BYTES, Scope, Value, Variable};
pub use event::Event;
pub use labels::Source;
pub use pause::{Pause, PauseKind};
pub use worker::{Deregistered, Description, Registration, Worker};
pub use workers::Workers;

#[cfg(test)]
mod tests;

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
    RenameWorker {
        worker: WorkerId,
        name: String,
        note: String,
        at: Timestamp,
    },
    /// Changes what operators say of its tags.
    TagWorker {
        worker: WorkerId,
        add: Vec<String>,
        remove: Vec<String>,
        note: String,
        at: Timestamp,
    },
    SuspendWorker {
        worker: WorkerId,
        until: Option<Timestamp>,
        note: String,
        at: Timestamp,
    },
    DrainWorker {
        worker: WorkerId,
        deadline: Option<Timestamp>,
        note: String,
        at: Timestamp,
    },
    ResumeWorker {
        worker: WorkerId,
        note: String,
        at: Timestamp,
    },
    /// Ends each suspension whose time has come, and takes the runs of each drain whose deadline has.
    EndPauses {
        at: Timestamp,
    },
    DeregisterWorker {
        worker: WorkerId,
        forced: bool,
        note: String,
        at: Timestamp,
    },
    SetVariable {
        scope: Scope,
        key: String,
        value: Value,
        note: String,
        at: Timestamp,
    },
    RemoveVariable {
        scope: Scope,
        key: String,
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
    #[error("another worker is called `{0}`; choose another name, or rename that one first")]
    NameTaken(String),
    #[error(
        "tag `{tag}` {by_whom}, so it cannot be removed; to keep such runs away add `{opposite}`"
    )]
    OwnTag { tag: String, by_whom: &'static str, opposite: String },
    #[error("tag `{0}` is both wanted and unwanted; say which")]
    Contradiction(String),
    #[error("the worker would have {0} tags of operators; at most {most} are allowed", most = labels::MOST)]
    TooManyTags(usize),
    #[error("{0} variables are set there, and more are not allowed; remove one first")]
    TooManyVariables(usize),
    #[error(
        "the runs of worker {worker} would get {bytes} bytes of variables, its own and those of its tags; \
         at most {most} are given to a run: remove some, or make them shorter",
        most = environment::MOST_BYTES
    )]
    EnvironmentTooLarge { worker: WorkerId, bytes: usize },
    #[error("the end time passed {} s ago; name one that is still to come", .0.as_secs())]
    EndIsPast(Duration),
    #[error("the end time is {days} days away; at most {most} are allowed, or none for no end")]
    EndIsFar { days: u64, most: u64 },
}

/// How often the registration secret was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u64);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    workers: Workers,
    /// When something is to be done about a pause; a function of the workers.
    due: BTreeSet<(Timestamp, WorkerId)>,
    environments: BTreeMap<Scope, environment::Variables>,
    secret: Vec<u8>,
    generation: Generation,
    pub tokens: token::Tokens,
    pub certificates: certificate::Certificates,
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
        Command::RenameWorker { worker, name, note, at } => {
            rename_worker(state, worker, name, note, at)
        }
        Command::TagWorker { worker, add, remove, note, at } => {
            tag_worker(state, worker, add, &remove, note, at)
        }
        Command::SuspendWorker { worker, until, note, at } => {
            let pause = Pause { kind: PauseKind::Suspended, note, until, expired: false };
            pause::pause(state, worker, pause, at)
        }
        Command::DrainWorker { worker, deadline, note, at } => {
            let pause = Pause { kind: PauseKind::Draining, note, until: deadline, expired: false };
            pause::pause(state, worker, pause, at)
        }
        Command::ResumeWorker { worker, note, at } => {
            let known = registered(state, worker)?;
            Ok(when(known.pause.is_some(), Event::WorkerResumed { worker, note, at }))
        }
        Command::EndPauses { at } => Ok(pause::end_pauses(state, at)),
        Command::DeregisterWorker { worker, forced, note, at } => {
            let known = state.worker(worker).ok_or(Rejection::UnknownWorker(worker))?;
            let is_registered = known.deregistered.is_none();
            Ok(when(is_registered, Event::WorkerDeregistered { worker, forced, note, at }))
        }
        Command::SetVariable { scope, key, value, note, at } => {
            environment::set_variable(state, scope, key, value, note, at)
        }
        Command::RemoveVariable { scope, key, note, at } => {
            environment::remove_variable(state, scope, key, note, at)
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
    if state.worker(registration.worker).is_some() {
        return Err(Rejection::WorkerExists(registration.worker));
    }
    Ok(vec![Event::WorkerRegistered { registration: called_apart(state, registration), at }])
}

/// Runs are pinned by name, so nobody joins under that of another: who does is told apart by the end of
/// their id.
fn called_apart(state: &State, registration: Registration) -> Registration {
    let (id, name) = (registration.worker.to_string(), &registration.name);
    if !state.registered().any(|(_, other)| other.name == *name) {
        return registration;
    }
    Registration { name: format!("{name}-{}", &id[id.len() - 8..]), ..registration }
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

fn rename_worker(
    state: &State,
    worker: WorkerId,
    name: String,
    note: String,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let known = registered(state, worker)?;
    let is_taken = |(id, other): (WorkerId, &Worker)| id != worker && other.name == name;
    if known.name != name && state.registered().any(is_taken) {
        return Err(Rejection::NameTaken(name));
    }
    Ok(when(known.name != name, Event::WorkerRenamed { worker, name, note, at }))
}

fn tag_worker(
    state: &State,
    worker: WorkerId,
    add: Vec<String>,
    remove: &[String],
    note: String,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let labels::Changed { added, removed } = registered(state, worker)?.retag(add, remove)?;
    let is_new = !added.is_empty() || !removed.is_empty();
    Ok(when(is_new, Event::WorkerTagsChanged { worker, added, removed, note, at }))
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
    let known = state.worker(worker).filter(|known| known.deregistered.is_none());
    known.ok_or(Rejection::UnknownWorker(worker))
}

fn when(condition: bool, event: Event) -> Vec<Event> {
    if condition { vec![event] } else { vec![] }
}

impl Fold for State {
    type Event = Event;

    fn evolve(&mut self, event: &Event) {
        let before = self.due_of(event);
        self.workers.evolve(event);
        let after = self.due_of(event);
        if before != after {
            before.map(|due| self.due.remove(&due));
            self.due.extend(after);
        }
        match event {
            Event::WorkerRegistered { registration, at } => {
                self.certificates.add(&certificate::of(registration), *at);
            }
            Event::WorkerDeregistered { worker, .. } => {
                self.environments.remove(&Scope::Worker(*worker));
                self.certificates.dismiss(*worker);
            }
            Event::VariableSet { scope, key, value, at, .. } => self.set(scope, key, value, *at),
            Event::VariableRemoved { scope, key, .. } => self.unset(scope, key),
            Event::RegistrationSecretReset { sealed, .. } => {
                self.secret.clone_from(sealed);
                self.generation.0 += 1;
            }
            Event::Token(event) => self.tokens.evolve(event),
            Event::Certificate(event) => self.certificates.evolve(event),
            _ => {}
        }
    }
}

impl State {
    /// A worker, also when it was deregistered.
    #[must_use]
    pub fn worker(&self, worker: WorkerId) -> Option<&Worker> {
        self.workers.get(worker)
    }

    /// All that are registered, in order of their ids.
    pub fn registered(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.registered()
    }

    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// When the next pause ends.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|&(due, _)| due)
    }

    /// Whose pauses end now.
    fn due(&self, at: Timestamp) -> impl Iterator<Item = WorkerId> {
        self.due.iter().take_while(move |&&(due, _)| due <= at).map(|&(_, worker)| worker)
    }

    /// The registration secret, sealed, and its generation.
    pub(crate) fn secret(&self) -> (&[u8], Generation) {
        (&self.secret, self.generation)
    }

    /// When something is to be done about the pause of the worker that it is about.
    fn due_of(&self, event: &Event) -> Option<(Timestamp, WorkerId)> {
        let worker = event.worker()?;
        Some((self.worker(worker)?.due()?, worker))
    }
}
