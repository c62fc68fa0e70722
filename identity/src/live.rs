//! What a process shows and whom it believes, replaceable while it runs: certificates are renewed, the
//! CA rolls over, and certificates are revoked, all without a restart.
//!
//! A handshake sees what is current when it begins. Sessions are never resumed: a resumed one would
//! show the certificate of its first handshake, and that would not be looked at again.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    Credentials, IdentityError,
    credentials::{certificates, validity_of},
    peer_of,
    tls::{client_verifier, provider, roots},
};

/// Credentials that can be replaced; cheap to clone, and all clones are one.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    now: RwLock<Arc<Face>>,
    revoked: Revoked,
}

/// Serials of certificates that are believed no more; cheap to clone, and all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Revoked(Arc<RwLock<HashSet<String>>>);

impl Revoked {
    /// The serial in hex.
    pub fn add(&self, serial: String) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(serial);
    }

    pub fn contains(&self, serial: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(serial)
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        match peer_of(certificate) {
            Ok((_, serial)) if self.contains(&serial) => {
                Err(Error::InvalidCertificate(CertificateError::Revoked))
            }
            Ok(_) => Ok(()),
            Err(_) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }
}

/// What was made of one version of the credentials.
struct Face {
    credentials: Credentials,
    client: Arc<CertifiedKey>,
    /// The roots stand behind the chain, so that whoever knows but a root's fingerprint can verify it.
    server: Arc<CertifiedKey>,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl Face {
    fn new(credentials: Credentials) -> Result<Self, IdentityError> {
        let tls = IdentityError::Tls;
        let chain = credentials.chain()?;
        let key = provider().key_provider.load_private_key(credentials.key()?).map_err(tls)?;
        let client = CertifiedKey::new(chain.clone(), Arc::clone(&key));
        client.keys_match().map_err(tls)?;
        let behind = certificates("CA certificate", &credentials.ca)?;
        let server = CertifiedKey::new([chain, behind].concat(), key);
        let roots = Arc::new(roots(&credentials.ca)?);
        let clients = client_verifier(Arc::clone(&roots))?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(IdentityError::Verifier)?;
        Ok(Self { credentials, client: client.into(), server: server.into(), clients, servers })
    }
}

impl Live {
    pub fn new(credentials: Credentials) -> Result<Self, IdentityError> {
        let now = RwLock::new(Arc::new(Face::new(credentials)?));
        Ok(Self(Arc::new(Inner { now, revoked: Revoked::default() })))
    }

    pub fn credentials(&self) -> Credentials {
        self.face().credentials.clone()
    }

    /// From the next handshake on. Connections that stand are not touched.
    pub fn replace(&self, credentials: Credentials) -> Result<(), IdentityError> {
        let next = Arc::new(Face::new(credentials)?);
        *self.0.now.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Trusts these roots (PEM) and no others, from the next handshake on.
    pub fn trust(&self, ca: &str) -> Result<(), IdentityError> {
        let credentials = self.credentials();
        if credentials.ca == ca {
            return Ok(());
        }
        self.replace(Credentials { ca: ca.to_owned(), ..credentials })
    }

    /// Whether these roots still lead to a client's certificate that was believed, whatever its dates:
    /// first that, then what was shown behind it.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((first, behind)) = chain.split_first() else { return false };
        let lives = chain.iter().filter_map(|one| validity_of(one).ok());
        // When the youngest of them was made, all were good, if ever.
        let Some(begun) = lives.map(|life| life.from).max() else { return false };
        let until = validity_of(first).map_or(begun, |life| life.until);
        let begun = begun.min(until);
        let begun = UnixTime::since_unix_epoch(Duration::from_millis(begun.as_millis()));
        self.face().clients.verify_client_cert(first, behind, begun).is_ok()
    }

    /// The certificates that are refused though all else about them is right.
    pub fn revoked(&self) -> &Revoked {
        &self.0.revoked
    }

    fn face(&self) -> Arc<Face> {
        Arc::clone(&self.0.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.face().credentials).finish()
    }
}

impl ResolvesServerCert for Live {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.face().server))
    }
}

impl ResolvesClientCert for Live {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.face().client))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Live {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: a client has one certificate, and it need not choose.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.face().clients.verify_client_cert(end_entity, intermediates, now)?;
        self.0.revoked.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.face().clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.face().clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.face().clients.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Live {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let face = self.face();
        let verified =
            face.servers.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)?;
        self.0.revoked.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.face().servers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.face().servers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.face().servers.supported_verify_schemes()
    }
}

/// Believes a server whose chain leads to the one root that it knows by fingerprint.
#[derive(Debug)]
pub(crate) struct Pinned(pub(crate) ids::Digest);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = intermediates.iter().find(|shown| ids::Digest::of(shown) == self.0);
        let root = root.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
