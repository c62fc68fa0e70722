//! The UDP wing: QUIC connections, each handed to the HTTP/3 bridge.

use super::Shared;
use crate::{Protocol, http3, limits, standing::Standing};
use quinn::{Endpoint, Incoming};
use rustls_pki_types::CertificateDer;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Accepts until shutdown, then waits for the connections to end.
pub(super) async fn serve(endpoint: Endpoint, shared: Shared) {
    let connections = TaskTracker::new();
    let handshakes = Arc::new(Semaphore::new(limits::UNPROVEN_HANDSHAKES));
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = shared.shutdown.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        if endpoint.open_connections() > limits::CONNECTIONS {
            tracing::warn!("refused: {} connections are open", limits::CONNECTIONS);
            incoming.refuse();
            continue;
        }
        let permit = handshakes.clone().try_acquire_owned().ok();
        if permit.is_none() && !incoming.remote_address_validated() {
            // Under load an address must first prove that it is no forged one.
            if let Err(error) = incoming.retry() {
                error.into_incoming().refuse();
            }
            continue;
        }
        let shared = shared.clone();
        let gone = shared.gone.clone();
        connections.spawn(gone.run_until_cancelled_owned(async move {
            let address = incoming.remote_address();
            if let Err(error) = converse(incoming, permit, shared).await {
                tracing::debug!(%address, %error, "connection ended");
            }
        }));
    }
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = refuse_all(&endpoint) => {}
    }
    endpoint.close(http3::NO_ERROR, b"the server stops");
    // Until the peers have heard of it.
    if tokio::time::timeout(limits::GRACE, endpoint.wait_idle()).await.is_err() {
        tracing::debug!("some peers did not answer the close");
    }
}

/// Lets the client hear why, but not for long.
async fn farewell(standing: &Standing, leave: &CancellationToken) {
    standing.ended().await;
    leave.cancel();
    tokio::time::sleep(limits::FAREWELL).await;
}

fn refused() {
    super::REFUSED_HANDSHAKES[1].fetch_add(1, Ordering::Relaxed);
}

/// Told at once, a client need not wait for its timeout.
async fn refuse_all(endpoint: &Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        incoming.refuse();
    }
}

async fn converse(
    incoming: Incoming,
    permit: Option<OwnedSemaphorePermit>,
    shared: Shared,
) -> io::Result<()> {
    let address = incoming.remote_address();
    let quic = tokio::time::timeout(limits::HANDSHAKE, incoming.accept()?).await;
    let quic = quic.map_err(io::Error::from).and_then(|shaken| Ok(shaken?));
    let quic = quic.inspect_err(|_| refused())?;
    drop(permit);
    let chain = quic.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer>>().ok());
    let chain = chain.as_ref().map(|chain| chain.as_slice());
    let known = super::connection(chain, address, Protocol::Http3, &shared.watchlist);
    let (connection, standing) = known.map_err(|error| {
        refused();
        quic.close(http3::NO_ERROR, b"the certificate names nobody");
        io::Error::other(error)
    })?;
    quic.set_receive_window(limits::connection_window(&connection.peer).into());
    let Shared { router, shutdown, .. } = shared;
    let (over, leave) = (standing.over(), shutdown.child_token());
    let talk = http3::converse(quic.clone(), connection, over, router, leave.clone());
    let ended = tokio::select! {
        ended = talk => ended,
        () = farewell(&standing, &leave) => {
            quic.close(http3::NO_ERROR, b"the certificate is believed no more");
            Ok(())
        }
    };
    ended
        .or_else(|error| if error.is_h3_no_error() { Ok(()) } else { Err(io::Error::other(error)) })
}
