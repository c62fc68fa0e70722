//! Counts what was refused, for the whole process, as metrics are.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

/// By call and reason. Both are from the table, so this is bounded, whatever is asked for.
static REFUSED: Mutex<BTreeMap<(&str, &str), u64>> = Mutex::new(BTreeMap::new());

/// One more call to `call` (the path of its row) was refused for this reason.
pub fn count(call: &'static str, reason: &'static str) {
    *REFUSED.lock().unwrap_or_else(PoisonError::into_inner).entry((call, reason)).or_default() += 1;
}

/// By service and reason. Both are constants of its code, so this is bounded too.
static REJECTED: Mutex<BTreeMap<(&str, &str), u64>> = Mutex::new(BTreeMap::new());

/// A service rejected one more request, from somebody who may make it, for this reason.
pub fn count_rejection(service: &'static str, reason: &'static str) {
    let mut rejected = REJECTED.lock().unwrap_or_else(PoisonError::into_inner);
    *rejected.entry((service, reason)).or_default() += 1;
}

/// What was counted, in the text format of Prometheus.
#[must_use]
pub fn metrics() -> String {
    let mut text = String::from(
        "# HELP gaia_refused_calls_total Calls of somebody who may not make them.\n\
         # TYPE gaia_refused_calls_total counter\n",
    );
    let refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((call, reason), count) in refused {
        writeln!(text, "gaia_refused_calls_total{{call=\"{call}\",reason=\"{reason}\"}} {count}")
            .expect("a String takes everything");
    }
    text.push_str(
        "# HELP gaia_rejected_requests_total Requests that a service rejected for what they ask.\n\
         # TYPE gaia_rejected_requests_total counter\n",
    );
    let rejected = REJECTED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((service, reason), count) in rejected {
        writeln!(
            text,
            "gaia_rejected_requests_total{{service=\"{service}\",reason=\"{reason}\"}} {count}"
        )
        .expect("a String takes everything");
    }
    text.push_str(
        "# HELP gaia_refused_handshakes_total Connections that were refused in the TLS handshake.\n\
         # TYPE gaia_refused_handshakes_total counter\n",
    );
    for (protocol, count) in transport::refused_handshakes() {
        writeln!(text, "gaia_refused_handshakes_total{{protocol=\"{protocol}\"}} {count}")
            .expect("a String takes everything");
    }
    text
}
