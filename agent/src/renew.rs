//! Keeps the certificate fresh: at half of its life another one is asked for, for another key, over the
//! connection that stands. No run notices. An agent that was away for longer shows the one that expired, and
//! is the same worker again.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode, header};
use identity::Key;
use ids::Timestamp;
use tokio::{sync::watch, time::sleep};
use tonic::body::Body;
use transport::Channel;

use crate::{
    clock,
    http::{Answer, call, full, request},
    join::Certified,
    primary::{Primary, SERVER_NAME},
    workshop::Workshop,
};

/// The longest wait for the time to renew: the clock may be set, and the machine suspended.
const LOOK: Duration = Duration::from_mins(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// Renews for as long as the agent has this identity; `renewed` changes each time.
pub(crate) async fn keep_fresh(
    workshop: Arc<Workshop>,
    primary: Primary,
    renewed: watch::Sender<()>,
) {
    loop {
        is_due(&primary).await;
        match renew(&workshop, &primary).await {
            Ok(true) => {
                tracing::info!(worker = primary.worker(), "the certificate is renewed");
                renewed.send_replace(());
            }
            Ok(false) => {
                tracing::info!("this server renews no certificates");
                return renewed.closed().await;
            }
            Err(why) => {
                tracing::warn!(why, "cannot renew the certificate yet; trying again");
                sleep(pause(&primary)).await;
            }
        }
    }
}

async fn is_due(primary: &Primary) {
    let jitter: [u8; 1] = identity::random();
    while let Ok(validity) = primary.credentials().validity() {
        let left = validity.renew_at(jitter[0]).since(now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(LOOK)).await;
    }
}

/// Some tries fit into what is left.
fn pause(primary: &Primary) -> Duration {
    let left = primary.credentials().validity().map(|validity| validity.until.since(now()));
    match left {
        Ok(left) if !left.is_zero() => (left / 20).clamp(SHORTEST_PAUSE, LOOK),
        // It is too late: nothing is gained by haste.
        _ => LOOK,
    }
}

/// `false`: the server cannot.
async fn renew(workshop: &Workshop, primary: &Primary) -> Result<bool, String> {
    let _alone = primary.renewing().await;
    let key = Key::generate().map_err(told)?;
    let body = serde_json::json!({ "request": key.request().map_err(told)? });
    let request = asking("/api/v1/worker/certificate", &body);
    let answer = call(primary.control(), request).await.map_err(told)?;
    match answer.status {
        StatusCode::OK => take(workshop, primary, &key, &answer).await.map(|()| true),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED if !knows_us(&answer) => Ok(false),
        _ => Err(answer.text()),
    }
}

/// Gets another certificate for the key of one that expired while the agent was away. `false`: the
/// server gives it none.
pub(crate) async fn revive(workshop: &Workshop, primary: &Primary) -> Result<bool, String> {
    let _alone = primary.renewing().await;
    let expired = primary.credentials();
    let key = Key::from_pem(&expired.key).map_err(told)?;
    let request = key.request().map_err(told)?;
    let body = serde_json::json!({ "request": request, "certificate": expired.certificate });
    // The expired certificate is shown in no handshake.
    let tls = identity::anonymous_client_tls(&expired.ca).map_err(told)?;
    let config = &workshop.config;
    let channel = Channel::remote(&config.server, SERVER_NAME, tls, config.protocols.into());
    let request = asking("/api/v1/worker/certificate/expired", &body);
    let answer = call(&channel.map_err(told)?, request).await.map_err(told)?;
    if answer.status == StatusCode::OK {
        return take(workshop, primary, &key, &answer).await.map(|()| true);
    }
    if answer.is_passing() {
        return Err(answer.text());
    }
    tracing::warn!(why = answer.text(), "the expired certificate cannot be renewed");
    Ok(false)
}

fn asking(path: &str, body: &serde_json::Value) -> http::Request<Body> {
    request(Method::POST, path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(full(body.to_string()))
        .expect("a constant path makes a valid request")
}

async fn take(
    workshop: &Workshop,
    primary: &Primary,
    key: &Key,
    answer: &Answer,
) -> Result<(), String> {
    let Certified { certificate, ca_certificates, .. } = understand(answer)?;
    let credentials = key.certified(certificate, ca_certificates).map_err(told)?;
    workshop.home.save_credentials(&credentials).map_err(told)?;
    primary.show(credentials).await.map_err(told)
}

fn understand(answer: &Answer) -> Result<Certified, String> {
    answer.json().ok_or_else(|| "the answer is not the one that a Gaia server gives".to_owned())
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A worker that was removed is not found either; the session hears it and ends.
fn knows_us(answer: &Answer) -> bool {
    answer.text().contains("worker")
}

fn now() -> Timestamp {
    Timestamp(u64::try_from(clock::millis()).unwrap_or_default())
}
