//! The layer that stands before every RPC: it admits whom the table names, and nobody else.

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{self, Next},
};
use http::{Extensions, HeaderMap, Response};
use identity::Peer;
use proto::Rpc;
use tonic::Status;
use transport::Connection;

use crate::{Needs, table, tally};

/// Why a call was refused. The texts tell what to do, and nothing of who is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such method here")]
    Unknown,
    #[error(
        "no client certificate was shown: register this worker, then call with its certificate"
    )]
    NoCertificate,
    #[error("who is calling may not make this call")]
    WrongPeer,
    #[error(
        "`uniqueid` names another worker than the certificate: use the certificate of the \
         registration that answered this id"
    )]
    WrongId,
    #[error("it is not known who is calling: serve this by transport::Server")]
    NoConnection,
}

impl Refusal {
    /// For metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NoCertificate => "no_certificate",
            Self::WrongPeer => "wrong_peer",
            Self::WrongId => "wrong_id",
            Self::NoConnection => "no_connection",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Unknown => Self::unimplemented(text),
            Refusal::NoCertificate | Refusal::NoConnection => Self::unauthenticated(text),
            Refusal::WrongPeer | Refusal::WrongId => Self::permission_denied(text),
        }
    }
}

/// Refuses, before any handler, every RPC that the table does not give to its caller. Every router
/// of gRPC services wears it.
pub fn guard(router: Router) -> Router {
    router.layer(middleware::from_fn(admit))
}

async fn admit(request: Request, next: Next) -> Response<Body> {
    let rpc = Rpc::of_path(request.uri().path());
    match check(rpc, request.extensions(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let call = rpc.map_or("unknown", Rpc::path);
            tally::count(call, refusal.reason());
            tracing::debug!(call, connection = ?request.extensions().get::<Connection>(), "{refusal}");
            Status::from(refusal).into_http()
        }
    }
}

fn check(rpc: Option<Rpc>, extensions: &Extensions, headers: &HeaderMap) -> Result<(), Refusal> {
    let peer = &extensions.get::<Connection>().ok_or(Refusal::NoConnection)?.peer;
    let needs = table::of_rpc(rpc.ok_or(Refusal::Unknown)?);
    match (needs, peer) {
        (Needs::Services(names), Peer::Service(name)) if names.contains(&name.as_str()) => Ok(()),
        (Needs::AnyService, Peer::Service(_)) => Ok(()),
        (Needs::Worker(_), Peer::Worker(id)) => {
            // Gaia's agents name themselves in every call; it must be what the certificate says.
            let own = id.to_string();
            let said = headers.get_all("uniqueid");
            let own = said.iter().all(|id| id.as_bytes().eq_ignore_ascii_case(own.as_bytes()));
            own.then_some(()).ok_or(Refusal::WrongId)
        }
        (Needs::Worker(_), Peer::Anonymous) => Err(Refusal::NoCertificate),
        _ => Err(Refusal::WrongPeer),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::any;
    use tower::ServiceExt as _;
    use transport::Channel;

    use super::*;

    async fn code(peer: Peer, path: &str) -> i32 {
        let router = guard(Router::new().fallback(any(|| async { "in" })));
        let request = http::Request::post(path).header("content-type", "application/grpc");
        let request = request.body(tonic::body::Body::empty()).unwrap();
        let response = Channel::local(router, peer).oneshot(request).await.unwrap();
        let code = response.headers().get("grpc-status");
        code.map_or(0, |code| code.to_str().unwrap().parse().unwrap())
    }

    #[tokio::test]
    async fn each_rpc_admits_whom_its_row_names() {
        let worker = Peer::Worker("0191d3f0-0000-7000-8000-000000000001".parse().unwrap());
        let peers = ["gateway", "svc-pipelines", "svc-logs"].map(|name| Peer::Service(name.into()));
        for (rpc, path) in Rpc::ALL {
            for peer in peers.iter().chain([&worker, &Peer::Anonymous]) {
                let admitted = match (table::of_rpc(*rpc), peer) {
                    (Needs::Services(names), Peer::Service(name)) => names.contains(&name.as_str()),
                    (Needs::AnyService, Peer::Service(_)) | (Needs::Worker(_), Peer::Worker(_)) => {
                        true
                    }
                    _ => false,
                };
                assert_eq!(code(peer.clone(), path).await == 0, admitted, "{path} as {peer:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_has_no_row_is_refused() {
        let gateway = Peer::Service("gateway".into());
        assert_eq!(code(gateway.clone(), "/gaia.registry.v1.Registry/Nothing").await, 12);
        assert_eq!(code(gateway, "/").await, 12);
    }
}
