//! What operators did, to and from its stored form.

use eventlog::owner::Encoded;
use ids::Timestamp;
use proto::registry::events::v1::{
    self as stored,
    variable_removed::Scope as RemovedScope,
    variable_set::{Scope as SetScope, Value as SetValue},
};

use super::{Event, Scope, Value, encoded, message, worker};

/// Panics on an event that is not of this file; see [`super::encode`].
pub(super) fn encode_worker(event: &Event) -> Encoded {
    match event.clone() {
        Event::WorkerRenamed { worker, name, note, at } => {
            let (worker_id, at) = (worker.to_string(), at.0);
            encoded("WorkerRenamed", 1, &stored::WorkerRenamed { worker_id, name, note, at })
        }
        Event::WorkerTagsChanged { worker, added, removed, note, at } => {
            let (worker_id, at) = (worker.to_string(), at.0);
            let changed = stored::WorkerTagsChanged { worker_id, added, removed, note, at };
            encoded("WorkerTagsChanged", 1, &changed)
        }
        Event::WorkerSuspended { worker, until, note, at } => {
            let (worker_id, at, until) = (worker.to_string(), at.0, or_zero(until));
            encoded("WorkerSuspended", 2, &stored::WorkerSuspended { worker_id, note, at, until })
        }
        Event::WorkerDrainStarted { worker, deadline, note, at } => {
            let (worker_id, at, deadline) = (worker.to_string(), at.0, or_zero(deadline));
            let started = stored::WorkerDrainStarted { worker_id, note, at, deadline };
            encoded("WorkerDrainStarted", 1, &started)
        }
        Event::WorkerDrainExpired { worker, at } => {
            let worker_id = worker.to_string();
            encoded("WorkerDrainExpired", 1, &stored::WorkerDrainExpired { worker_id, at: at.0 })
        }
        Event::WorkerResumed { worker, note, at } => {
            let (worker_id, at) = (worker.to_string(), at.0);
            encoded("WorkerResumed", 2, &stored::WorkerResumed { worker_id, at, note })
        }
        Event::WorkerDeregistered { worker, forced, note, at } => {
            let (worker_id, at) = (worker.to_string(), at.0);
            let deregistered = stored::WorkerDeregistered { worker_id, note, at, forced };
            encoded("WorkerDeregistered", 2, &deregistered)
        }
        other => unreachable!("{other:?} is stored elsewhere"),
    }
}

/// Panics on an event that is not of this file; see [`super::encode`].
pub(super) fn encode_variable(event: &Event) -> Encoded {
    match event.clone() {
        Event::VariableSet { scope, key, value, note, at } => {
            let scope = match scope {
                Scope::Worker(worker) => SetScope::WorkerId(worker.to_string()),
                Scope::Tag(tag) => SetScope::Tag(tag),
            };
            let value = match value {
                Value::Plain(text) => SetValue::Plain(text),
                Value::Sealed(bytes) => SetValue::Sealed(bytes.into()),
            };
            let (scope, value, at) = (Some(scope), Some(value), at.0);
            encoded("VariableSet", 1, &stored::VariableSet { scope, key, value, note, at })
        }
        Event::VariableRemoved { scope, key, note, at } => {
            let scope = match scope {
                Scope::Worker(worker) => RemovedScope::WorkerId(worker.to_string()),
                Scope::Tag(tag) => RemovedScope::Tag(tag),
            };
            let (scope, at) = (Some(scope), at.0);
            encoded("VariableRemoved", 1, &stored::VariableRemoved { scope, key, note, at })
        }
        other => unreachable!("{other:?} is stored elsewhere"),
    }
}

pub(super) fn decode(event_type: &str, data: &[u8]) -> Result<Option<Event>, String> {
    Ok(Some(match event_type {
        "WorkerRenamed" => {
            let stored::WorkerRenamed { worker_id, name, note, at } = message(data)?;
            Event::WorkerRenamed { worker: worker(&worker_id)?, name, note, at: Timestamp(at) }
        }
        "WorkerTagsChanged" => {
            let stored::WorkerTagsChanged { worker_id, added, removed, note, at } = message(data)?;
            let (worker, at) = (worker(&worker_id)?, Timestamp(at));
            Event::WorkerTagsChanged { worker, added, removed, note, at }
        }
        "WorkerSuspended" => {
            let stored::WorkerSuspended { worker_id, note, at, until } = message(data)?;
            let (worker, at, until) = (worker(&worker_id)?, Timestamp(at), unless_zero(until));
            Event::WorkerSuspended { worker, until, note, at }
        }
        "WorkerDrainStarted" => {
            let stored::WorkerDrainStarted { worker_id, note, at, deadline } = message(data)?;
            let (worker, at) = (worker(&worker_id)?, Timestamp(at));
            Event::WorkerDrainStarted { worker, deadline: unless_zero(deadline), note, at }
        }
        "WorkerDrainExpired" => {
            let stored::WorkerDrainExpired { worker_id, at } = message(data)?;
            Event::WorkerDrainExpired { worker: worker(&worker_id)?, at: Timestamp(at) }
        }
        "WorkerResumed" => {
            let stored::WorkerResumed { worker_id, at, note } = message(data)?;
            Event::WorkerResumed { worker: worker(&worker_id)?, note, at: Timestamp(at) }
        }
        "WorkerDeregistered" => {
            let stored::WorkerDeregistered { worker_id, note, at, forced } = message(data)?;
            let (worker, at) = (worker(&worker_id)?, Timestamp(at));
            Event::WorkerDeregistered { worker, forced, note, at }
        }
        "VariableSet" => variable_set(message(data)?)?,
        "VariableRemoved" => variable_removed(message(data)?)?,
        _ => return Ok(None),
    }))
}

fn variable_set(event: stored::VariableSet) -> Result<Event, String> {
    let scope = match event.scope.ok_or("it has no scope")? {
        SetScope::WorkerId(id) => Scope::Worker(worker(&id)?),
        SetScope::Tag(tag) => Scope::Tag(tag),
    };
    let value = match event.value.ok_or("it has no value")? {
        SetValue::Plain(text) => Value::Plain(text),
        SetValue::Sealed(bytes) => Value::Sealed(bytes.into()),
    };
    let stored::VariableSet { key, note, at, .. } = event;
    Ok(Event::VariableSet { scope, key, value, note, at: Timestamp(at) })
}

fn variable_removed(event: stored::VariableRemoved) -> Result<Event, String> {
    let scope = match event.scope.ok_or("it has no scope")? {
        RemovedScope::WorkerId(id) => Scope::Worker(worker(&id)?),
        RemovedScope::Tag(tag) => Scope::Tag(tag),
    };
    let stored::VariableRemoved { key, note, at, .. } = event;
    Ok(Event::VariableRemoved { scope, key, note, at: Timestamp(at) })
}

fn or_zero(time: Option<Timestamp>) -> u64 {
    time.map_or(0, Timestamp::as_millis)
}

fn unless_zero(millis: u64) -> Option<Timestamp> {
    (millis != 0).then_some(Timestamp(millis))
}
