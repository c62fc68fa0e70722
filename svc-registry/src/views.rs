//! What clients are shown: what the log knows of a worker, and whether it is connected.

use ids::{Timestamp, WorkerId};
use proto::registry::v1 as wire;

use crate::domain::{PauseKind, Source, Worker, Workers};

/// What only a running service knows of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    pub connected: bool,
    pub last_at: Timestamp,
}

/// All registered workers, oldest first. Without a running service, `contact` answers `None`.
pub fn view(workers: &Workers, contact: impl Fn(WorkerId) -> Option<Contact>) -> Vec<wire::Worker> {
    let mut workers: Vec<_> = workers.registered().collect();
    workers.sort_by_key(|&(id, worker)| (worker.registered_at, id));
    workers.into_iter().map(|(id, worker)| view_of(id, worker, contact(id))).collect()
}

/// One worker.
#[must_use]
pub fn view_of(id: WorkerId, worker: &Worker, contact: Option<Contact>) -> wire::Worker {
    let last_contact_at = contact.map_or(worker.last_contact_at, |contact| contact.last_at);
    let description = &worker.description;
    let labels: Vec<_> = worker.labels().into_iter().map(label).collect();
    let pause = worker.pause.as_ref();
    let deregistered = worker.deregistered.as_ref();
    let note = deregistered.map(|end| &end.note).or(pause.map(|pause| &pause.note));
    wire::Worker {
        worker_id: id.to_string(),
        name: worker.name.clone(),
        state: state_of(worker).into(),
        slots: description.slots as i32,
        tags: labels.iter().map(|label| label.tag.clone()).collect(),
        registered_at: worker.registered_at.0,
        last_contact_at: last_contact_at.0,
        os: description.os.clone(),
        arch: description.arch.clone(),
        version: description.version.clone(),
        note: note.cloned().unwrap_or_default(),
        certificate_expires_at: worker.certificate_expires_at.0,
        primary: worker.primary,
        connected: contact.is_some_and(|contact| contact.connected),
        labels,
        until: pause.and_then(|pause| pause.until).map_or(0, Timestamp::as_millis),
        drain_expired: pause.is_some_and(|pause| pause.expired),
        by_token: worker.by_token,
        forced: deregistered.is_some_and(|end| end.forced),
    }
}

fn label((tag, source): (&str, Source)) -> wire::Label {
    let source = match source {
        Source::Detected => wire::LabelSource::Detected,
        Source::Configured => wire::LabelSource::Configured,
        Source::Operator => wire::LabelSource::Operator,
    };
    wire::Label { tag: tag.to_owned(), source: source.into() }
}

pub(crate) fn state_of(worker: &Worker) -> wire::WorkerState {
    if worker.deregistered.is_some() {
        return wire::WorkerState::Deregistered;
    }
    if worker.lost {
        return wire::WorkerState::Lost;
    }
    match worker.pause.as_ref().map(|pause| pause.kind) {
        Some(PauseKind::Suspended) => wire::WorkerState::Suspended,
        Some(PauseKind::Draining) => wire::WorkerState::Draining,
        None => wire::WorkerState::Active,
    }
}
