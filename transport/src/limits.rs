//! Every bound on what a peer may make us hold or wait for, and why it is what it is.
//!
//! The libraries' defaults are not used silently: hyper has no limit on handshakes, quinn's
//! connection window is unbounded. `docs/limits.md` lists them all; a test compares.

use crate::congestion::Discerning;
use identity::Peer;
use std::{sync::Arc, time::Duration};

/// TCP, TLS and QUIC handshakes, and the head of a request. A slow link needs two or three seconds.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// How often a quiet connection is tried, and how long an answer may take. A dead peer shows after
/// 13 to 15 s on either protocol; leases guard what needs to know sooner.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(3);
pub(crate) const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
pub(crate) const IDLE: Duration = Duration::from_secs(15);
/// After so long without an answer over UDP, HTTP/2 is tried beside it: a handful of probes went unanswered.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

/// What running calls get once the server shuts down.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// What running calls get once their client is believed no more, so that it can still be told.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// How long HTTP/3 may take before HTTP/2 is tried beside it: three round trips at 100 ms. A network
/// that blocks UDP costs this once.
pub(crate) const HTTP3_HEAD_START: Duration = Duration::from_millis(300);
/// What HTTP/3 gets once TCP was refused: nobody is told over UDP that nobody listens, and whoever waits
/// should hear of a server that is not there. Three round trips of the slowest links.
pub(crate) const HTTP3_LAST_CHANCE: Duration = Duration::from_secs(2);
/// How long a channel that fell back stays away from HTTP/3.
pub(crate) const HTTP3_RETRY: Duration = Duration::from_mins(1);

/// Headers of one message. Tokens and traces fit many times.
pub(crate) const HEADERS: u32 = 64 << 10;

/// Connections at once, for each of the protocols; beyond it new ones are refused. 20,000 idle ones
/// cost about 2 GiB, were all of them HTTP/3.
pub(crate) const CONNECTIONS: usize = 20_000;
/// QUIC handshakes at once before addresses must be proven by a further round trip, so that a flood
/// from forged addresses costs nothing.
pub(crate) const UNPROVEN_HANDSHAKES: usize = 64;

/// QUIC handshakes that nobody has looked at yet, and what each of them, and all, may send meanwhile.
pub(crate) const UNACCEPTED: usize = 1024;
pub(crate) const UNACCEPTED_BYTES: u64 = 64 << 10;
pub(crate) const UNACCEPTED_TOTAL: u64 = 16 << 20;

/// Streams that were reset at once before the connection is closed ("rapid reset", CVE-2023-44487).
pub(crate) const RESETS: usize = 64;

/// One stream's window: 80 Mbit/s at 100 ms.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
/// What waits in a stream of HTTP/2 to be sent: what a slow reader costs.
pub(crate) const SEND_BUFFER: usize = 400 << 10;
/// What quinn keeps for retransmission: 1 Gbit/s at 100 ms.
const SEND_WINDOW: u64 = 16 << 20;

/// The unidirectional streams that HTTP/3 needs (control, two of QPACK, one unknown), twice.
const UNI_STREAMS: u32 = 8;

/// Calls that one peer may have open on one connection. Those beyond wait at the client. The gateway has
/// one open at the registry, and one at the scheduler, for each worker.
pub(crate) fn streams(peer: &Peer) -> u32 {
    match peer {
        Peer::Anonymous => 256,
        Peer::Worker(_) => 1024,
        Peer::Service(_) => 65_536,
    }
}
/// How many of them a connection of QUIC has room for at first: quinn sets memory aside for each, and an idle
/// worker needs two. A peer that uses half of its room gets twice as much.
pub(crate) const FIRST_STREAMS: u32 = 32;

/// What one connection may hold unread. A window of one stream is used up by one reader that
/// stalls, so this one must be many of those, or a few stalled calls starve all others. Who is not
/// known gets less.
pub(crate) fn connection_window(peer: &Peer) -> u32 {
    match peer {
        Peer::Anonymous => 16 << 20,
        Peer::Worker(_) | Peer::Service(_) => 128 << 20,
    }
}

/// QUIC's settings. `streams` is 0 at the client: servers open no calls.
pub(crate) fn quic(streams: u32, connection_window: u32) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .max_idle_timeout(Some(IDLE.try_into().expect("15 s fit into a varint of milliseconds")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(UNI_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(connection_window.into())
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(Discerning))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds, milliseconds or bytes, as people write them.
    fn time(value: Duration) -> String {
        match value.as_millis() {
            millis if millis % 1000 == 0 => format!("{} s", millis / 1000),
            millis => format!("{millis} ms"),
        }
    }

    fn bytes(value: u64) -> String {
        match value >> 20 {
            0 => format!("{} KiB", value >> 10),
            mebibytes => format!("{mebibytes} MiB"),
        }
    }

    fn number(value: u64) -> String {
        match value {
            0..1000 => value.to_string(),
            _ => format!("{},{:03}", value / 1000, value % 1000),
        }
    }

    #[test]
    fn the_page_about_the_limits_is_true() {
        let known = Peer::Service(String::new());
        let worker = Peer::Worker("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap());
        let rows = [
            ("`HANDSHAKE`", time(HANDSHAKE)),
            ("`KEEP_ALIVE`", time(KEEP_ALIVE)),
            ("`KEEP_ALIVE_ANSWER`", time(KEEP_ALIVE_ANSWER)),
            ("`IDLE`", time(IDLE)),
            ("`SILENCE`", time(SILENCE)),
            ("`GRACE`", time(GRACE)),
            ("`FAREWELL`", time(FAREWELL)),
            ("`HTTP3_HEAD_START`", time(HTTP3_HEAD_START)),
            ("`HTTP3_LAST_CHANCE`", time(HTTP3_LAST_CHANCE)),
            ("`HTTP3_RETRY`", time(HTTP3_RETRY)),
            ("calls at once, unknown peer", number(streams(&Peer::Anonymous).into())),
            ("calls at once, worker", number(streams(&worker).into())),
            ("calls at once, service", number(streams(&known).into())),
            ("`FIRST_STREAMS`", number(FIRST_STREAMS.into())),
            ("`UNI_STREAMS`", number(UNI_STREAMS.into())),
            ("`RESETS`", number(RESETS as u64)),
            ("`STREAM_WINDOW`", bytes(STREAM_WINDOW.into())),
            ("connection window, unknown peer", bytes(connection_window(&Peer::Anonymous).into())),
            ("connection window, worker or service", bytes(connection_window(&known).into())),
            ("`SEND_WINDOW`", bytes(SEND_WINDOW)),
            ("`SEND_BUFFER`", bytes(SEND_BUFFER as u64)),
            ("`HEADERS`", bytes(HEADERS.into())),
            ("`UNACCEPTED`", number(UNACCEPTED as u64)),
            ("`UNACCEPTED_BYTES`", bytes(UNACCEPTED_BYTES)),
            ("`UNACCEPTED_TOTAL`", bytes(UNACCEPTED_TOTAL)),
            ("`CONNECTIONS`", number(CONNECTIONS as u64)),
            ("`UNPROVEN_HANDSHAKES`", number(UNPROVEN_HANDSHAKES as u64)),
        ];
        let page = include_str!("../../docs/limits.md");
        for (name, value) in rows {
            let row = format!("\n| {name} | {value} | ");
            assert!(page.contains(&row), "docs/limits.md has no row `{}`", row.trim());
        }
    }
}
