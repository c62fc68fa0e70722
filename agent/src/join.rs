//! Joining: the registration secret against an identity.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, StatusCode, header};
use identity::Credentials;
use serde::{Deserialize, Serialize};
use transport::Channel;

use crate::{
    AgentError,
    config::Config,
    home::Identity,
    http::{Answer, call, full, request},
    primary::SERVER_NAME,
    retry::Pauses,
};

#[derive(Serialize)]
struct Registration<'a> {
    secret: &'a str,
    name: String,
    tags: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    primary: bool,
}

/// The fields are Gaia's.
#[derive(Deserialize)]
struct Registered {
    uniqueid: String,
    cert: String,
    key: String,
    cacert: String,
}

/// Asks until the server answers. A server that is away is waited for; one that refuses is not.
pub(crate) async fn join(config: &Config, tags: &[String]) -> Result<Identity, AgentError> {
    if config.secret.is_empty() {
        return Err(AgentError::NoSecret);
    }
    let tls = identity::anonymous_client_tls(&ca(&config.ca_certificate)?)?;
    let channel = Channel::remote(&config.server, SERVER_NAME, tls, config.protocols.into())?;
    let registration = Registration {
        secret: &config.secret,
        name: config.worker_name(),
        tags,
        primary: config.primary,
    };
    let body = serde_json::to_vec(&registration).expect("plain fields make JSON");
    let mut pauses = Pauses::new();
    loop {
        let request = request(Method::POST, "/api/v1/worker/register")
            .header(header::CONTENT_TYPE, "application/json")
            .body(full(body.clone()))
            .expect("a constant path makes a valid request");
        let why = match call(&channel, request).await {
            Ok(answer) if !answer.is_passing() => return understand(&config.server, &answer),
            Ok(answer) => answer.text(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(server = config.server, why, "cannot join yet; trying again");
        pauses.pause().await;
    }
}

/// The settings hold the text itself or a path.
fn ca(setting: &str) -> Result<String, AgentError> {
    if setting.trim().is_empty() {
        return Err(AgentError::NoCa);
    }
    if setting.contains("-----BEGIN") {
        return Ok(setting.to_owned());
    }
    let path = std::path::PathBuf::from(setting);
    std::fs::read_to_string(&path).map_err(|source| AgentError::Ca { path, source })
}

fn understand(server: &str, answer: &Answer) -> Result<Identity, AgentError> {
    let server = server.to_owned();
    match answer.status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
            return Err(AgentError::WrongSecret { server });
        }
        _ => return Err(AgentError::Refused { server, why: answer.text() }),
    }
    let strange = || AgentError::Refused {
        server: server.clone(),
        why: "its answer is not the one that a Gaia server gives".into(),
    };
    let registered: Registered = answer.json().ok_or_else(strange)?;
    let pem = |text: &str| {
        let bytes = STANDARD.decode(text).map_err(|_| strange())?;
        String::from_utf8(bytes).map_err(|_| strange())
    };
    let credentials = Credentials {
        certificate: pem(&registered.cert)?,
        key: pem(&registered.key)?,
        ca: pem(&registered.cacert)?,
    };
    Ok(Identity { worker: registered.uniqueid, credentials })
}
