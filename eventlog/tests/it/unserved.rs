//! What the protocol has and this log does not serve: everybody who asks for it hears that, and nobody
//! hears it who may not ask.

use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use tonic::{Code, Status, codegen::Service as _};
use transport::{Channel, Protocols};

use crate::{
    open_small,
    serving::{ANY_PORT, Ca, Serving},
    soon,
};

/// Every method of the official clients' services but for those that are served.
const UNSERVED: [(&str, &[&str]); 6] = [
    (
        "persistent_subscriptions.PersistentSubscriptions",
        &[
            "Create",
            "Update",
            "Delete",
            "Read",
            "GetInfo",
            "ReplayParked",
            "List",
            "RestartSubsystem",
        ],
    ),
    (
        "projections.Projections",
        &[
            "Create",
            "Update",
            "Delete",
            "Statistics",
            "Disable",
            "Enable",
            "Reset",
            "State",
            "Result",
            "RestartSubsystem",
        ],
    ),
    (
        "users.Users",
        &[
            "Create",
            "Update",
            "Delete",
            "Disable",
            "Enable",
            "Details",
            "ChangePassword",
            "ResetPassword",
        ],
    ),
    (
        "operations.Operations",
        &[
            "StartScavenge",
            "StopScavenge",
            "Shutdown",
            "MergeIndexes",
            "ResignNode",
            "SetNodePriority",
            "RestartPersistentSubscriptions",
        ],
    ),
    ("monitoring.Monitoring", &["Stats"]),
    ("redaction.Redaction", &["GetEventPositions", "SwitchChunks"]),
];

/// What a newer protocol may add to services that are served.
const UNKNOWN: [&str; 3] = ["streams.Streams", "gossip.Gossip", "server_features.ServerFeatures"];

async fn status(channel: &mut Channel, path: &str) -> Status {
    let request = Request::post(format!("https://log{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from(&b"\0\0\0\0\0"[..])))
        .unwrap();
    let answer = soon(channel.call(request)).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    let headers: HeaderMap = answer.headers().clone();
    let body = soon(answer.into_body().collect()).await.unwrap();
    let trailers = body.trailers().and_then(Status::from_header_map);
    Status::from_header_map(&headers).or(trailers).unwrap()
}

#[tokio::test]
async fn who_asks_for_more_hears_that_it_is_not_served() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let channel =
        |tls| Channel::remote(&serving.address.to_string(), "log", tls, Protocols::Http2).unwrap();
    let mut service = channel(identity::client_tls(&ca.service("server")).unwrap());
    let anonymous = std::fs::read_to_string(ca.file()).unwrap();
    let mut stranger = channel(identity::anonymous_client_tls(&anonymous).unwrap());
    let known =
        UNSERVED.iter().flat_map(|(service, methods)| methods.iter().map(move |m| (*service, *m)));
    for (name, method) in known.chain(UNKNOWN.map(|service| (service, "Invented"))) {
        let path = format!("/event_store.client.{name}/{method}");
        let heard = status(&mut service, &path).await;
        assert_eq!(heard.code(), Code::Unimplemented, "{path}: {heard:?}");
        let says = heard.message();
        assert!(says.contains(&path) && says.contains("does not serve"), "{path}: `{says}`");
        let heard = status(&mut stranger, &path).await;
        assert_eq!(heard.code(), Code::Unauthenticated, "{path}: {heard:?}");
    }
}
