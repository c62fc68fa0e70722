//! For how long a client is believed, and how it changes what it shows, on both protocols.

use crate::{
    house::{DAY, House, authority, new_authority, soon},
    tls::{BOTH, whoami},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use identity::{Issued, Live};
use ids::WorkerId;
use std::time::Duration;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;
use transport::{Channel, ChannelError, Protocols};

fn worker(number: u8) -> WorkerId {
    format!("0191d3f0-0000-7000-8000-0000000000{number:02}").parse().unwrap()
}

fn issue(number: u8) -> Issued {
    authority().issue_worker(worker(number), DAY).unwrap()
}

/// A call that goes on until one of both sides ends it.
struct Endless(Body);

impl Endless {
    async fn open(channel: &Channel) -> Self {
        let request = Request::get("/bytes/1000000000000").body(Body::empty()).unwrap();
        let response = soon(channel.clone().oneshot(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Self(response.into_body())
    }

    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        Some(soon(self.0.frame()).await?.map(|frame| frame.into_data().unwrap_or_default()))
    }

    async fn breaks_off(mut self) {
        let cut = async {
            while let Some(piece) = self.next().await {
                if piece.is_err() {
                    return;
                }
            }
            panic!("a trillion bytes came before the connection was cut");
        };
        soon(cut).await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    soon(async {
        while !condition() {
            looks.tick().await;
        }
    })
    .await;
}

async fn refused(channel: Channel) -> Status {
    let request = Request::get("/whoami").body(Body::empty()).unwrap();
    match soon(channel.oneshot(request)).await {
        Err(ChannelError::NotSent(status) | ChannelError::Lost(status)) => status,
        Ok(answer) => panic!("answered {}", answer.status()),
    }
}

#[tokio::test]
async fn a_revoked_certificate_loses_its_connections_and_gets_no_others() {
    let house = House::open().await;
    for protocols in BOTH {
        let (bad, good) = (issue(1), issue(1));
        let channel = house.remote(&bad.credentials, protocols);
        let other = house.remote(&good.credentials, protocols);
        let call = Endless::open(&channel).await;
        let mut others = Endless::open(&other).await;
        house.watchlist.revoke(&bad.serial);
        call.breaks_off().await;
        let status = refused(house.remote(&bad.credentials, protocols)).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{protocols:?}: {status}");
        assert!(status.message().contains("CertificateRevoked"), "{protocols:?}: {status}");
        // The same worker's other certificate is as good as before.
        others.next().await.unwrap().unwrap();
        drop((others, other));
        until(|| house.watchlist.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_dismissed_worker_is_cut_off_but_may_ask_why() {
    let house = House::open().await;
    for (protocols, number) in BOTH.into_iter().zip(2..) {
        let [one, two] = [issue(number), issue(number)];
        let channels = [&one, &two].map(|own| house.remote(&own.credentials, protocols));
        let calls = [Endless::open(&channels[0]).await, Endless::open(&channels[1]).await];
        let stranger = issue(9);
        let mut bystander = Endless::open(&house.remote(&stranger.credentials, protocols)).await;
        assert!(!house.watchlist.is_dismissed(worker(number)));
        house.watchlist.dismiss(worker(number));
        for call in calls {
            call.breaks_off().await;
        }
        assert!(house.watchlist.is_dismissed(worker(number)));
        bystander.next().await.unwrap().unwrap();
        let text = whoami(house.remote(&one.credentials, protocols)).await;
        assert!(text.contains(&one.serial), "{text}");
    }
}

#[tokio::test]
async fn connections_of_a_dropped_ca_end_and_others_do_not() {
    let (_dir, authority) = new_authority();
    let service = || authority.issue_service("svc-test", &[], DAY).unwrap().credentials;
    let house = House::with("127.0.0.1:0".parse().unwrap(), service()).await;
    let worker_of = |number| authority.issue_worker(worker(number), DAY).unwrap().credentials;
    let open = |credentials: identity::Credentials, protocols| {
        let channel = house.remote(&credentials, protocols);
        async move { Endless::open(&channel).await }
    };
    let old = [open(worker_of(1), BOTH[0]).await, open(worker_of(2), BOTH[1]).await];
    let mut others = vec![];
    for protocols in BOTH {
        others.push(open(service(), protocols).await);
    }
    // Both are trusted for an hour, and nobody is cut off.
    authority.roll_over(Duration::from_hours(1)).unwrap();
    house.live.replace(service()).unwrap();
    house.watchlist.drop_old_ca(false);
    for protocols in BOTH {
        others.push(open(worker_of(3), protocols).await);
    }
    let roots = house.live.credentials().ca;
    let newest = roots.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    assert_ne!(newest, roots);
    house.live.trust(newest).unwrap();
    house.watchlist.drop_old_ca(false);
    for call in old {
        call.breaks_off().await;
    }
    // Services get a while to renew; the new ones stay.
    for call in &mut others {
        call.next().await.unwrap().unwrap();
    }
    house.watchlist.drop_old_ca(true);
    for call in others.drain(..2) {
        call.breaks_off().await;
    }
    for call in &mut others {
        call.next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_expires() {
    let house = House::open().await;
    for protocols in BOTH {
        let short = authority().issue_worker(worker(4), Duration::from_secs(2)).unwrap();
        let channel = house.remote(&short.credentials, protocols);
        Endless::open(&channel).await.breaks_off().await;
        let status = refused(channel).await;
        assert!(status.message().contains("CertificateExpired"), "{protocols:?}: {status}");
    }
}

#[tokio::test]
async fn new_credentials_are_shown_without_breaking_a_call() {
    let house = House::open().await;
    for protocols in BOTH {
        let (old, new) = (issue(5), issue(5));
        let live = Live::new(old.credentials).unwrap();
        let tls = identity::live_client_tls(&live).unwrap();
        let channel =
            Channel::remote(&house.address.to_string(), "svc-test", tls, protocols).unwrap();
        let mut call = Endless::open(&channel).await;
        assert!(whoami(channel.clone()).await.contains(&old.serial));
        live.replace(new.credentials).unwrap();
        assert!(whoami(channel.clone()).await.contains(&old.serial), "it has a connection");
        soon(channel.reconnect()).await.unwrap();
        assert!(whoami(channel.clone()).await.contains(&new.serial));
        assert_eq!(house.watchlist.connections(), 2);
        call.next().await.unwrap().unwrap();
        drop(call);
        // The old connection ends once nothing needs it.
        until(|| house.watchlist.connections() == 1).await;
        drop(channel);
        until(|| house.watchlist.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_server_shows_new_credentials_to_whoever_comes_next() {
    let house = House::open().await;
    let next = authority().issue_service("svc-next", &[], DAY).unwrap().credentials;
    let before = house.remote(&house.credentials, Protocols::PreferHttp3);
    whoami(before.clone()).await;
    house.live.replace(next).unwrap();
    whoami(before).await;
    for protocols in BOTH {
        let status = refused(house.remote(&house.credentials, protocols)).await;
        assert_eq!(status.code(), Code::Unavailable, "the name is another: {status}");
        let tls = identity::client_tls(&house.credentials).unwrap();
        let address = house.address.to_string();
        let channel = Channel::remote(&address, "svc-next", tls, protocols).unwrap();
        whoami(channel).await;
    }
}

#[tokio::test]
async fn no_worker_is_served_before_it_is_known_who_is_revoked() {
    let house = House::open().await;
    house.watchlist.doubt_workers(true);
    for protocols in BOTH {
        let early = issue(6);
        let request = Request::get("/whoami").body(Body::empty()).unwrap();
        let answer = soon(house.remote(&early.credentials, protocols).oneshot(request)).await;
        // Else the worker would give up for good what it is only too early for.
        assert!(answer.map_or(true, |answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE));
        // Who is no worker has nothing that could be revoked here.
        whoami(house.remote(&house.credentials, protocols)).await;
    }
    house.watchlist.doubt_workers(false);
    for protocols in BOTH {
        whoami(house.remote(&issue(6).credentials, protocols)).await;
    }
}
