//! A client of the public REST API, over the same HTTP/3-first channel that agents use.
//!
//! Types here name the part of each answer that the commands read; `serde_json::Value` is kept where
//! a command only passes an answer on.

use std::fmt;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tonic::body::Body;
use tower::{Service as _, ServiceExt};
use transport::{Channel, ChannelError, Protocols};

use crate::sse;

/// The name that the gateway's certificate holds, whatever address it is reached by.
pub const SERVER_NAME: &str = "gaia-pipeline.io";

/// The largest answer that is read into memory, in bytes.
const LARGEST_ANSWER: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{server} cannot be reached: is the server running, and is this its address?")]
    Unreachable { server: String, source: ChannelError },
    /// The server's own words.
    #[error("{message}")]
    Refused { status: http::StatusCode, message: String },
    #[error("the server went away while {path} was followed: ask again when it is back")]
    CutOff { path: String, source: tonic::Status },
    #[error("read the answer to {method} {path}: {why}")]
    Answer { method: Method, path: String, why: String },
}

impl ClientError {
    pub fn status(&self) -> Option<http::StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// A connection to one server, with or without a login.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    server: String,
    token: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.server)
    }
}

/// In what form an answer is wanted, and after which event.
#[derive(Clone, Copy, Debug)]
struct Wish<'a> {
    accept: &'static str,
    last: &'a str,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

#[derive(Debug, Deserialize)]
struct LoggedIn {
    tokenstring: String,
}

impl Client {
    /// `ca` is the PEM text of the CA to trust.
    pub fn new(server: &str, ca: &str, token: Option<String>) -> anyhow::Result<Self> {
        Self::over(server, ca, token, Protocols::PreferHttp3)
    }

    /// The same over these protocols alone.
    pub fn over(
        server: &str,
        ca: &str,
        token: Option<String>,
        protocols: Protocols,
    ) -> anyhow::Result<Self> {
        let tls = identity::anonymous_client_tls(ca)?;
        let channel = Channel::remote(server, SERVER_NAME, tls, protocols)?;
        Ok(Self { channel, server: server.to_owned(), token })
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    /// What the last call went over.
    pub fn protocol(&self) -> Option<transport::Protocol> {
        self.channel.protocol()
    }

    /// Logs in; later calls carry the token that is returned.
    pub async fn login(&mut self, username: &str, password: &str) -> Result<String, ClientError> {
        let body = serde_json::json!({ "username": username, "password": password });
        let answer: LoggedIn = self.send(Method::POST, "/api/v1/login", Some(&body)).await?;
        self.token = Some(answer.tokenstring.clone());
        Ok(answer.tokenstring)
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None::<&()>).await
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// Calls for effect; the answer's body does not matter.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, ClientError> {
        let response = self
            .request(&method, path, body, Wish { accept: "application/json", last: "" })
            .await?;
        let limited = http_body_util::Limited::new(response.into_body(), LARGEST_ANSWER);
        let collected = limited.collect().await.map_err(|error| ClientError::Answer {
            method,
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        Ok(collected.to_bytes())
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let bytes = self.call(method.clone(), path, body).await?;
        // Gaia's way to say that there are none.
        let bytes = if bytes.trim_ascii() == b"null" { Bytes::from_static(b"[]") } else { bytes };
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer {
            method,
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    /// Follows a stream of server-sent events until the server ends it.
    pub async fn follow(
        &self,
        path: &str,
    ) -> Result<
        impl Stream<Item = Result<sse::Event, ClientError>> + Send + Unpin + use<>,
        ClientError,
    > {
        self.follow_from(path, "").await
    }

    /// Follows a stream from what comes after the event with this id; empty: from its beginning.
    pub async fn follow_from(
        &self,
        path: &str,
        last: &str,
    ) -> Result<
        impl Stream<Item = Result<sse::Event, ClientError>> + Send + Unpin + use<>,
        ClientError,
    > {
        let path = path.to_owned();
        let wish = Wish { accept: "text/event-stream", last };
        let response = self.request(&Method::GET, &path, None::<&()>, wish).await?;
        let body = response.into_body().into_data_stream();
        let start = (body, sse::Parser::default());
        let events = stream::unfold(start, move |(mut body, mut parser)| {
            let path = path.clone();
            async move {
                loop {
                    if let Some(event) = parser.next_event() {
                        return Some((Ok(event), (body, parser)));
                    }
                    match body.next().await? {
                        Ok(bytes) => parser.push(&bytes),
                        Err(error) => {
                            let error = ClientError::CutOff { path, source: error };
                            return Some((Err(error), (body, parser)));
                        }
                    }
                }
            }
        });
        Ok(Box::pin(events))
    }

    async fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&impl Serialize>,
        wish: Wish<'_>,
    ) -> Result<Response<Body>, ClientError> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::ACCEPT, wish.accept)
            .header(header::USER_AGENT, concat!("gaia/", env!("CARGO_PKG_VERSION")));
        if !wish.last.is_empty() {
            request = request.header("last-event-id", wish.last);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let invalid = |why: String| ClientError::Answer {
            method: method.clone(),
            path: path.to_owned(),
            why,
        };
        let body = match body {
            None => Body::empty(),
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                let bytes = serde_json::to_vec(body).map_err(|error| invalid(error.to_string()))?;
                Body::new(http_body_util::Full::new(Bytes::from(bytes)))
            }
        };
        let request = request.body(body).map_err(|error| invalid(error.to_string()))?;
        let mut channel = self.channel.clone();
        let unreachable = |source| ClientError::Unreachable { server: self.server.clone(), source };
        let response =
            channel.ready().await.map_err(unreachable)?.call(request).await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

async fn refusal(response: Response<Body>) -> ClientError {
    let status = response.status();
    let limited = http_body_util::Limited::new(response.into_body(), 64 << 10);
    let text = match limited.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    let message = match serde_json::from_str::<Refusal>(&text) {
        Ok(refusal) => refusal.message,
        Err(_) if text.is_empty() => format!("the server answered {status}"),
        Err(_) => text,
    };
    ClientError::Refused { status, message }
}
