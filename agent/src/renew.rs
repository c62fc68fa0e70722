//! Keeps the certificate fresh: at half of its life another one is asked for, for another key, over the
//! connection that stands. No run notices.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode, header};
use identity::Key;
use ids::Timestamp;
use tokio::{sync::watch, time::sleep};

use crate::{
    clock,
    http::{Answer, call, full, request},
    join::Certified,
    primary::Primary,
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
    (left.unwrap_or_default() / 20).clamp(SHORTEST_PAUSE, LOOK)
}

/// `false`: the server cannot.
async fn renew(workshop: &Workshop, primary: &Primary) -> Result<bool, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let key = Key::generate().map_err(|error| told(&error))?;
    let asked = key.request().map_err(|error| told(&error))?;
    let body = serde_json::json!({ "request": asked }).to_string();
    let request = request(Method::POST, "/api/v1/worker/certificate")
        .header(header::CONTENT_TYPE, "application/json")
        .body(full(body))
        .expect("a constant path makes a valid request");
    let answer = call(primary.control(), request).await.map_err(|error| told(&error))?;
    let certified = match answer.status {
        StatusCode::OK => understand(&answer)?,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED if !knows_us(&answer) => {
            return Ok(false);
        }
        _ => return Err(answer.text()),
    };
    let Certified { certificate, ca_certificates, .. } = certified;
    let credentials = key.certified(certificate, ca_certificates).map_err(|error| told(&error))?;
    workshop.home.save_credentials(&credentials).map_err(|error| told(&error))?;
    primary.show(credentials).await.map_err(|error| told(&error))?;
    Ok(true)
}

fn understand(answer: &Answer) -> Result<Certified, String> {
    answer.json().ok_or_else(|| "the answer is not the one that a Gaia server gives".to_owned())
}

/// A worker that was removed is not found either; the session hears it and ends.
fn knows_us(answer: &Answer) -> bool {
    answer.text().contains("worker")
}

fn now() -> Timestamp {
    Timestamp(u64::try_from(clock::millis()).unwrap_or_default())
}
