//! Statements that a service signs, and that anybody with the CA's certificate can check, now and
//! years later, without asking a server.
//!
//! The signature is ECDSA over P-256 with SHA-256 (ASN.1 DER), by the key of a service's certificate.
//! `openssl dgst -sha256 -verify` checks the same.

use std::time::Duration;

use ids::Timestamp;
use rustls::{SignatureScheme, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    Credentials, IdentityError, Peer,
    credentials::certificates,
    peer_of,
    tls::{provider, roots},
};

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// Why a statement proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the certificate was not issued by this CA, or was not valid at that time: {0}")]
    Certificate(webpki::Error),
    #[error("the signature is not this certificate's over this text")]
    Signature,
}

impl Credentials {
    /// Signs the bytes with the key of this certificate.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let key = provider().key_provider.load_private_key(self.key()?);
        let key = key.map_err(IdentityError::Tls)?;
        let signer = key.choose_scheme(&[SCHEME]).ok_or(IdentityError::Tls(
            rustls::Error::General("the key is not an ECDSA key over P-256".into()),
        ))?;
        signer.sign(message).map_err(IdentityError::Tls)
    }
}

/// Who signed the bytes: the peer that the certificate (PEM, with what leads to a root behind it) names,
/// which the CA (PEM) issued and which was valid at that time.
pub fn signer(
    ca: &str,
    certificate: &str,
    at: Timestamp,
    message: &[u8],
    signature: &[u8],
) -> Result<Peer, StatementError> {
    let chain = certificates("certificate", certificate)?;
    let Some((certificate, leading)) = chain.split_first() else {
        return Err(IdentityError::NotAPeer("the statement has no certificate".into()).into());
    };
    let provider = provider();
    let parsed = check_issued(ca, certificate, leading, at, &provider)?;
    let algorithms = provider.signature_verification_algorithms.mapping.iter();
    let mut algorithms =
        algorithms.filter(|(scheme, _)| *scheme == SCHEME).flat_map(|(_, all)| *all);
    if !algorithms.any(|one| parsed.verify_signature(*one, message, signature).is_ok()) {
        return Err(StatementError::Signature);
    }
    Ok(peer_of(certificate)?.0)
}

fn check_issued<'a>(
    ca: &str,
    certificate: &'a CertificateDer<'_>,
    leading: &[CertificateDer<'_>],
    at: Timestamp,
    provider: &CryptoProvider,
) -> Result<EndEntityCert<'a>, StatementError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(StatementError::Certificate)?;
    let time = UnixTime::since_unix_epoch(Duration::from_millis(at.as_millis()));
    parsed
        .verify_for_usage(
            provider.signature_verification_algorithms.all,
            &roots(ca)?.roots,
            leading,
            time,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(StatementError::Certificate)?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use ids::WorkerId;
    use uuid::Uuid;

    use super::*;
    use crate::Authority;

    const DAY: Duration = Duration::from_hours(24);

    fn now() -> Timestamp {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        Timestamp(since.as_millis() as u64)
    }

    fn authority(dir: &tempfile::TempDir) -> Authority {
        Authority::open_or_create(dir.path()).unwrap()
    }

    #[test]
    fn a_statement_proves_who_made_it_with_the_ca_certificate_alone() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(&dir);
        let gateway = authority.issue_service("gateway", &[], DAY).unwrap().credentials;
        let signature = gateway.sign(b"text").unwrap();
        let check = |ca: &str, at, text: &[u8], signature: &[u8]| {
            signer(ca, &gateway.certificate, at, text, signature)
        };
        let peer = check(&authority.ca_pem(), now(), b"text", &signature).unwrap();
        assert_eq!(peer, Peer::Service("gateway".into()));

        let worker = WorkerId::from_uuid(Uuid::from_u128(7));
        let one = authority.issue_worker(worker, DAY).unwrap().credentials;
        let by_worker = one.sign(b"text").unwrap();
        let peer = signer(&authority.ca_pem(), &one.certificate, now(), b"text", &by_worker);
        assert_eq!(peer.unwrap(), Peer::Worker(worker));
    }

    #[test]
    fn a_changed_text_signature_time_or_ca_proves_nothing() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, foreign) = (authority(&dir), authority(&other));
        let gateway = ours.issue_service("gateway", &[], DAY).unwrap().credentials;
        let signature = gateway.sign(b"text").unwrap();
        let check = |ca: &str, at, text: &[u8], signature: &[u8]| {
            signer(ca, &gateway.certificate, at, text, signature).is_ok()
        };
        assert!(check(&ours.ca_pem(), now(), b"text", &signature));
        assert!(!check(&ours.ca_pem(), now(), b"test", &signature));
        assert!(!check(&foreign.ca_pem(), now(), b"text", &signature));
        assert!(!check(&ours.ca_pem(), Timestamp(now().0 + 3 * 86_400_000), b"text", &signature));
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert!(!check(&ours.ca_pem(), now(), b"text", &changed), "byte {at}");
        }
        let twin = foreign.issue_service("gateway", &[], DAY).unwrap().credentials;
        assert!(!check(&ours.ca_pem(), now(), b"text", &twin.sign(b"text").unwrap()));
    }
}
