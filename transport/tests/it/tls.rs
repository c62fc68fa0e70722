//! Who may connect, on both protocols: with no certificate, a foreign one, an expired one, the right.

use crate::{
    house::{DAY, House, authority, authority_dir, new_authority, service, soon},
    vehicle::rpc::{HeadRequest, vehicle_client::VehicleClient},
};
use axum::{Router, routing};
use http::Request;
use http_body_util::BodyExt;
use identity::{Credentials, Peer};
use ids::WorkerId;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;
use transport::{Channel, Protocols, services_only};

pub const BOTH: [Protocols; 2] = [Protocols::Http2, Protocols::Http3];

fn worker() -> WorkerId {
    "0191d3f0-0000-7000-8000-000000000001".parse().unwrap()
}

pub async fn whoami(channel: Channel) -> String {
    let request = Request::get("/whoami").body(Body::empty()).unwrap();
    let response = soon(channel.oneshot(request)).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

/// What a gRPC caller is told.
async fn refusal(channel: Channel) -> Status {
    soon(VehicleClient::new(channel).head(HeadRequest {})).await.unwrap_err()
}

/// Signed by the right CA, for a time long past.
fn expired() -> Credentials {
    let read = |name| std::fs::read_to_string(authority_dir().join("1").join(name)).unwrap();
    let (chain, key) = (read("issuer.pem"), read("issuer.key"));
    let issuer = Issuer::from_ca_cert_pem(&chain, KeyPair::from_pem(&key).unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["svc-test".to_owned()]).unwrap();
    let uri = "spiffe://gaia/service/svc-test".try_into().unwrap();
    params.subject_alt_names.push(SanType::URI(uri));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem() + &chain;
    Credentials { certificate, key: key.serialize_pem(), ca: authority().ca_pem() }
}

#[tokio::test]
async fn without_a_certificate_one_is_anonymous() {
    let house = House::open().await;
    for protocols in BOTH {
        let tls = identity::anonymous_client_tls(&house.credentials.ca).unwrap();
        let address = house.address.to_string();
        let channel = Channel::remote(&address, "svc-test", tls, protocols).unwrap();
        let text = whoami(channel).await;
        assert!(text.starts_with("Anonymous") && text.ends_with("None"), "{protocols:?}: {text}");
    }
}

#[tokio::test]
async fn a_worker_is_known_by_its_certificate() {
    let house = House::open().await;
    let id = worker();
    let issued = authority().issue_worker(id, DAY).unwrap();
    for protocols in BOTH {
        let text = whoami(house.remote(&issued.credentials, protocols)).await;
        assert!(text.starts_with(&format!("{:?}", Peer::Worker(id))), "{protocols:?}: {text}");
        assert!(text.contains(&issued.serial), "{protocols:?}: {text}");
    }
}

#[tokio::test]
async fn a_foreign_or_expired_certificate_is_refused() {
    let house = House::open().await;
    let (_dir, stranger) = new_authority();
    let mut foreign = stranger.issue_service("svc-test", &[], DAY).unwrap().credentials;
    foreign.ca = house.credentials.ca.clone();
    for protocols in [Protocols::Http2, Protocols::Http3, Protocols::PreferHttp3] {
        for (name, credentials) in [("foreign", &foreign), ("expired", &expired())] {
            let status = refusal(house.remote(credentials, protocols)).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{name}, {protocols:?}: {status}");
            assert!(status.message().contains("refused our certificate"), "{status}");
        }
    }
    assert_eq!(*house.seen.begun.borrow(), 0);
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_gets_no_request() {
    let house = House::open().await;
    let (_dir, stranger) = new_authority();
    let untrusting = Credentials { ca: stranger.ca_pem(), ..service("svc-test") };
    for protocols in BOTH {
        let tls = identity::client_tls(&house.credentials).unwrap();
        let address = house.address.to_string();
        let channel = Channel::remote(&address, "svc-other", tls, protocols).unwrap();
        for channel in [channel, house.remote(&untrusting, protocols)] {
            let request = Request::get("/whoami").body(Body::empty()).unwrap();
            let error = soon(channel.oneshot(request)).await.unwrap_err();
            assert!(!error.may_have_been_handled(), "{protocols:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn services_admit_services_alone() {
    let router = || services_only(Router::new().route("/", routing::get(|| async { "in" })));
    let workers = Peer::Worker(worker());
    for (peer, admitted) in
        [(Peer::Service("gateway".to_owned()), true), (workers, false), (Peer::Anonymous, false)]
    {
        let channel = Channel::local(router(), peer.clone());
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response = channel.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status() == 200, admitted, "{peer:?}: {}", response.status());
        if !admitted {
            assert_eq!(response.status(), 403);
            assert_eq!(refusal(channel).await.code(), Code::PermissionDenied);
        }
    }
    let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
    assert_eq!(router().oneshot(request).await.unwrap().status(), 403, "of unknown origin");
}
