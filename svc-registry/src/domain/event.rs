//! What happened to workers, tokens and certificates.

use ids::{Timestamp, WorkerId};

use super::{Description, Registration, Scope, Value, certificate, token};

/// A fact, stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    WorkerRegistered {
        registration: Registration,
        at: Timestamp,
    },
    WorkerReported {
        worker: WorkerId,
        description: Description,
        at: Timestamp,
    },
    WorkerRenamed {
        worker: WorkerId,
        name: String,
        note: String,
        at: Timestamp,
    },
    WorkerTagsChanged {
        worker: WorkerId,
        added: Vec<String>,
        removed: Vec<String>,
        note: String,
        at: Timestamp,
    },
    WorkerSuspended {
        worker: WorkerId,
        until: Option<Timestamp>,
        note: String,
        at: Timestamp,
    },
    WorkerDrainStarted {
        worker: WorkerId,
        deadline: Option<Timestamp>,
        note: String,
        at: Timestamp,
    },
    WorkerDrainExpired {
        worker: WorkerId,
        at: Timestamp,
    },
    WorkerResumed {
        worker: WorkerId,
        note: String,
        at: Timestamp,
    },
    WorkerLost {
        worker: WorkerId,
        last_contact_at: Timestamp,
        at: Timestamp,
    },
    WorkerReturned {
        worker: WorkerId,
        at: Timestamp,
    },
    WorkerDeregistered {
        worker: WorkerId,
        forced: bool,
        note: String,
        at: Timestamp,
    },
    VariableSet {
        scope: Scope,
        key: String,
        value: Value,
        note: String,
        at: Timestamp,
    },
    VariableRemoved {
        scope: Scope,
        key: String,
        note: String,
        at: Timestamp,
    },
    RegistrationSecretReset {
        sealed: Vec<u8>,
        at: Timestamp,
    },
    Token(token::Event),
    Certificate(certificate::Event),
}

impl Event {
    /// Whom it is about, if it is about one worker.
    #[must_use]
    pub const fn worker(&self) -> Option<WorkerId> {
        match self {
            Self::WorkerRegistered { registration, .. } => Some(registration.worker),
            Self::WorkerReported { worker, .. }
            | Self::WorkerRenamed { worker, .. }
            | Self::WorkerTagsChanged { worker, .. }
            | Self::WorkerSuspended { worker, .. }
            | Self::WorkerDrainStarted { worker, .. }
            | Self::WorkerDrainExpired { worker, .. }
            | Self::WorkerResumed { worker, .. }
            | Self::WorkerLost { worker, .. }
            | Self::WorkerReturned { worker, .. }
            | Self::WorkerDeregistered { worker, .. }
            | Self::VariableSet { scope: Scope::Worker(worker), .. }
            | Self::VariableRemoved { scope: Scope::Worker(worker), .. } => Some(*worker),
            Self::VariableSet { scope: Scope::Tag(_), .. }
            | Self::VariableRemoved { scope: Scope::Tag(_), .. }
            | Self::RegistrationSecretReset { .. }
            | Self::Token(_)
            | Self::Certificate(_) => None,
        }
    }
}
