//! Removing stored binaries that nothing needs.

use axum::{Json, extract::State};
use proto::artifacts::v1::CollectGarbageRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Query, is_on};
use crate::{door::User, error::ApiError, gate::Gate};

#[derive(Deserialize)]
pub(crate) struct Switches {
    dry_run: Option<String>,
}

pub(crate) async fn collect(
    State(gate): State<Gate>,
    user: User,
    Query(Switches { dry_run }): Query<Switches>,
) -> Result<Json<Value>, ApiError> {
    let dry_run = is_on(dry_run.as_deref());
    let request = CollectGarbageRequest { dry_run, caller: Some(user.caller) };
    let figures = gate.artifacts().collect_garbage(request).await?.into_inner();
    Ok(Json(json!({
        "dry_run": dry_run,
        "artifacts": figures.artifacts,
        "objects": figures.objects,
        "bytes": figures.bytes,
        "kept_artifacts": figures.kept_artifacts,
        "kept_bytes": figures.kept_bytes,
    })))
}
