//! Who may do what: services by their certificate, everybody else by a user's name and password.
//!
//! A service reads everything and writes to the streams that it owns. A user reads everything and, with
//! the right to, writes everything. Whoever is neither gets one answer only: which version of the
//! protocol is spoken, since clients ask for that before they show who they are.

mod users;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use identity::Peer;
use tonic::Status;
use transport::Connection;

use super::refusal::denied;
pub use users::{Rights, Users, UsersError};

/// Asked without credentials by every client that chooses what to ask by the answer.
const OPEN: &str = "/event_store.client.server_features.ServerFeatures/GetSupportedMethods";

/// Whom a served log lets in.
#[derive(Debug, Default)]
pub struct Access {
    users: Users,
}

impl Access {
    /// The services of the house, each with the streams that [`authz::table::may_append`] gives it, and these
    /// users.
    #[must_use]
    pub fn new(users: Users) -> Self {
        Self { users }
    }

    async fn caller(
        &self,
        connection: Option<&Connection>,
        shown: Option<HeaderValue>,
    ) -> Result<Caller, Status> {
        let address = connection.map(|connection| connection.address.ip());
        match connection.map(|connection| connection.peer.clone()) {
            Some(Peer::Service(name)) => return Ok(Caller::Service(name)),
            Some(Peer::Worker(id)) => {
                let why = format!("worker {id} may not use the log; services and users may");
                return Err(denied(why));
            }
            Some(Peer::Anonymous) => {}
            None => return Err(unknown()),
        }
        let shown = shown.ok_or_else(|| {
            Status::unauthenticated("show a service's certificate, or a user's name and password")
        })?;
        let (name, rights) = self.users.verify(shown.as_bytes(), address).await?;
        Ok(Caller::User { name, rights })
    }
}

fn unknown() -> Status {
    denied("a client of unknown origin may not use the log".into())
}

/// Who calls; an extension of every request that is let in.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Service(String),
    User { name: String, rights: Rights },
}

/// The host and port by which the client has found us; an extension of every request.
#[derive(Clone, Debug)]
pub(super) struct Reached(pub(super) Authority);

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

pub(super) async fn admit(
    State(access): State<Arc<Access>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.uri().path() != OPEN {
        let connection = request.extensions().get::<Connection>().cloned();
        let shown = request.headers().get(header::AUTHORIZATION).cloned();
        match access.caller(connection.as_ref(), shown).await {
            Ok(caller) => drop(request.extensions_mut().insert(caller)),
            Err(status) if is_grpc(request.headers()) => return status.into_http(),
            Err(status) => {
                return (StatusCode::UNAUTHORIZED, status.message().to_owned()).into_response();
            }
        }
    }
    let host =
        request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    if let Some(authority) = request.uri().authority().cloned().or(host) {
        request.extensions_mut().insert(Reached(authority));
    }
    next.run(request).await
}

impl Caller {
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get().cloned();
        caller.ok_or_else(unknown)
    }

    /// Whether it may append to the stream, change its metadata, or delete it.
    pub(super) fn may_write(&self, stream: &str) -> Result<(), Status> {
        let written = stream.strip_prefix("$$").unwrap_or(stream);
        let (name, may) = match self {
            Self::Service(name) => (name, authz::table::may_append(name, written)),
            Self::User { name, rights } => (name, *rights == Rights::ReadWrite),
        };
        if may {
            return Ok(());
        }
        Err(denied(format!("{name} may read the log, but not write to `{stream}`")))
    }
}
