//! The same door over a real network: mutual TLS, HTTP/2 and HTTP/3.

use std::time::Duration;

use ::identity::{Credentials, anonymous_client_tls, client_tls};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use transport::{Channel, Protocol, Protocols, Server};

use crate::{
    agent::{Agent, job},
    client::{Client, patiently},
    house::{House, PASSWORD},
};

pub(crate) struct Site {
    address: String,
    pub(crate) ca: String,
    pub(crate) shutdown: CancellationToken,
}

impl Site {
    pub(crate) async fn open(house: &House) -> Self {
        ::identity::install_crypto();
        let issued = house.authority.issue_service("gateway", &[], Duration::from_hours(1));
        let credentials = issued.unwrap().credentials;
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), &credentials).await.unwrap();
        let address = server.local_addr().to_string();
        let shutdown = CancellationToken::new();
        tokio::spawn(server.serve(house.router.clone(), shutdown.clone()));
        Self { address, ca: house.authority.ca_pem(), shutdown }
    }

    pub(crate) fn channel(&self, tls: rustls::ClientConfig, protocols: Protocols) -> Channel {
        Channel::remote(&self.address, "gaia-pipeline.io", tls, protocols).unwrap()
    }

    fn anonymous(&self, protocols: Protocols) -> Client {
        Client::new(self.channel(anonymous_client_tls(&self.ca).unwrap(), protocols))
    }

    /// Registers over the network; answers the id and the credentials.
    async fn register(&self, secret: &str, protocols: Protocols) -> (String, Credentials) {
        let body = json!({ "secret": secret, "name": "far", "tags": ["golang"] });
        let answer =
            self.anonymous(protocols).post("worker/register", body).await.expect(200).json();
        let pem = |field: &str| {
            let pem = BASE64_STANDARD.decode(answer[field].as_str().unwrap()).unwrap();
            String::from_utf8(pem).unwrap()
        };
        let credentials =
            Credentials { certificate: pem("cert"), key: pem("key"), ca: pem("cacert") };
        (answer["uniqueid"].as_str().unwrap().to_owned(), credentials)
    }
}

async fn a_whole_life_over(protocols: Protocols, protocol: Protocol) {
    let house = House::start().await;
    let site = Site::open(&house).await;
    let (id, credentials) = site.register(&house.secret().await, protocols).await;
    let channel = site.channel(client_tls(&credentials).unwrap(), protocols);
    let mut agent = Agent::over(channel.clone(), id.clone());
    agent.connect(1, &["golang"]).await;
    let pipeline = house.pipeline("Far", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(pipeline, json!([])).await;
    let order = agent.order().await;
    agent.report(&order, "running").await;
    assert_eq!(agent.binary(&order).await.expect(200).body, "the binary of Far");
    agent.log(&order, "?offset=0", "far away\n").await.expect(200);
    agent.report(&order, "success").await;
    assert_eq!(house.ended(&run).await["status"], "success");
    assert_eq!(channel.protocol(), Some(protocol));

    let admin = site.anonymous(protocols).login("admin", PASSWORD).await;
    let path = format!("run/{}/log", order.unique_id);
    assert_eq!(admin.get(&path).await.expect(200).json()["log"], "far away\n");
    let mut events = admin.follow(&path, None).await;
    assert_eq!(events.expect("attempt").await.data, "1");
    assert_eq!(events.expect("log").await.log(), "far away\n");
    events.expect("end").await;
    let stream = format!("events?stream=run-{}", order.unique_id);
    let stored = admin.get(&stream).await.expect(200).json();
    let assigned = &stored[2];
    assert_eq!(assigned["actor"], format!("worker:{id}"));
    assert!(!assigned["certificate"].as_str().unwrap().is_empty(), "{assigned}");
    assert_ne!(assigned["address"], "127.0.0.1:0");
    site.shutdown.cancel();
}

#[tokio::test]
async fn a_far_agent_works_over_http2() {
    a_whole_life_over(Protocols::Http2, Protocol::Http2).await;
}

#[tokio::test]
async fn a_far_agent_works_over_http3() {
    a_whole_life_over(Protocols::Http3, Protocol::Http3).await;
}

#[tokio::test]
async fn a_certificate_is_needed_and_believed_over_the_network() {
    let house = House::start().await;
    let site = Site::open(&house).await;
    let secret = house.secret().await;
    for protocols in [Protocols::Http2, Protocols::Http3] {
        let (ada, _) = site.register(&secret, protocols).await;
        let (_, bob) = site.register(&secret, protocols).await;
        let nobody = site.channel(anonymous_client_tls(&site.ca).unwrap(), protocols);
        let mut nobody = Agent::over(nobody, ada.clone());
        let refusal = nobody.get_work(1, &[], true).await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal}");
        let mut posing = Agent::over(site.channel(client_tls(&bob).unwrap(), protocols), ada);
        let refusal = posing.get_work(1, &[], true).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
        let path = "/artifacts/sha256/00";
        site.anonymous(protocols).call(Method::GET, path, &[], "").await.expect(401);
    }
    site.shutdown.cancel();
    // Whoever waits is let go.
    patiently(async { site.shutdown.cancelled().await }).await;
}
