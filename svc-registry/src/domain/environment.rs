//! Variables that operators give to the runs of one worker, or of all workers with a tag.

use std::collections::BTreeMap;

use ids::{Timestamp, WorkerId};

use super::{Event, Rejection, State, Worker};

/// Variables of one scope.
const MOST: usize = 64;
/// Bytes of what the runs of one worker get, names and values together: an order with it still fits into a
/// message.
pub const MOST_BYTES: usize = 1 << 20;

/// Whose environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Worker(WorkerId),
    /// In lower case.
    Tag(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub value: Value,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Plain(String),
    /// Encrypted with the master key.
    Sealed(Vec<u8>),
}

impl Value {
    /// Bytes, as it is kept.
    fn len(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Sealed(sealed) => sealed.len(),
        }
    }
}

/// By name.
pub(super) type Variables = BTreeMap<String, Variable>;

pub(super) fn set_variable(
    state: &State,
    scope: Scope,
    key: String,
    value: Value,
    note: String,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    check_scope(state, &scope)?;
    let known = state.environments.get(&scope);
    match known.and_then(|variables| variables.get(&key)) {
        Some(variable) if variable.value == value => return Ok(vec![]),
        None if known.is_some_and(|variables| variables.len() >= MOST) => {
            return Err(Rejection::TooManyVariables(MOST));
        }
        _ => {}
    }
    let before = known.and_then(|variables| variables.get(&key)).map_or(0, |it| it.value.len());
    if value.len() > before
        && let Some((worker, bytes)) = overfilled(state, &scope, &key, &value)
    {
        return Err(Rejection::EnvironmentTooLarge { worker, bytes });
    }
    Ok(vec![Event::VariableSet { scope, key, value, note, at }])
}

pub(super) fn remove_variable(
    state: &State,
    scope: Scope,
    key: String,
    note: String,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    check_scope(state, &scope)?;
    let is_there = state.environments.get(&scope).is_some_and(|known| known.contains_key(&key));
    Ok(super::when(is_there, Event::VariableRemoved { scope, key, note, at }))
}

/// A worker whose runs would get too much.
fn overfilled(state: &State, scope: &Scope, key: &str, value: &Value) -> Option<(WorkerId, usize)> {
    let added = key.len() + value.len();
    let bytes = |variables: &Variables| -> usize {
        variables.iter().map(|(key, variable)| key.len() + variable.value.len()).sum()
    };
    // Most often all variables together are not too much, whoever gets them.
    if added + state.environments.values().map(bytes).sum::<usize>() <= MOST_BYTES {
        return None;
    }
    let mut getting = state.registered().filter(|(id, known)| gets(*id, known, scope, value));
    getting.find_map(|(id, _)| {
        let environment = state.environment(id).into_iter().filter(|(known, _)| *known != key);
        let bytes: usize = environment.map(|(key, (_, known))| key.len() + known.value.len()).sum();
        (added + bytes > MOST_BYTES).then_some((id, added + bytes))
    })
}

/// What a worker says of itself opens no secret: those of a tag are for workers that operators, or their join
/// tokens, gave the tag.
fn gets(id: WorkerId, worker: &Worker, scope: &Scope, value: &Value) -> bool {
    match (scope, value) {
        (Scope::Worker(scope), _) => *scope == id,
        (Scope::Tag(tag), Value::Plain(_)) => worker.offers(tag),
        (Scope::Tag(tag), Value::Sealed(_)) => worker.offers(tag) && worker.was_given(tag),
    }
}

fn check_scope(state: &State, scope: &Scope) -> Result<(), Rejection> {
    match scope {
        Scope::Worker(worker) => super::registered(state, *worker).map(drop),
        Scope::Tag(_) => Ok(()),
    }
}

impl State {
    /// All variables, by scope and name.
    pub fn variables(&self) -> impl Iterator<Item = (&Scope, &str, &Variable)> {
        self.environments.iter().flat_map(|(scope, variables)| {
            variables.iter().map(move |(key, variable)| (scope, key.as_str(), variable))
        })
    }

    /// What the runs of a worker get: its own variables win over those of its tags, and of two tags
    /// the first wins.
    #[must_use]
    pub fn environment(&self, id: WorkerId) -> BTreeMap<&str, (&Scope, &Variable)> {
        let Some(worker) = self.worker(id) else { return BTreeMap::new() };
        let mut environment = BTreeMap::new();
        // Workers come before tags, and each scope leaves alone what is there.
        for (scope, key, variable) in
            self.variables().filter(|(scope, _, known)| gets(id, worker, scope, &known.value))
        {
            environment.entry(key).or_insert((scope, variable));
        }
        environment
    }

    pub(super) fn set(&mut self, scope: &Scope, key: &str, value: &Value, at: Timestamp) {
        let variable = Variable { value: value.clone(), updated_at: at };
        self.environments.entry(scope.clone()).or_default().insert(key.to_owned(), variable);
    }

    pub(super) fn unset(&mut self, scope: &Scope, key: &str) {
        if let Some(variables) = self.environments.get_mut(scope) {
            variables.remove(key);
            if variables.is_empty() {
                self.environments.remove(scope);
            }
        }
    }
}
