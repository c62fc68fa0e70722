//! rustls configurations: mutual TLS with the certificates of our own CA, on one crypto provider.

use std::sync::Arc;

use ids::Digest;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig,
    client::{Resumption, WantsClientCert, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{Credentials, IdentityError, Live, credentials::certificates, live::Pinned};

/// rustls server configuration: asks for a client certificate but lets a client go on without one
/// ([`Peer::Anonymous`](crate::Peer)); a certificate that does not verify is refused in the
/// handshake. ALPN is set by transport.
pub fn server_tls(credentials: &Credentials) -> Result<ServerConfig, IdentityError> {
    live_server_tls(&Live::new(credentials.clone())?)
}

/// The same, for credentials that may be replaced.
pub fn live_server_tls(live: &Live) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(Arc::new(live.clone()))
        .with_cert_resolver(Arc::new(live.clone()));
    // A resumed session would not look at the certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Shows the credentials' certificate, trusts their CA and nothing else.
pub fn client_tls(credentials: &Credentials) -> Result<ClientConfig, IdentityError> {
    live_client_tls(&Live::new(credentials.clone())?)
}

/// The same, for credentials that may be replaced.
pub fn live_client_tls(live: &Live) -> Result<ClientConfig, IdentityError> {
    let mut config =
        client(Arc::new(live.clone()))?.with_client_cert_resolver(Arc::new(live.clone()));
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Trusts the CA (PEM), shows nothing.
pub fn anonymous_client_tls(ca: &str) -> Result<ClientConfig, IdentityError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth())
}

/// Trusts the CA whose root has this fingerprint, shows nothing.
pub fn pinned_client_tls(ca: Digest) -> Result<ClientConfig, IdentityError> {
    Ok(client(Arc::new(Pinned(ca)))?.with_no_client_auth())
}

/// Installs aws-lc-rs as the process's provider; harmless when called again.
pub fn install_crypto() {
    // Refused when one is installed already, which is what is wanted.
    aws_lc_rs::default_provider().install_default().ok();
}

fn client(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, IdentityError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

pub(crate) fn roots(ca: &str) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA certificate", ca)? {
        roots.add(certificate).map_err(IdentityError::Tls)?;
    }
    Ok(roots)
}

/// Lets clients without a certificate go on.
pub(crate) fn client_verifier(
    roots: Arc<RootCertStore>,
) -> Result<Arc<dyn ClientCertVerifier>, IdentityError> {
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .clear_root_hint_subjects()
        .build()
        .map_err(IdentityError::Verifier)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
