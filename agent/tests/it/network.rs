//! A binary and a log through networks that lose, delay, reorder, stop, and move the agent.

use std::time::Duration;

use agent::Protocols;
use proto::worker::PipelineRun;
use tokio::time::{Instant, sleep};
use transport::Protocol;

use crate::{
    LINES,
    relay::{FINE, Relay, Weather},
    worker::{Fixture, content, script, until},
};

/// Through a network of its own.
struct Far {
    test: Fixture,
    relay: Relay,
}

impl Far {
    async fn new(weather: Weather) -> Self {
        let mut test = Fixture::new().await;
        let relay = Relay::to(test.peer.address(), weather).await;
        test.config.server = relay.url();
        Self { test, relay }
    }

    /// An order for a binary of so many bytes.
    fn order(&self, kind: &str, size: usize) -> PipelineRun {
        let mut script = script(kind).into_bytes();
        // The shell reads no further than its `exec`.
        script.resize(size, b'#');
        let digest = self.test.peer.store(&script);
        let order = self.test.order(kind);
        PipelineRun { artifact_size: size as u64, sha_sum: digest.as_bytes().to_vec(), ..order }
    }

    fn downloaded(&self) -> u64 {
        let files = std::fs::read_dir(self.test.config.home.join("cache")).into_iter().flatten();
        files.flatten().filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }

    /// Both arrived as they were sent: the agent has checked the one digest, the server the other.
    async fn arrived(&self, order: &PipelineRun) {
        let end = self.test.peer.ended(order).await;
        assert_eq!(end.status, "success", "{}", end.reason);
        assert!(self.test.peer.seen().log_has_ended(order));
        let log = self.test.peer.seen().log(order);
        let lines = log.lines().filter_map(|line| line.strip_prefix("line ")?.split(' ').next());
        let numbers: Vec<usize> = lines.map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers, (0..LINES).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_moves_keeps_its_connections() {
    const SIZE: usize = 24 << 20;
    let mut far = Far::new(Weather { delay: Duration::from_millis(10), ..FINE }).await;
    far.test.config.protocols = Protocols::Http3;
    let agent = far.test.agent();
    let (waits, folder) = far.test.order_to_wait();
    let order = PipelineRun { jobs: waits.jobs, ..far.order("waits", SIZE) };
    let begun = Instant::now();
    far.test.peer.order(&order).await;
    until(|| far.downloaded() > 1 << 20).await;
    far.relay.move_clients();
    content(folder.join("pid")).await;
    let took = begun.elapsed();
    for tick in ["tick 10\n", "tick 50\n"] {
        let seen = |log: String| log.contains(tick).then_some(());
        far.test.peer.wait("the log", |peer| seen(peer.log(&order))).await;
        far.relay.move_clients();
    }
    std::fs::write(folder.join("go"), "").unwrap();
    assert_eq!(far.test.peer.ended(&order).await.status, "success");
    let log = far.test.peer.seen().log(&order);
    assert!(log.contains("waiting\n") && log.ends_with("went\n"), "{log}");
    println!("three new addresses: {} MiB in {took:.1?}, one request", SIZE >> 20);
    // Neither the binary nor the orders were asked for again: the connections lived on.
    let requests = {
        let seen = far.test.peer.seen();
        (seen.downloads, seen.sessions.len())
    };
    assert_eq!(requests, (1, 1));
    agent.drained().await;
}

const SIZE: usize = 1 << 20;

/// One order from its beginning to its end. `disturb` acts once a part of the binary has come.
async fn try_weather(name: &str, weather: Weather, disturb: impl AsyncFnOnce(&Relay)) -> Far {
    let far = Far::new(weather).await;
    let agent = far.test.agent();
    let order = far.order("murmurs", SIZE);
    let begun = Instant::now();
    far.test.peer.order(&order).await;
    until(|| far.downloaded() > 64 << 10).await;
    disturb(&far.relay).await;
    far.arrived(&order).await;
    let (downloads, protocol) = {
        let seen = far.test.peer.seen();
        (seen.downloads, seen.log_protocols.last().copied())
    };
    println!(
        "{name}: 1 MiB down and 0.3 MiB of log in {:.1?}, {downloads} requests, at last {protocol:?}",
        begun.elapsed()
    );
    agent.drained().await;
    far
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_and_a_log_arrive_whole_in_any_weather() {
    let far = Weather { delay: Duration::from_millis(20), ..FINE };
    let calm = async |_: &Relay| {};
    let without_udp = Weather { udp: false, ..far };
    let short = async |relay: &Relay| {
        relay.change(|weather| (weather.udp, weather.tcp) = (false, false));
        sleep(Duration::from_secs(2)).await;
        relay.change(|weather| (weather.udp, weather.tcp) = (true, true));
    };
    // Longer than a connection without a sign of life lives.
    let long = async |relay: &Relay| {
        relay.change(|weather| (weather.udp, weather.tcp) = (false, false));
        sleep(Duration::from_secs(17)).await;
        relay.change(|weather| (weather.udp, weather.tcp) = (true, true));
    };
    let blocked = async |relay: &Relay| relay.change(|weather| weather.udp = false);
    let (_, _, _, _, only_tcp, _, dead, switched) = tokio::join!(
        try_weather("40 ms", far, calm),
        try_weather("1 % lost", Weather { lost: 10, ..far }, calm),
        try_weather("5 % lost", Weather { lost: 50, ..far }, calm),
        try_weather(
            "2 % lost in bursts of 8, 5 % overtaken",
            Weather { lost: 20, burst: 8, overtaken: 50, ..far },
            calm
        ),
        try_weather("UDP blocked", without_udp, calm),
        try_weather("outage of 2 s", far, short),
        try_weather("outage of 17 s", far, long),
        try_weather("UDP blocked in the middle", far, blocked),
    );
    for fallen_back in [&only_tcp, &switched] {
        let protocols = fallen_back.test.peer.seen().log_protocols.clone();
        assert!(protocols.iter().all(|protocol| *protocol == Protocol::Http2), "{protocols:?}");
    }
    for resumed in [&dead, &switched] {
        // What had come was not fetched again.
        assert!(resumed.test.peer.seen().last_range > 64 << 10);
    }
}
