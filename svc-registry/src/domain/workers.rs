//! All workers that there ever were: the part of the state that the past is shown from.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use eventlog::Fold;
use ids::{Timestamp, WorkerId};

use super::{Deregistered, Event, Pause, PauseKind, Worker, certificate, token};

/// Registered ones, and those that were deregistered. A clone shares every worker that neither changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    known: BTreeMap<WorkerId, Arc<Worker>>,
    /// Who redeemed a join token and is not registered yet.
    joining: BTreeSet<WorkerId>,
}

impl Fold for Workers {
    type Event = Event;

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::WorkerRegistered { registration, at } => {
                let by_token = self.joining.remove(&registration.worker);
                let new = Worker { by_token, ..Worker::new(registration, *at) };
                self.known.insert(registration.worker, Arc::new(new));
            }
            Event::Token(token::Event::TokenRedeemed { worker, .. }) => {
                self.joining.insert(*worker);
            }
            Event::WorkerReported { worker, description, at } => self.change(*worker, |known| {
                known.description = description.clone();
                known.last_contact_at = *at;
            }),
            Event::WorkerRenamed { worker, name, .. } => {
                self.change(*worker, |known| known.name.clone_from(name));
            }
            Event::WorkerTagsChanged { worker, added, removed, .. } => {
                self.change(*worker, |known| {
                    known.operator_tags.retain(|tag| !removed.contains(tag));
                    known.operator_tags.extend_from_slice(added);
                });
            }
            Event::WorkerSuspended { worker, until, note, .. } => {
                self.pause(*worker, PauseKind::Suspended, *until, note);
            }
            Event::WorkerDrainStarted { worker, deadline, note, .. } => {
                self.pause(*worker, PauseKind::Draining, *deadline, note);
            }
            Event::WorkerDrainExpired { worker, .. } => self.change(*worker, |known| {
                if let Some(pause) = &mut known.pause {
                    pause.expired = true;
                }
            }),
            Event::WorkerResumed { worker, .. } => self.change(*worker, |known| known.pause = None),
            Event::WorkerLost { worker, last_contact_at, .. } => self.change(*worker, |known| {
                known.lost = true;
                known.last_contact_at = *last_contact_at;
            }),
            Event::WorkerReturned { worker, at } => self.change(*worker, |known| {
                known.lost = false;
                known.last_contact_at = *at;
            }),
            Event::WorkerDeregistered { worker, forced, note, .. } => {
                let deregistered = Deregistered { note: note.clone(), forced: *forced };
                self.change(*worker, |known| known.deregistered = Some(deregistered));
            }
            Event::Certificate(certificate::Event::CertificateIssued { certificate, .. }) => {
                self.certify(certificate);
            }
            _ => {}
        }
    }
}

impl Workers {
    #[must_use]
    pub fn get(&self, worker: WorkerId) -> Option<&Worker> {
        self.known.get(&worker).map(AsRef::as_ref)
    }

    /// In order of their ids, without those that were deregistered.
    pub fn registered(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        let known = self.known.iter().filter(|(_, known)| known.deregistered.is_none());
        known.map(|(&id, known)| (id, known.as_ref()))
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.known.iter().map(|(&id, known)| (id, known.as_ref()))
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
        if let Some(known) = self.known.get_mut(&worker) {
            change(Arc::make_mut(known));
        }
    }

    fn pause(&mut self, worker: WorkerId, kind: PauseKind, until: Option<Timestamp>, note: &str) {
        let pause = Pause { kind, note: note.to_owned(), until, expired: false };
        self.change(worker, |known| known.pause = Some(pause));
    }
}
