//! The vault: keys are shown, values never.

use axum::{Json, extract::State, http::StatusCode};
use proto::access::v1::{ListSecretsRequest, PutSecretRequest, RemoveSecretRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Params, Payload, User};
use crate::{error::ApiError, gate::Gate, limits};

pub(crate) async fn list(State(gate): State<Gate>) -> Result<Json<Value>, ApiError> {
    let secrets = gate.access().list_secrets(ListSecretsRequest {}).await?.into_inner().secrets;
    let shown = secrets.into_iter().map(|secret| {
        json!({ "key": secret.key, "value": "**********", "updated_at": secret.updated_at })
    });
    Ok(Json(shown.collect()))
}

/// Gaia names the value differently in its two routes; either name is taken in both.
#[derive(Deserialize)]
struct Secret {
    key: String,
    #[serde(alias = "newvalue")]
    value: String,
}

pub(crate) async fn create(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<(StatusCode, &'static str), ApiError> {
    let Secret { key, value } = payload.json()?;
    limits::text("key", &key, limits::NAME)?;
    limits::text("value", &value, limits::SECRET)?;
    let request = PutSecretRequest { key, value, caller: Some(user.caller) };
    gate.access().put_secret(request).await?;
    Ok((StatusCode::CREATED, "secret successfully set"))
}

pub(crate) async fn update(
    gate: State<Gate>,
    user: User,
    payload: Payload,
) -> Result<(StatusCode, &'static str), ApiError> {
    create(gate, user, payload).await
}

pub(crate) async fn remove(
    State(gate): State<Gate>,
    user: User,
    params: Params,
) -> Result<&'static str, ApiError> {
    let key = params.find("key").unwrap_or_default().to_owned();
    limits::text("key", &key, limits::NAME)?;
    gate.access().remove_secret(RemoveSecretRequest { key, caller: Some(user.caller) }).await?;
    Ok("secret successfully deleted")
}
