//! Who may call: the layer that every service of the house wears.

use crate::{Connection, call::is_grpc};
use axum::{
    body::Body,
    extract::Request,
    http::{Response, StatusCode},
    middleware::{self, Next},
    response::IntoResponse,
};
use identity::Peer;

/// Refuses (403, or `PermissionDenied` for gRPC) whoever is not a service of the house. Every
/// service's router wears it, the gateway's does not. A request of unknown origin is refused too.
pub fn services_only(router: axum::Router) -> axum::Router {
    router.layer(middleware::from_fn(admit_services))
}

async fn admit_services(request: Request, next: Next) -> Response<Body> {
    let caller = match request.extensions().get::<Connection>() {
        Some(Connection { peer: Peer::Service(_), .. }) => return next.run(request).await,
        Some(Connection { peer: Peer::Worker(id), .. }) => format!("worker {id}"),
        Some(Connection { peer: Peer::Anonymous, .. }) => "a client without a certificate".into(),
        None => "a client of unknown origin".to_owned(),
    };
    let why = format!("{caller} may not call this; only services of the house may");
    if is_grpc(request.headers()) {
        tonic::Status::permission_denied(why).into_http()
    } else {
        (StatusCode::FORBIDDEN, why).into_response()
    }
}
