//! The door of every route: holds the caller to the route's row of the table before the handler is
//! entered, and leaves behind who it is.
//!
//! A handler that asks for a [`User`], a [`WorkerPeer`] or a [`Leased`] run gets what the door has
//! verified; none of them can be had in another way.

use std::time::Duration;

use authz::{Grants, Lease as LeaseNeeded, Needs, Role, Route};
use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use proto::{access::v1::AuthenticateRequest, common::v1::Caller, scheduler::v1::Run};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::{Code, Status};
use transport::Connection;

use crate::{
    bulk,
    error::ApiError,
    gate::Gate,
    limits,
    peer::{self, WorkerPeer},
};

/// Somebody who showed a valid token.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) caller: Caller,
}

/// The run of the lease that the worker holds.
#[derive(Clone, Debug)]
pub(crate) struct Leased(pub(crate) Run);

/// Somebody who need not say who they are: only where they call from is known.
#[derive(Debug)]
pub(crate) struct Anyone(pub(crate) Caller);

/// Bytes of a body at most, where it is less than what users may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MostBytes(pub(crate) usize);

/// Of somebody who need not say who they are. Arguments of a start may have half of it.
const STRANGERS_BODY: usize = 2 * limits::ARGUMENTS;

/// Why the door stays shut: for the caller, and for the metrics.
struct Shut {
    reason: &'static str,
    error: ApiError,
}

pub(crate) async fn admit(
    State((gate, route)): State<(Gate, Route)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match check(&gate, route, &mut parts).await {
        Ok(()) => {
            if route.needs() == Needs::Anyone {
                parts.extensions.insert(MostBytes(STRANGERS_BODY));
            }
            let ticket = Ticket::of(route, &parts);
            let response = next.run(Request::from_parts(parts, body)).await;
            match ticket.filter(|_| is_followed(&response)) {
                Some(ticket) => ticket.guard(gate, response),
                None => response,
            }
        }
        Err(Shut { reason, error }) => {
            if !error.status().is_server_error() {
                authz::count(route.path(), reason);
            }
            error.into_response()
        }
    }
}

/// With what a user got in, for an answer that goes on: it ends soon after its user may not have it any
/// more.
struct Ticket {
    token: String,
    role: Option<Role>,
}

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(2);

impl Ticket {
    fn of(route: Route, parts: &Parts) -> Option<Self> {
        let role = match route.needs() {
            Needs::User => None,
            Needs::Role(role) => Some(role),
            _ => return None,
        };
        Some(Self { token: bearer(parts)?, role })
    }

    fn guard(self, gate: Gate, response: Response) -> Response {
        response.map(|body| {
            let events = body.into_data_stream();
            Body::from_stream(events.take_until(Box::pin(self.until_void(gate))))
        })
    }

    /// Waits until its user is removed, has another password, or may not do this any more.
    async fn until_void(self, gate: Gate) {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // While svc-access is away, nothing is known.
            if let Err(Shut { error, .. }) = session(&gate, self.token.clone(), self.role).await
                && !error.status().is_server_error()
            {
                return;
            }
        }
    }
}

/// Whether it goes on for as long as its reader stays.
fn is_followed(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

async fn check(gate: &Gate, route: Route, parts: &mut Parts) -> Result<(), Shut> {
    match route.needs() {
        Needs::Anyone => Ok(()),
        Needs::User => user(gate, parts, None).await,
        Needs::Role(role) => user(gate, parts, Some(role)).await,
        Needs::Worker(lease) => worker(gate, parts, lease).await,
        Needs::Services(_) | Needs::AnyService | Needs::Nobody => Err(Shut {
            reason: "wrong_peer",
            error: ApiError::forbidden("this is not for callers from outside"),
        }),
    }
}

/// Whom a session belongs to, if it may do this.
async fn session(gate: &Gate, token: String, role: Option<Role>) -> Result<String, Shut> {
    let shut = |reason| move |error| Shut { reason, error };
    let session = gate.access().authenticate(AuthenticateRequest { token }).await;
    let session = session.map_err(not_in_session).map_err(shut("no_session"))?.into_inner();
    let name = session.username;
    if let Some(role) = role
        && !Grants::of_names(&session.roles).allow(role)
    {
        let error = ApiError::forbidden(format!(
            "`{name}` has not the role `{}`: ask an administrator for it",
            role.full_name()
        ));
        return Err(shut("no_role")(error));
    }
    Ok(name)
}

async fn user(gate: &Gate, parts: &mut Parts, role: Option<Role>) -> Result<(), Shut> {
    let shut = |reason| move |error| Shut { reason, error };
    let token = bearer(parts).ok_or_else(|| {
        shut("no_session")(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "no token was sent: log in with POST /api/v1/login, then send `Authorization: Bearer TOKEN`",
        ))
    })?;
    let name = session(gate, token, role).await?;
    let connection = connection(parts).map_err(shut("no_connection"))?;
    let caller = peer::caller(connection, format!("user:{name}"));
    parts.extensions.insert(User { name, caller });
    Ok(())
}

fn not_in_session(refusal: Status) -> ApiError {
    if refusal.code() != Code::Unauthenticated {
        return refusal.into();
    }
    let message = format!("{}: log in with POST /api/v1/login", refusal.message());
    ApiError::new(StatusCode::UNAUTHORIZED, message)
}

async fn worker(gate: &Gate, parts: &mut Parts, lease: LeaseNeeded) -> Result<(), Shut> {
    let worker = WorkerPeer::of(&parts.extensions).map_err(|refusal| {
        let status = match refusal {
            authz::Refusal::NoCertificate => StatusCode::UNAUTHORIZED,
            _ => StatusCode::FORBIDDEN,
        };
        Shut { reason: refusal.reason(), error: ApiError::new(status, refusal.to_string()) }
    })?;
    let held = match lease {
        LeaseNeeded::None => Ok(None),
        LeaseNeeded::Present => bulk::present_lease(gate, &worker, parts).await.map(Some),
        LeaseNeeded::OwnAttempt => bulk::own_attempt(gate, &worker, parts).await.map(|()| None),
    };
    let held = held.map_err(|error| Shut { reason: "no_lease", error })?;
    parts.extensions.insert(worker);
    if let Some(run) = held {
        parts.extensions.insert(Leased(run));
    }
    Ok(())
}

fn bearer(parts: &Parts) -> Option<String> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let fits = scheme.eq_ignore_ascii_case("bearer") && token.len() <= limits::TOKEN;
    fits.then(|| token.trim().to_owned())
}

fn connection(parts: &Parts) -> Result<&Connection, ApiError> {
    parts.extensions.get::<Connection>().ok_or_else(|| {
        Status::internal("the gateway does not know who is calling: serve it by transport::Server")
            .into()
    })
}

/// What the door left behind. Absent only if the route's row does not ask for it.
fn verified<T: Clone + Send + Sync + 'static>(parts: &Parts) -> Result<T, ApiError> {
    parts.extensions.get::<T>().cloned().ok_or_else(|| {
        Status::internal("the table asks for nobody whom this route could answer").into()
    })
}

impl FromRequestParts<Gate> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, ApiError> {
        verified(parts)
    }
}

impl FromRequestParts<Gate> for WorkerPeer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, ApiError> {
        verified(parts)
    }
}

impl FromRequestParts<Gate> for Leased {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, ApiError> {
        verified(parts)
    }
}

impl FromRequestParts<Gate> for Anyone {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Gate) -> Result<Self, ApiError> {
        Ok(Self(peer::caller(connection(parts)?, String::new())))
    }
}
