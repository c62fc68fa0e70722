//! CA, certificates, peers, TLS configurations, sealed secrets.
//!
//! API agreed; bodies to be written.
#![allow(missing_docs, unused_variables, clippy::all, clippy::pedantic, clippy::todo)]
use ids::{Timestamp, WorkerId};
use std::{path::Path, sync::Arc, time::Duration};

/// Who is at the other end of a connection, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// No client certificate was shown: browsers, REST clients, agents before they joined.
    Anonymous,
    Worker(WorkerId),
    /// A service of the house: "gateway", "svc-registry", …
    Service(String),
}

/// Certificate, key and the CA to trust: what a process shows and whom it believes. PEM texts.
/// Debug must not show the key.
#[derive(Clone)]
pub struct Credentials {
    pub certificate: String,
    pub key: String,
    pub ca: String,
}

impl Credentials {
    /// Reads `cert.pem`, `key.pem`, `caCert.pem` in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        todo!()
    }
    /// Writes them atomically, mode 0600 in a folder of mode 0700.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        todo!()
    }
    /// The peer that this certificate names.
    pub fn peer(&self) -> Result<Peer, IdentityError> {
        todo!()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(pub String); // the real one: variants with #[source]

/// A certificate that was made, and its key.
#[derive(Clone)]
pub struct Issued {
    pub credentials: Credentials,
    /** hex */
    pub serial: String,
    pub expires_at: Timestamp,
}

/// The CA. Its key never leaves this type.
#[derive(Clone)]
pub struct Authority(Arc<()>);

impl Authority {
    /// Opens `ca.pem`/`ca.key` (0600) in `dir`, or makes them.
    pub fn open_or_create(dir: &Path) -> Result<Self, IdentityError> {
        todo!()
    }
    pub fn ca_pem(&self) -> &str {
        todo!()
    }
    /// Client-only EKU; URI SAN `spiffe://gaia/worker/<id>`.
    pub fn issue_worker(&self, worker: WorkerId, valid: Duration) -> Result<Issued, IdentityError> {
        todo!()
    }
    /// Client and server EKU; URI SAN `spiffe://gaia/service/<name>`; dNSNames: `<name>`, "localhost", and for
    /// the gateway "gaia-pipeline.io" (what Gaia's agents and ours verify); `names`: further host names or IP addresses.
    pub fn issue_service(
        &self,
        name: &str,
        names: &[String],
        valid: Duration,
    ) -> Result<Issued, IdentityError> {
        todo!()
    }
}

/// rustls server configuration: asks for a client certificate but lets a client go on without one
/// (`Peer::Anonymous`); a certificate that does not verify is refused in the handshake. ALPN is set by transport.
pub fn server_tls(credentials: &Credentials) -> Result<rustls::ServerConfig, IdentityError> {
    todo!()
}
/// Shows the credentials' certificate, trusts their CA.
pub fn client_tls(credentials: &Credentials) -> Result<rustls::ClientConfig, IdentityError> {
    todo!()
}
/// Trusts the CA (PEM), shows nothing.
pub fn anonymous_client_tls(ca: &str) -> Result<rustls::ClientConfig, IdentityError> {
    todo!()
}
/// The peer that a verified certificate (DER) names, and its serial in hex.
pub fn peer_of(certificate: &[u8]) -> Result<(Peer, String), IdentityError> {
    todo!()
}
/// Installs aws-lc-rs as the process's provider; harmless when called again.
pub fn install_crypto() {
    todo!()
}

/// Encrypts what must be stored but not be readable. XChaCha20-Poly1305, a data key per value, wrapped by the
/// master key; `context` is bound to the value as associated data. Debug shows nothing.
#[derive(Clone)]
pub struct MasterKey(Arc<()>);

impl MasterKey {
    /// Reads 32 bytes from the file (0600; refuses one that others can read), or makes it.
    pub fn open_or_create(path: &Path) -> Result<Self, IdentityError> {
        todo!()
    }
    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        todo!()
    }
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, IdentityError> {
        todo!()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}
impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued")
    }
}
