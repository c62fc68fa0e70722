//! Events to and from their stored form.
//!
//! Each event has a stream of its worker, `worker-<id>`; the registration secret has the stream
//! `registration`; what is in `trust` names its streams there.

mod trust;

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::{Timestamp, WorkerId};
use prost::Message;
use proto::registry::events::v1 as stored;

use crate::domain::{Description, Event, Registration};

/// Streams that this service alone writes, by prefix.
pub(crate) const OWNS: &[&str] =
    &["worker-", "registration", "jointoken-", "certificate-", "authority"];

pub(crate) fn stream(event: &Event) -> String {
    match event {
        Event::WorkerRegistered { registration, .. } => format!("worker-{}", registration.worker),
        Event::WorkerReported { worker, .. }
        | Event::WorkerSuspended { worker, .. }
        | Event::WorkerResumed { worker, .. }
        | Event::WorkerLost { worker, .. }
        | Event::WorkerReturned { worker, .. }
        | Event::WorkerDeregistered { worker, .. } => format!("worker-{worker}"),
        Event::RegistrationSecretReset { .. } => "registration".into(),
        Event::Token(event) => trust::token_stream(event),
        Event::Certificate(event) => trust::certificate_stream(event),
    }
}

pub(crate) fn encode(event: &Event) -> Encoded {
    let worker_id = |worker: &WorkerId| worker.to_string();
    match event {
        Event::WorkerRegistered { registration, at } => {
            encoded("WorkerRegistered", &registered(registration, *at))
        }
        Event::WorkerReported { worker, description, at } => {
            encoded("WorkerReported", &reported(*worker, description, *at))
        }
        Event::WorkerSuspended { worker, note, at } => encoded(
            "WorkerSuspended",
            &stored::WorkerSuspended { worker_id: worker_id(worker), note: note.clone(), at: at.0 },
        ),
        Event::WorkerResumed { worker, at } => encoded(
            "WorkerResumed",
            &stored::WorkerResumed { worker_id: worker_id(worker), at: at.0 },
        ),
        Event::WorkerLost { worker, last_contact_at, at } => encoded(
            "WorkerLost",
            &stored::WorkerLost {
                worker_id: worker_id(worker),
                last_contact_at: last_contact_at.0,
                at: at.0,
            },
        ),
        Event::WorkerReturned { worker, at } => encoded(
            "WorkerReturned",
            &stored::WorkerReturned { worker_id: worker_id(worker), at: at.0 },
        ),
        Event::WorkerDeregistered { worker, note, at } => encoded(
            "WorkerDeregistered",
            &stored::WorkerDeregistered {
                worker_id: worker_id(worker),
                note: note.clone(),
                at: at.0,
            },
        ),
        Event::RegistrationSecretReset { sealed, at } => encoded(
            "RegistrationSecretReset",
            &stored::RegistrationSecretReset { sealed: sealed.clone().into(), at: at.0 },
        ),
        Event::Token(event) => trust::encode_token(event),
        Event::Certificate(event) => trust::encode_certificate(event),
    }
}

/// An event of this service; `None` for any other.
pub fn decode(recorded: &Recorded) -> Result<Option<Event>, DecodeError> {
    if !OWNS.iter().any(|prefix| recorded.stream.starts_with(prefix)) {
        return Ok(None);
    }
    check_version(recorded)?;
    event(&recorded.event.event_type, &recorded.event.data)
        .map_err(|why| DecodeError::new(recorded, why))
}

fn event(event_type: &str, data: &[u8]) -> Result<Option<Event>, String> {
    Ok(Some(match event_type {
        "WorkerRegistered" => {
            let event: stored::WorkerRegistered = message(data)?;
            let at = Timestamp(event.at);
            Event::WorkerRegistered { registration: registration(event)?, at }
        }
        "WorkerReported" => {
            let event: stored::WorkerReported = message(data)?;
            let (worker, at) = (worker(&event.worker_id)?, Timestamp(event.at));
            Event::WorkerReported { worker, description: description(event), at }
        }
        "WorkerSuspended" => {
            let stored::WorkerSuspended { worker_id, note, at } = message(data)?;
            Event::WorkerSuspended { worker: worker(&worker_id)?, note, at: Timestamp(at) }
        }
        "WorkerResumed" => {
            let stored::WorkerResumed { worker_id, at } = message(data)?;
            Event::WorkerResumed { worker: worker(&worker_id)?, at: Timestamp(at) }
        }
        "WorkerLost" => {
            let stored::WorkerLost { worker_id, last_contact_at, at } = message(data)?;
            let last_contact_at = Timestamp(last_contact_at);
            Event::WorkerLost { worker: worker(&worker_id)?, last_contact_at, at: Timestamp(at) }
        }
        "WorkerReturned" => {
            let stored::WorkerReturned { worker_id, at } = message(data)?;
            Event::WorkerReturned { worker: worker(&worker_id)?, at: Timestamp(at) }
        }
        "WorkerDeregistered" => {
            let stored::WorkerDeregistered { worker_id, note, at } = message(data)?;
            Event::WorkerDeregistered { worker: worker(&worker_id)?, note, at: Timestamp(at) }
        }
        "RegistrationSecretReset" => {
            let stored::RegistrationSecretReset { sealed, at } = message(data)?;
            Event::RegistrationSecretReset { sealed: sealed.into(), at: Timestamp(at) }
        }
        _ => return trust::decode(event_type, data),
    }))
}

fn registered(registration: &Registration, at: Timestamp) -> stored::WorkerRegistered {
    stored::WorkerRegistered {
        worker_id: registration.worker.to_string(),
        name: registration.name.clone(),
        tags: registration.tags.clone(),
        primary: registration.primary,
        certificate_serial: registration.certificate_serial.clone(),
        certificate_expires_at: registration.certificate_expires_at.0,
        at: at.0,
    }
}

fn registration(event: stored::WorkerRegistered) -> Result<Registration, String> {
    Ok(Registration {
        worker: worker(&event.worker_id)?,
        name: event.name,
        tags: event.tags,
        primary: event.primary,
        certificate_serial: event.certificate_serial,
        certificate_expires_at: Timestamp(event.certificate_expires_at),
    })
}

fn reported(worker: WorkerId, description: &Description, at: Timestamp) -> stored::WorkerReported {
    stored::WorkerReported {
        worker_id: worker.to_string(),
        slots: description.slots as i32,
        tags: description.tags.clone(),
        os: description.os.clone(),
        arch: description.arch.clone(),
        version: description.version.clone(),
        at: at.0,
    }
}

fn description(event: stored::WorkerReported) -> Description {
    Description {
        slots: event.slots.max(0) as u32,
        tags: event.tags,
        os: event.os,
        arch: event.arch,
        version: event.version,
    }
}

fn encoded(event_type: &'static str, message: &impl Message) -> Encoded {
    Encoded { event_type, version: 1, data: message.encode_to_vec() }
}

fn message<M: Message + Default>(data: &[u8]) -> Result<M, String> {
    M::decode(data).map_err(|error| error.to_string())
}

fn worker(text: &str) -> Result<WorkerId, String> {
    text.parse().map_err(|error: ids::ParseIdError| error.to_string())
}

#[cfg(test)]
mod tests;
