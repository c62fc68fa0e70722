//! rustls configurations: mutual TLS with the certificates of our own CA, on one crypto provider.

use std::sync::Arc;

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig,
    client::WantsClientCert,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
};

use crate::{Credentials, IdentityError, credentials::certificates};

/// rustls server configuration: asks for a client certificate but lets a client go on without one
/// ([`Peer::Anonymous`](crate::Peer)); a certificate that does not verify is refused in the
/// handshake. ALPN is set by transport.
pub fn server_tls(credentials: &Credentials) -> Result<ServerConfig, IdentityError> {
    let roots = Arc::new(roots(&credentials.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(IdentityError::Verifier)?;
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain()?, credentials.key()?)
        .map_err(IdentityError::Tls)
}

/// Shows the credentials' certificate, trusts their CA and nothing else.
pub fn client_tls(credentials: &Credentials) -> Result<ClientConfig, IdentityError> {
    client(&credentials.ca)?
        .with_client_auth_cert(credentials.chain()?, credentials.key()?)
        .map_err(IdentityError::Tls)
}

/// Trusts the CA (PEM), shows nothing.
pub fn anonymous_client_tls(ca: &str) -> Result<ClientConfig, IdentityError> {
    Ok(client(ca)?.with_no_client_auth())
}

/// Installs aws-lc-rs as the process's provider; harmless when called again.
pub fn install_crypto() {
    // Refused when one is installed already, which is what is wanted.
    aws_lc_rs::default_provider().install_default().ok();
}

fn client(ca: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, IdentityError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .with_root_certificates(roots(ca)?))
}

pub(crate) fn roots(ca: &str) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA certificate", ca)? {
        roots.add(certificate).map_err(IdentityError::Tls)?;
    }
    Ok(roots)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
