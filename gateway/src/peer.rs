//! Who is calling, from what the connection proves.

use axum::http::Extensions;
use identity::Peer;
use ids::WorkerId;
use proto::common::v1::Caller;
use tonic::{Status, metadata::MetadataMap};
use transport::Connection;

/// A worker that showed its certificate.
#[derive(Clone, Debug)]
pub(crate) struct WorkerPeer {
    pub(crate) id: WorkerId,
    pub(crate) caller: Caller,
}

/// Why a call that only workers may make is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NotAWorker {
    #[error(
        "no client certificate was shown: register this worker, then call with its certificate"
    )]
    Anonymous,
    #[error("the certificate is the service `{0}`'s: only workers may call this")]
    Service(String),
    #[error("the gateway does not know who is calling: serve it by transport::Server")]
    NoConnection,
}

impl WorkerPeer {
    pub(crate) fn of(extensions: &Extensions) -> Result<Self, NotAWorker> {
        let connection = extensions.get::<Connection>().ok_or(NotAWorker::NoConnection)?;
        match &connection.peer {
            Peer::Worker(id) => {
                Ok(Self { id: *id, caller: caller(connection, format!("worker:{id}")) })
            }
            Peer::Service(name) => Err(NotAWorker::Service(name.clone())),
            Peer::Anonymous => Err(NotAWorker::Anonymous),
        }
    }

    /// For the Worker API: what the call says of itself must fit what the certificate proves.
    pub(crate) fn of_call(extensions: &Extensions, metadata: &MetadataMap) -> Result<Self, Status> {
        let worker =
            Self::of(extensions).map_err(|refusal| Status::unauthenticated(refusal.to_string()))?;
        let certified = worker.id.to_string();
        let stranger = metadata
            .get_all("uniqueid")
            .iter()
            .find(|said| !said.as_bytes().eq_ignore_ascii_case(certified.as_bytes()));
        match stranger {
            None => Ok(worker),
            Some(_) => Err(Status::permission_denied(format!(
                "`uniqueid` names another worker than the certificate, which is {certified}'s: \
                 use the certificate of the registration that answered this id"
            ))),
        }
    }
}

/// What goes into the audit trail.
pub(crate) fn caller(connection: &Connection, name: String) -> Caller {
    Caller {
        name,
        address: connection.address.to_string(),
        certificate: connection.certificate.clone().unwrap_or_default(),
    }
}
