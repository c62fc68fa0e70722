//! Variables for the environment of runs, of one worker or of all with a tag. Secret values go in, and
//! only runs get them out.

use axum::{Json, extract::State};
use ids::WorkerId;
use proto::registry::v1::{
    ListVariablesRequest, RemoveVariableRequest, Scope, SetVariableRequest, Variable, scope,
};
use serde::{Deserialize, Serialize};

use super::{Payload, Query, User};
use crate::{error::ApiError, gate::Gate, limits};

/// Whose environment: one of the two.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Whose {
    /// Id.
    worker: String,
    tag: String,
}

impl Whose {
    fn read(self) -> Result<Option<Scope>, ApiError> {
        let scope = match (self.worker.is_empty(), self.tag.is_empty()) {
            (true, true) => return Ok(None),
            (false, true) => {
                let worker: WorkerId = self.worker.parse().map_err(|error| {
                    ApiError::bad_request(format!("`worker` is wrong: {error}"))
                })?;
                scope::Scope::WorkerId(worker.to_string())
            }
            (true, false) => {
                limits::text("tag", &self.tag, limits::NAME)?;
                scope::Scope::Tag(self.tag)
            }
            (false, false) => {
                return Err(ApiError::bad_request("`worker` and `tag` are both given: give one"));
            }
        };
        Ok(Some(Scope { scope: Some(scope) }))
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct VariableJson {
    /// Id of the worker, or the tag; the other is empty.
    worker: String,
    tag: String,
    key: String,
    /// Stars, where it is secret.
    value: String,
    secret: bool,
    updated_at: u64,
}

impl From<Variable> for VariableJson {
    fn from(variable: Variable) -> Self {
        let (worker, tag) = match variable.scope.and_then(|scope| scope.scope) {
            Some(scope::Scope::WorkerId(worker)) => (worker, String::new()),
            Some(scope::Scope::Tag(tag)) => (String::new(), tag),
            None => Default::default(),
        };
        let Variable { key, value, secret, updated_at, .. } = variable;
        let value = if secret { "**********".to_owned() } else { value };
        Self { worker, tag, key, value, secret, updated_at }
    }
}

pub(crate) async fn list(
    State(gate): State<Gate>,
    _: User,
    Query(whose): Query<Whose>,
) -> Result<Json<Vec<VariableJson>>, ApiError> {
    let request = ListVariablesRequest { scope: whose.read()? };
    let variables = gate.registry().list_variables(request).await?.into_inner().variables;
    Ok(Json(variables.into_iter().map(VariableJson::from).collect()))
}

#[derive(Deserialize)]
struct Put {
    #[serde(flatten)]
    whose: Whose,
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    secret: bool,
    #[serde(default)]
    note: String,
}

fn check(put: &Put) -> Result<(), ApiError> {
    limits::text("key", &put.key, limits::NAME)?;
    limits::text("value", &put.value, limits::SECRET)?;
    limits::text("note", &put.note, limits::NOTE)
}

pub(crate) async fn set(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<Json<VariableJson>, ApiError> {
    let put: Put = payload.json()?;
    check(&put)?;
    let Put { whose, key, value, secret, note } = put;
    let (scope, caller) = (whose.read()?, Some(user.caller));
    let request = SetVariableRequest { scope, key, value, secret, note, caller };
    let variable = gate.registry().set_variable(request).await?.into_inner();
    Ok(Json(variable.into()))
}

pub(crate) async fn remove(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<&'static str, ApiError> {
    let put: Put = payload.json()?;
    check(&put)?;
    let Put { whose, key, note, .. } = put;
    let (scope, caller) = (whose.read()?, Some(user.caller));
    gate.registry().remove_variable(RemoveVariableRequest { scope, key, note, caller }).await?;
    Ok("variable successfully removed")
}
