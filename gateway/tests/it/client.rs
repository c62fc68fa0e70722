//! A client of the REST API and of the bulk routes, whatever it goes over.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tonic::body::Body;
use tower::ServiceExt;
use transport::Channel;

/// Longest wait for anything in these tests.
pub(crate) async fn patiently<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it takes too long")
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    token: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().expect("an error has a message").to_owned()
    }

    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel, token: None }
    }

    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().expect("the client is logged in")
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub(crate) async fn login(&self, username: &str, password: &str) -> Self {
        let body = serde_json::json!({ "username": username, "password": password });
        let user = self.post("login", body).await.expect(200).json();
        self.with_token(user["tokenstring"].as_str().unwrap())
    }

    /// Under `/api/v1/`.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, &format!("/api/v1/{path}"), &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.json(Method::POST, path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, &format!("/api/v1/{path}"), &[], Bytes::new()).await
    }

    pub(crate) async fn json(&self, method: Method, path: &str, body: Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.call(method, &format!("/api/v1/{path}"), &json, body.to_string()).await
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = patiently(self.open(method, path, headers, body.into())).await;
        let (parts, body) = response.into_parts();
        let body = patiently(body.collect()).await.expect("the answer is whole").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn follow(&self, path: &str, last_event_id: Option<&str>) -> Events {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        let path = format!("/api/v1/{path}");
        let response = patiently(self.open(Method::GET, &path, &headers, Bytes::new())).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), text: String::new(), ready: VecDeque::new() }
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Body::new(Full::new(body))).unwrap();
        self.channel.clone().oneshot(request).await.expect("the gateway answers")
    }
}

/// Server-sent events.
#[derive(Debug)]
pub(crate) struct Events {
    body: Body,
    text: String,
    ready: VecDeque<Event>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Event {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }

    /// The text of a piece of log.
    pub(crate) fn log(&self) -> String {
        assert_eq!(self.name, "log", "{self:?}");
        self.json().as_str().unwrap().to_owned()
    }
}

impl Events {
    /// `None`: the server ended the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        patiently(async {
            loop {
                if let Some(event) = self.ready.pop_front() {
                    return Some(event);
                }
                let frame = self.body.frame().await?.expect("the stream does not break off");
                let data = frame.into_data().unwrap_or_default();
                self.text += std::str::from_utf8(&data).unwrap();
                while let Some((block, rest)) = self.text.split_once("\n\n") {
                    self.ready.extend(parse(block));
                    self.text = rest.to_string();
                }
            }
        })
        .await
    }

    pub(crate) async fn expect(&mut self, name: &str) -> Event {
        let event = self.next().await.expect("another event");
        assert_eq!(event.name, name, "{event:?}");
        event
    }
}

fn parse(block: &str) -> Option<Event> {
    let mut event = Event::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", name)) => event.name = name.into(),
            Some(("id", id)) => event.id = id.into(),
            Some(("data", data)) => event.data += data,
            _ => {}
        }
    }
    (!event.name.is_empty()).then_some(event)
}
