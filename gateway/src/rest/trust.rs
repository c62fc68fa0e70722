//! Who gets in, and who stays: join tokens, joining and renewing, certificates, the CA's roll-over.

use axum::{Json, extract::State};
use ids::{JoinTokenId, WorkerId};
use proto::registry::v1::{
    Certificate, Certified, CreateJoinTokenRequest, JoinToken, JoinWorkerRequest,
    ListCertificatesRequest, ListJoinTokensRequest, ListWorkersRequest,
    RenewWorkerCertificateRequest, RevokeCertificatesRequest, RevokeJoinTokenRequest,
    RollOverCaRequest, revoke_certificates_request::Which,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Anyone, Params, Payload, User};
use crate::{error::ApiError, gate::Gate, limits, peer::WorkerPeer};

/// What our agents send to join.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Joining {
    token: String,
    /// A request for a certificate, PEM: the key stays where it is.
    request: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewing {
    request: String,
}

/// From a worker that was away until its certificate had expired: no handshake lets it in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RenewingExpired {
    /// For the key of the expired certificate, which proves that the worker still has it.
    request: String,
    certificate: String,
}

/// What joining and renewing answer.
#[derive(Debug, Serialize)]
pub(crate) struct CertifiedJson {
    uniqueid: String,
    /// PEM, like the next.
    certificate: String,
    ca_certificates: String,
    expires_at: u64,
}

impl From<Certified> for CertifiedJson {
    fn from(certified: Certified) -> Self {
        let Certified { worker_id, certificate, ca_certificates, expires_at } = certified;
        Self { uniqueid: worker_id, certificate, ca_certificates, expires_at }
    }
}

pub(crate) async fn join(
    State(gate): State<Gate>,
    Anyone(caller): Anyone,
    payload: Payload,
) -> Result<Json<CertifiedJson>, ApiError> {
    let Joining { token, request, name, tags } = payload.json()?;
    limits::text("token", &token, limits::TOKEN)?;
    limits::text("request", &request, limits::CERTIFICATE_REQUEST)?;
    limits::text("name", &name, limits::NAME)?;
    limits::tags(&tags)?;
    let request = JoinWorkerRequest { token, request, name, tags, caller: Some(caller) };
    let certified = gate.registry().join_worker(request).await?.into_inner();
    Ok(Json(certified.into()))
}

pub(crate) async fn renew(
    State(gate): State<Gate>,
    worker: WorkerPeer,
    payload: Payload,
) -> Result<Json<CertifiedJson>, ApiError> {
    let Renewing { request } = payload.json()?;
    limits::text("request", &request, limits::CERTIFICATE_REQUEST)?;
    let request = RenewWorkerCertificateRequest {
        request,
        worker_id: worker.id.to_string(),
        expired_certificate: String::new(),
        caller: Some(worker.caller),
    };
    let certified = gate.registry().renew_worker_certificate(request).await?.into_inner();
    Ok(Json(certified.into()))
}

pub(crate) async fn renew_expired(
    State(gate): State<Gate>,
    Anyone(caller): Anyone,
    payload: Payload,
) -> Result<Json<CertifiedJson>, ApiError> {
    let RenewingExpired { request, certificate } = payload.json()?;
    limits::text("request", &request, limits::CERTIFICATE_REQUEST)?;
    limits::text("certificate", &certificate, limits::CERTIFICATE_REQUEST)?;
    let request = RenewWorkerCertificateRequest {
        request,
        worker_id: String::new(),
        expired_certificate: certificate,
        caller: Some(caller),
    };
    let certified = gate.registry().renew_worker_certificate(request).await?.into_inner();
    Ok(Json(certified.into()))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NewToken {
    name: String,
    tags: Vec<String>,
    uses: u32,
    /// Milliseconds.
    ttl: u64,
    from: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct TokenJson {
    id: String,
    name: String,
    tags: Vec<String>,
    uses: u32,
    used: usize,
    from: Vec<String>,
    created_at: u64,
    expires_at: u64,
    workers: Vec<String>,
    open: bool,
    revoked: bool,
    note: String,
    /// In clear; only in the answer to its creation.
    #[serde(skip_serializing_if = "String::is_empty")]
    token: String,
}

impl From<JoinToken> for TokenJson {
    fn from(token: JoinToken) -> Self {
        Self {
            id: token.token_id,
            name: token.name,
            tags: token.tags,
            uses: token.uses,
            used: token.worker_ids.len(),
            from: token.networks,
            created_at: token.created_at,
            expires_at: token.expires_at,
            workers: token.worker_ids,
            open: token.open,
            revoked: token.revoked,
            note: token.note,
            token: String::new(),
        }
    }
}

pub(crate) async fn create_token(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<Json<TokenJson>, ApiError> {
    let NewToken { name, tags, uses, ttl, from } = payload.json_or_default()?;
    limits::text("name", &name, limits::NAME)?;
    limits::tags(&tags)?;
    let request = CreateJoinTokenRequest {
        name,
        tags,
        uses,
        valid_ms: ttl,
        networks: from,
        primary: false,
        caller: Some(user.caller),
    };
    let created = gate.registry().create_join_token(request).await?.into_inner();
    let terms = created.terms.unwrap_or_default();
    Ok(Json(TokenJson { token: created.token, ..terms.into() }))
}

pub(crate) async fn list_tokens(
    State(gate): State<Gate>,
    _: User,
) -> Result<Json<Vec<TokenJson>>, ApiError> {
    let listed = gate.registry().list_join_tokens(ListJoinTokensRequest {}).await?.into_inner();
    Ok(Json(listed.tokens.into_iter().map(TokenJson::from).collect()))
}

#[derive(Debug, Default, Deserialize)]
struct Note {
    #[serde(default)]
    note: String,
}

pub(crate) async fn revoke_token(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<Json<TokenJson>, ApiError> {
    let token: JoinTokenId = params.get("tokenid")?;
    let Note { note } = payload.json_or_default()?;
    let caller = Some(user.caller);
    let request = RevokeJoinTokenRequest { token_id: token.to_string(), note, caller };
    Ok(Json(gate.registry().revoke_join_token(request).await?.into_inner().into()))
}

#[derive(Debug, Serialize)]
pub(crate) struct CertificateJson {
    serial: String,
    /// Id; empty: it is a service's.
    worker: String,
    /// Of the worker, or of the service.
    name: String,
    issued_at: u64,
    expires_at: u64,
    /// 0: it is not.
    revoked_at: u64,
    note: String,
}

async fn shown(
    gate: &Gate,
    certificates: Vec<Certificate>,
) -> Result<Json<Vec<CertificateJson>>, ApiError> {
    let workers =
        gate.registry().list_workers(ListWorkersRequest::default()).await?.into_inner().workers;
    let name = |certificate: &Certificate| {
        let worker = workers.iter().find(|worker| worker.worker_id == certificate.worker_id);
        worker.map_or_else(|| certificate.service.clone(), |worker| worker.name.clone())
    };
    let shown = certificates.into_iter().map(|certificate| CertificateJson {
        name: name(&certificate),
        serial: certificate.serial,
        worker: certificate.worker_id,
        issued_at: certificate.issued_at,
        expires_at: certificate.expires_at,
        revoked_at: certificate.revoked_at,
        note: certificate.note,
    });
    Ok(Json(shown.collect()))
}

pub(crate) async fn list_certificates(
    State(gate): State<Gate>,
    _: User,
) -> Result<Json<Vec<CertificateJson>>, ApiError> {
    let listed = gate.registry().list_certificates(ListCertificatesRequest {}).await?;
    shown(&gate, listed.into_inner().certificates).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Revocation {
    serial: String,
    worker: String,
    service: String,
    note: String,
}

pub(crate) async fn revoke_certificates(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<Json<Vec<CertificateJson>>, ApiError> {
    let Revocation { serial, worker, service, note } = payload.json_or_default()?;
    let which = match (serial.is_empty(), worker.is_empty(), service.is_empty()) {
        (false, true, true) => Which::Serial(serial),
        (true, false, true) => {
            let worker: WorkerId = worker
                .parse()
                .map_err(|error| ApiError::bad_request(format!("worker: {error}: correct it")))?;
            Which::WorkerId(worker.to_string())
        }
        (true, true, false) => Which::Service(service),
        _ => {
            let message = "name what to revoke, by one of `serial`, `worker` and `service`";
            return Err(ApiError::bad_request(message.to_owned()));
        }
    };
    let caller = Some(user.caller);
    let request = RevokeCertificatesRequest { which: Some(which), note, caller };
    let revoked = gate.registry().revoke_certificates(request).await?;
    shown(&gate, revoked.into_inner().certificates).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RollOver {
    /// Milliseconds; 0: as long as the longest certificate lives.
    overlap: u64,
    at_once: bool,
    note: String,
}

pub(crate) async fn roll_over_ca(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<Json<Value>, ApiError> {
    let RollOver { overlap, at_once, note } = payload.json_or_default()?;
    let caller = Some(user.caller);
    let request = RollOverCaRequest { overlap_ms: overlap, at_once, note, caller };
    let rolled = gate.registry().roll_over_ca(request).await?.into_inner();
    let answer = json!({
        "fingerprint": rolled.fingerprint,
        "overlap_until": rolled.overlap_until,
    });
    Ok(Json(answer))
}
