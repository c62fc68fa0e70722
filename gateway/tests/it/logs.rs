//! Logs as they are read: live, from a place, and through retries.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use prost::Message;
use proto::logs::v1::{LogSource, LogSpans, LogStream};
use serde_json::json;

use crate::{agent::job, client::Events, house::House};

/// Text of the following `log` events until it has so many bytes; and the last event's id.
async fn text(events: &mut Events, bytes: usize) -> (String, String) {
    let (mut text, mut id) = (String::new(), String::new());
    while text.len() < bytes {
        let event = events.next().await.expect("more of the log");
        text += &event.log();
        id = event.id;
    }
    (text, id)
}

#[tokio::test]
async fn a_log_is_followed_through_a_retry_and_taken_up_where_it_was_left() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Talk", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(id, json!([])).await;
    let run = run["uniqueid"].as_str().unwrap();
    let order = agent.order().await;
    agent.report(&order, "running").await;
    let path = format!("run/{run}/log");
    let mut events = house.follow(&path).await;
    assert_eq!(events.expect("attempt").await.data, "1");
    agent.log(&order, "?offset=0", "one\r\n\"two\"\n").await.expect(200);
    let (first, place) = text(&mut events, 11).await;
    assert_eq!((first.as_str(), place.as_str()), ("one\r\n\"two\"\n", "1:11"));
    drop(events);

    agent.log(&order, "?offset=11", "grün\n").await.expect(200);
    let mut events = house.admin.follow(&path, Some(&place)).await;
    assert_eq!(text(&mut events, 6).await.0, "grün\n");
    agent.report(&order, "reschedule").await;
    let again = agent.order().await;
    agent.log(&again, "?offset=0", "once more\n").await.expect(200);
    assert_eq!(events.expect("attempt").await.data, "2");
    assert_eq!(text(&mut events, 10).await, ("once more\n".into(), "2:10".into()));
    agent.report(&again, "success").await;
    let end = events.expect("end").await;
    assert_eq!(end.json(), json!({ "status": "success", "reason": "" }));
    assert!(events.next().await.is_none());

    let mut late = house.admin.follow(&format!("{path}?attempt=1"), None).await;
    late.expect("attempt").await;
    assert_eq!(text(&mut late, 17).await.0, "one\r\n\"two\"\ngrün\n");
    assert_eq!(late.expect("attempt").await.data, "2");
    text(&mut late, 10).await;
    late.expect("end").await;
}

#[tokio::test]
async fn the_lines_of_a_log_that_hold_a_text_are_found() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Search", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(id, json!([])).await;
    let path = format!("run/{}/log", run["uniqueid"].as_str().unwrap());
    let order = agent.order().await;
    agent.report(&order, "running").await;
    agent.log(&order, "?offset=0", "one error\ntwo\nan err").await.expect(200);
    agent.log(&order, "?offset=20", "or & more").await.expect(200);
    let found = house.admin.get(&format!("{path}?search=error")).await.expect(200).json();
    let matches = json!([
        { "line": 1, "offset": 0, "text": "one error" },
        { "line": 3, "offset": 14, "text": "an error & more" },
    ]);
    assert_eq!(found, json!({ "attempt": 1, "matches": matches, "truncated": false }));
    let none = house.admin.get(&format!("{path}?search=three")).await.expect(200).json();
    assert_eq!(none["matches"], json!([]));
    for bad in ["", "%0A", &"x".repeat(201)] {
        let refused = house.admin.get(&format!("{path}?search={bad}")).await.expect(400);
        assert!(refused.message().contains("`search`"), "{}", refused.message());
    }
}

#[tokio::test]
async fn an_attempt_that_printed_nothing_is_announced_once() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Silent", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(id, json!([])).await;
    let first = agent.order().await;
    let mut events = house.follow(&format!("run/{}/log", run["uniqueid"].as_str().unwrap())).await;
    assert_eq!(events.expect("attempt").await.data, "1");
    let suspend = |what: &str| format!("worker/{what}/{}", agent.id);
    let (suspend, resume) = (suspend("suspend"), suspend("resume"));
    house.admin.post(&suspend, json!({})).await.expect(200);
    agent.report(&first, "reschedule").await;
    // The first attempt's log is over, and the second attempt is still to come.
    let path = format!("run/{}", run["uniqueid"].as_str().unwrap());
    let shown = house.admin.get(&path).await.expect(200).json();
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1);
    house.admin.post(&resume, json!({})).await.expect(200);
    let second = agent.order().await;
    assert_eq!(events.expect("attempt").await.data, "2");
    agent.report(&second, "success").await;
    events.expect("end").await;
}

#[tokio::test]
async fn a_run_that_never_began_has_an_empty_log_and_an_end() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Never", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    agent.disconnect();
    let run = house.run(id, json!([])).await;
    let run = run["uniqueid"].as_str().unwrap();
    let mut events = house.follow(&format!("run/{run}/log?follow=1")).await;
    let log = house.admin.get(&format!("run/{run}/log")).await.expect(200).json();
    assert_eq!(log, json!({ "log": "", "finished": false, "attempt": 0 }));
    let stopped = house.admin.post(&format!("run/{run}/stop"), json!({ "note": "no" })).await;
    assert_eq!(stopped.expect(200).json()["uniqueid"], run);
    let end = loop {
        let event = events.next().await.expect("an end");
        if event.name == "end" {
            break event;
        }
    };
    assert_eq!(end.json()["status"], "cancelled");
    let raw = house.admin.get(&format!("run/{run}/log?raw")).await.expect(200);
    assert_eq!(raw.text(), "");
}

#[tokio::test]
async fn a_place_that_is_none_is_refused_by_name() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Once", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    house.run(id, json!([])).await;
    let headers = [
        ("authorization", String::new()),
        ("accept", "text/event-stream".to_owned()),
        ("last-event-id", "soon".to_owned()),
    ];
    let headers: Vec<_> =
        headers[1..].iter().map(|(name, value)| (*name, value.as_str())).collect();
    let path = format!("/api/v1/pipelinerun/{id}/1/log");
    let refused = house.admin.call(http::Method::GET, &path, &headers, "").await.expect(400);
    assert!(refused.message().contains("`soon`"), "{}", refused.message());
}

#[tokio::test]
async fn a_log_is_shown_by_stream_by_job_and_with_times() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let jobs = vec![job(1, "go", &[], vec![]), job(2, "stop", &[1], vec![])];
    let id = house.pipeline("Sources", &mut agent, jobs).await;
    let run = house.run(id, json!([])).await;
    let path = format!("run/{}/log", run["uniqueid"].as_str().unwrap());
    let order = agent.order().await;
    agent.report(&order, "running").await;
    let spans = LogSpans {
        offset: 0,
        at: 1_000,
        lengths: vec![4, 4, 5],
        delays: vec![0, 500, 0],
        origins: vec![0, 1, 2],
        sources: vec![
            LogSource { stream: LogStream::Stdout.into(), jobs: vec![1] },
            LogSource { stream: LogStream::Stderr.into(), jobs: vec![2] },
            LogSource { stream: LogStream::Stdout.into(), jobs: vec![1, 2] },
        ],
    };
    let spans = STANDARD.encode(spans.encode_to_vec());
    let log = format!("/runs/{}/attempts/1/log", order.unique_id);
    let header = [("x-gaia-log-spans", spans.as_str())];
    let text = "one\ntwo\nboth\n";
    agent.bulk(Method::PUT, &format!("{log}?offset=0"), &order, &header, text).await.expect(200);
    for (query, wanted) in [
        ("", text),
        ("&stream=stdout", "one\nboth\n"),
        ("&stream=stderr", "two\n"),
        ("&stream=agent", ""),
        ("&job=stop", "two\n"),
        ("&job=1", "one\n"),
        ("&job=go&unsure=1", "one\nboth\n"),
        ("&timestamps=1&job=go", "1970-01-01T00:00:01.000Z one\n"),
        ("&timestamps=1&offset=6", "o\n1970-01-01T00:00:01.500Z both\n"),
    ] {
        let seen = house.admin.get(&format!("{path}?raw=1{query}")).await.expect(200);
        assert_eq!(seen.text(), wanted, "{query}");
    }
    let refused = house.admin.get(&format!("{path}?job=none")).await.expect(400);
    assert!(refused.message().contains("it has `go`, `stop`"), "{}", refused.message());

    // Followed, and taken up in the middle of a line.
    let mut events = house.admin.follow(&format!("{path}?timestamps=1&job=stop"), None).await;
    events.expect("attempt").await;
    let first = events.expect("log").await;
    assert_eq!(
        (first.log().as_str(), first.id.as_str()),
        ("1970-01-01T00:00:01.500Z two\n", "1:13")
    );
    let mut events = house.admin.follow(&format!("{path}?timestamps=1"), Some("1:6")).await;
    assert_eq!(events.expect("log").await.log(), "o\n1970-01-01T00:00:01.500Z both\n");

    let odd = [("x-gaia-log-spans", "?")];
    let refused = agent.bulk(Method::PUT, &log, &order, &odd, "").await.expect(400);
    assert!(refused.message().contains("x-gaia-log-spans"), "{}", refused.message());
    agent
        .log(&order, "?offset=0&size=20&gaps=1&dropped=3&incomplete=the%20disk", "")
        .await
        .expect(200);
    let about = house.admin.get(&format!("{path}?about=1")).await.expect(200).json();
    assert_eq!(
        (&about["attempt"], &about["size"], &about["finished"]),
        (&json!(1), &json!(13), &json!(false))
    );
    let sealed = &about["sealed"];
    assert_eq!(sealed["incomplete"], "the disk");
    assert_eq!(
        (&sealed["gaps"], &sealed["dropped"], &sealed["missing"]),
        (&json!(1), &json!(3), &json!(7))
    );
}
