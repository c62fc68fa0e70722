//! What the process counts, and who may see it.

use std::time::Duration;

use http_body_util::BodyExt;
use proto::scheduler::v1 as pb;
use tonic::body::Body;
use tower::ServiceExt as _;
use transport::Channel;

use crate::house::{House, run_id};

async fn metrics(channel: Channel) -> (u16, String) {
    let request = http::Request::get("/metrics").body(Body::empty()).unwrap();
    let response = channel.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_process_shows_the_house_what_it_rejected() {
    let house = House::start(Duration::from_secs(2));
    let scheduler = house.scheduler().await;
    house.leads(&scheduler).await;
    let nobody = pb::GetRunRequest { run_id: run_id(9), ..Default::default() };
    let cancel = pb::CancelRunRequest { run: Some(nobody), ..Default::default() };
    scheduler.client.clone().cancel_run(cancel).await.unwrap_err();
    let (status, text) = metrics(scheduler.channel.clone()).await;
    assert_eq!(status, 200);
    let counted =
        "gaia_rejected_requests_total{service=\"svc-scheduler\",reason=\"unknown_run\"} 1";
    assert!(text.lines().any(|line| line == counted), "{text}");
    let (status, text) = metrics(house.stranger(&scheduler.address)).await;
    assert_eq!(status, 403, "{text}");
}
