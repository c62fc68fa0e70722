//! Joining: a token, and a key of the agent's own, against an identity; or Gaia's way, the registration
//! secret.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, StatusCode, header};
use identity::{Credentials, JoinToken, Key};
use serde::{Deserialize, Serialize};
use transport::Channel;

use crate::{
    AgentError,
    config::Config,
    home::{Home, Identity},
    http::{Answer, HttpError, call, full, request},
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

#[derive(Serialize)]
struct Joining<'a> {
    token: &'a str,
    request: String,
    name: String,
    tags: &'a [String],
}

/// The answer to joining by token, and to a renewal.
#[derive(Deserialize)]
pub(crate) struct Certified {
    uniqueid: String,
    pub(crate) certificate: String,
    pub(crate) ca_certificates: String,
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
pub(crate) async fn join(
    config: &Config,
    home: &Home,
    tags: &[String],
) -> Result<Identity, AgentError> {
    if !config.token.is_empty() {
        return join_by_token(config, home, tags).await;
    }
    if config.secret.is_empty() {
        return Err(AgentError::NoToken);
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

/// The token's secret is shown to nobody but the server whose CA it names, and the key to nobody at all.
async fn join_by_token(
    config: &Config,
    home: &Home,
    tags: &[String],
) -> Result<Identity, AgentError> {
    let token: JoinToken = config.token.parse()?;
    let tls = identity::pinned_client_tls(token.ca)?;
    let channel = Channel::remote(&config.server, SERVER_NAME, tls, config.protocols.into())?;
    let key = home.joining_key()?;
    let name = config.worker_name();
    let text = token.to_text();
    let joining = Joining { token: &text, request: key.request()?, name, tags };
    let body = serde_json::to_vec(&joining).expect("plain fields make JSON");
    let mut pauses = Pauses::new();
    loop {
        let request = request(Method::POST, "/api/v1/worker/join")
            .header(header::CONTENT_TYPE, "application/json")
            .body(full(body.clone()))
            .expect("a constant path makes a valid request");
        let why = match call(&channel, request).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                return certified(config, &key, &answer);
            }
            // Two tries of this agent met each other.
            Ok(answer) if answer.is_passing() || answer.status == StatusCode::CONFLICT => {
                answer.text()
            }
            Ok(answer) => return Err(refused(config, answer.text())),
            Err(error) => match chain(&error) {
                strange if strange.contains("UnknownIssuer") => return Err(strange_server(config)),
                why => why,
            },
        };
        tracing::warn!(server = config.server, why, "cannot join yet; trying again");
        pauses.pause().await;
    }
}

/// Whether another identity can be had of a server whose CA the agent does not know. It keeps the one that
/// it has until then: whoever answers there may be anybody.
pub(crate) fn may_change_ca(config: &Config, known: &Credentials) -> bool {
    config.primary || names_another_ca(config, known)
}

/// Whether the join token is of a CA that the agent does not know.
pub(crate) fn names_another_ca(config: &Config, known: &Credentials) -> bool {
    config.token.parse::<JoinToken>().is_ok_and(|token| !known.has_root(token.ca))
}

fn certified(config: &Config, key: &Key, answer: &Answer) -> Result<Identity, AgentError> {
    let strange = || refused(config, "its answer is not the one that a Gaia server gives".into());
    let certified: Certified = answer.json().ok_or_else(strange)?;
    let credentials = key.certified(certified.certificate, certified.ca_certificates)?;
    Ok(Identity { worker: certified.uniqueid, credentials })
}

fn refused(config: &Config, why: String) -> AgentError {
    AgentError::Refused { server: config.server.clone(), why }
}

fn strange_server(config: &Config) -> AgentError {
    let why = "its certificate is not of the CA that the join token names: check the address, and \
               that the token was made by this server";
    refused(config, why.into())
}

/// The error and its causes.
fn chain(error: &HttpError) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
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
