//! Events to and from their stored form.
//!
//! Reads every version ever written, writes the newest. Each event has a stream of its worker,
//! `worker-<id>`. Variables have streams of their own, `environment-<id>` and `environment-tags`, since
//! nobody is shown those; so has the registration secret, `registration`; what is in `trust` names its
//! streams there.

mod operator;
mod trust;

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::{Timestamp, WorkerId};
use prost::Message;
use proto::registry::events::v1 as stored;

use crate::domain::{Description, Event, Registration, Scope, Value};

/// Streams that this service alone writes, by prefix.
pub(crate) const OWNS: &[&str] =
    &["worker-", "environment-", "registration", "jointoken-", "certificate-", "authority"];

pub(crate) fn stream(event: &Event) -> String {
    match event {
        Event::VariableSet { scope, .. } | Event::VariableRemoved { scope, .. } => match scope {
            Scope::Worker(worker) => format!("environment-{worker}"),
            Scope::Tag(_) => "environment-tags".into(),
        },
        Event::Token(event) => trust::token_stream(event),
        Event::Certificate(event) => trust::certificate_stream(event),
        _ => event.worker().map_or("registration".into(), |worker| format!("worker-{worker}")),
    }
}

pub(crate) fn encode(event: &Event) -> Encoded {
    match event {
        Event::WorkerRegistered { registration, at } => {
            encoded("WorkerRegistered", 1, &registered(registration, *at))
        }
        Event::WorkerReported { worker, description, at } => {
            encoded("WorkerReported", 2, &reported(*worker, description, *at))
        }
        Event::WorkerLost { worker, last_contact_at, at } => {
            let (worker_id, last_contact_at) = (worker.to_string(), last_contact_at.0);
            encoded("WorkerLost", 1, &stored::WorkerLost { worker_id, last_contact_at, at: at.0 })
        }
        Event::WorkerReturned { worker, at } => {
            let worker_id = worker.to_string();
            encoded("WorkerReturned", 1, &stored::WorkerReturned { worker_id, at: at.0 })
        }
        Event::RegistrationSecretReset { sealed, at } => {
            let (sealed, at) = (sealed.clone().into(), at.0);
            encoded("RegistrationSecretReset", 1, &stored::RegistrationSecretReset { sealed, at })
        }
        Event::WorkerRenamed { .. }
        | Event::WorkerTagsChanged { .. }
        | Event::WorkerSuspended { .. }
        | Event::WorkerDrainStarted { .. }
        | Event::WorkerDrainExpired { .. }
        | Event::WorkerResumed { .. }
        | Event::WorkerDeregistered { .. } => operator::encode_worker(event),
        Event::VariableSet { .. } | Event::VariableRemoved { .. } => {
            operator::encode_variable(event)
        }
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
        "WorkerLost" => {
            let stored::WorkerLost { worker_id, last_contact_at, at } = message(data)?;
            let last_contact_at = Timestamp(last_contact_at);
            Event::WorkerLost { worker: worker(&worker_id)?, last_contact_at, at: Timestamp(at) }
        }
        "WorkerReturned" => {
            let stored::WorkerReturned { worker_id, at } = message(data)?;
            Event::WorkerReturned { worker: worker(&worker_id)?, at: Timestamp(at) }
        }
        "RegistrationSecretReset" => {
            let stored::RegistrationSecretReset { sealed, at } = message(data)?;
            Event::RegistrationSecretReset { sealed: sealed.into(), at: Timestamp(at) }
        }
        other => match operator::decode(other, data)? {
            Some(event) => event,
            None => return trust::decode(other, data),
        },
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
        detected_tags: description.detected.clone(),
    }
}

fn description(event: stored::WorkerReported) -> Description {
    Description {
        slots: event.slots.max(0) as u32,
        tags: event.tags,
        detected: event.detected_tags,
        os: event.os,
        arch: event.arch,
        version: event.version,
    }
}

fn encoded(event_type: &'static str, version: u32, message: &impl Message) -> Encoded {
    Encoded { event_type, version, data: message.encode_to_vec() }
}

fn message<M: Message + Default>(data: &[u8]) -> Result<M, String> {
    M::decode(data).map_err(|error| error.to_string())
}

fn worker(text: &str) -> Result<WorkerId, String> {
    text.parse().map_err(|error: ids::ParseIdError| error.to_string())
}

#[cfg(test)]
mod tests;
