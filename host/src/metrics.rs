//! What a process counts: `GET /metrics`, for whoever shows a certificate of a service of the house. The
//! gateway has a route of its own, for users.

use authz::{Refusal, Route};
use axum::{
    Router, extract::Request, http::StatusCode, http::header, response::IntoResponse, routing::get,
};
use identity::Peer;
use transport::Connection;

pub(crate) fn router() -> Router {
    Router::new().route(Route::Metrics.path(), get(show))
}

async fn show(request: Request) -> impl IntoResponse {
    let connection = request.extensions().get::<Connection>();
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    if connection.is_some_and(|connection| matches!(connection.peer, Peer::Service(_))) {
        return (StatusCode::OK, text, authz::metrics());
    }
    let refusal = Refusal::WrongPeer;
    authz::count(Route::Metrics.path(), refusal.reason());
    (StatusCode::FORBIDDEN, text, format!("{refusal}\n"))
}
