//! The workers' endpoints as Gaia's own UI reads them. Gaia's agent is a peer of its own, in
//! `tests/compat`.

use serde_json::{Value, json};

use crate::house::House;

#[tokio::test]
async fn the_workers_endpoints_answer_as_gaias_do() {
    let house = House::start().await;
    // A Go slice that nothing was added to.
    assert_eq!(house.admin.get("worker").await.expect(200).text(), "null");
    let overview = house.admin.get("worker/status").await.expect(200).json();
    for (field, value) in [
        ("activeworker", 0),
        ("suspendedworker", 0),
        ("inactiveworker", 0),
        ("finishedruns", 0),
        ("queuesize", 0),
    ] {
        assert_eq!(overview[field], json!(value), "{overview}");
    }
    let secret = house.admin.get("worker/secret").await.expect(200);
    assert!(secret.header("content-type").starts_with("text/plain"));
    for unknown in ["00000000-0000-0000-0000-000000000001", "my-worker", "1"] {
        let refused = house.admin.delete(&format!("worker/{unknown}")).await.expect(400);
        assert_eq!(refused.text(), "worker is not registered");
        assert!(refused.header("content-type").starts_with("text/plain"));
    }
    let reset = house.admin.post("worker/secret", Value::Null).await.expect(200);
    assert_eq!(reset.text(), "global worker registration secret has been successfully reset");

    let agent = house.agent("ada").await;
    let workers = house.admin.get("worker").await.expect(200).json();
    let worker = workers[0].as_object().unwrap();
    assert_eq!(worker["uniqueid"], json!(agent.id));
    let gaias = [
        "uniqueid",
        "name",
        "status",
        "slots",
        "registerdate",
        "lastcontact",
        "finishedruns",
        "tags",
    ];
    assert!(gaias.iter().all(|field| worker.contains_key(*field)), "{workers}");
    for date in ["registerdate", "lastcontact"] {
        chrono::DateTime::parse_from_rfc3339(worker[date].as_str().unwrap()).unwrap();
    }
    let overview = house.admin.get("worker/status").await.expect(200).json();
    assert_eq!(overview["activeworker"], 1);
    let removed = house.admin.delete(&format!("worker/{}", agent.id)).await.expect(200);
    assert_eq!(removed.text(), "worker has been successfully deregistered");
}
