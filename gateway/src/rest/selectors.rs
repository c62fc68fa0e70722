//! Selectors: what they mean on the workers that there are.

use axum::{Json, extract::State};
use proto::scheduler::v1::{CheckSelectorRequest, SelectorFinding, selector_finding::Severity};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Payload;
use crate::{error::ApiError, gate::Gate, limits};

#[derive(Debug, Deserialize)]
pub(crate) struct Wish {
    selector: String,
    /// The pipeline's type and tags, which it asks for besides.
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    tags: Vec<String>,
    /// Id or name of the only worker that may be meant.
    #[serde(default)]
    worker: String,
}

/// Always 200: what is wrong with the selector is the answer.
pub(crate) async fn check(
    State(gate): State<Gate>,
    payload: Payload,
) -> Result<Json<Value>, ApiError> {
    let wish: Wish = payload.json()?;
    limits::text("type", &wish.r#type, limits::NAME)?;
    limits::text("worker", &wish.worker, limits::NAME)?;
    limits::tags(&wish.tags)?;
    let request = CheckSelectorRequest {
        selector: wish.selector,
        pipeline_type: wish.r#type,
        tags: wish.tags,
        pinned_worker: wish.worker,
    };
    let checked = gate.scheduler().check_selector(request).await?.into_inner();
    let valid = checked.findings.iter().all(|finding| finding.severity() != Severity::Error);
    let findings: Vec<_> = checked.findings.iter().map(finding).collect();
    Ok(Json(json!({
        "valid": valid,
        "selector": checked.selector,
        "findings": findings,
        "matching": checked.matching,
        "workers": checked.workers,
    })))
}

fn finding(finding: &SelectorFinding) -> Value {
    let severity = match finding.severity() {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    json!({ "severity": severity, "from": finding.from, "to": finding.to, "text": finding.text })
}

/// A 400 that says where the selector is wrong.
pub(crate) async fn must_be_readable(gate: &Gate, selector: &str) -> Result<(), ApiError> {
    if selector.trim().is_empty() {
        return Ok(());
    }
    let request = CheckSelectorRequest { selector: selector.into(), ..Default::default() };
    let checked = gate.scheduler().check_selector(request).await?.into_inner();
    let Some(error) = checked.findings.iter().find(|found| found.severity() == Severity::Error)
    else {
        return Ok(());
    };
    let message = format!("`selector`, at character {}: {}", error.from, error.text);
    Err(ApiError::bad_request(message).with("at", error.from))
}
