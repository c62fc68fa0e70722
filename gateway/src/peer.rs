//! Who is calling, from what the connection proves.

use authz::Refusal;
use axum::http::Extensions;
use identity::Peer;
use ids::WorkerId;
use proto::common::v1::Caller;
use transport::Connection;

/// A worker that showed its certificate.
#[derive(Clone, Debug)]
pub(crate) struct WorkerPeer {
    pub(crate) id: WorkerId,
    pub(crate) caller: Caller,
}

impl WorkerPeer {
    /// That the call fits what the certificate proves, `authz::guard` has seen to.
    pub(crate) fn of(extensions: &Extensions) -> Result<Self, Refusal> {
        let connection = extensions.get::<Connection>().ok_or(Refusal::NoConnection)?;
        match &connection.peer {
            Peer::Worker(id) => {
                Ok(Self { id: *id, caller: caller(connection, format!("worker:{id}")) })
            }
            Peer::Service(_) => Err(Refusal::WrongPeer),
            Peer::Anonymous => Err(Refusal::NoCertificate),
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
