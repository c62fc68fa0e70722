//! A key that its owner keeps, and the request to certify it.

use std::fmt;

use ids::Digest;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest,
    prelude::FromDer as _,
};

use crate::{Credentials, IdentityError, Signed, authority::new_key};

/// Bytes of PEM; a request for a P-256 key has 400.
const LARGEST: usize = 4 << 10;
/// An uncompressed point of P-256.
const POINT: usize = 65;

/// A key that never leaves its machine.
pub struct Key(KeyPair);

impl Key {
    /// P-256.
    pub fn generate() -> Result<Self, IdentityError> {
        new_key().map(Self)
    }

    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        KeyPair::from_pem(pem).map(Self).map_err(IdentityError::Issue)
    }

    /// For a file that only its owner may read.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Asks for a certificate, and proves that the key is there; PEM. It names nobody: whoever signs
    /// decides whose it is.
    pub fn request(&self) -> Result<String, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(IdentityError::Issue)?;
        request.pem().map_err(IdentityError::Issue)
    }

    /// What this key is with the certificate that was made for it.
    pub fn certified(&self, certificate: String, ca: String) -> Result<Credentials, IdentityError> {
        let credentials = Credentials { certificate, key: self.to_pem(), ca };
        if credentials.fit()? { Ok(credentials) } else { Err(IdentityError::OtherKey) }
    }
}

/// A request whose sender has proved that it holds the key. Nothing else that it says counts.
pub struct Request {
    point: Vec<u8>,
}

impl Request {
    /// Refuses what is not a P-256 key, and what asks for more than its certification.
    pub fn parse(pem: &str) -> Result<Self, IdentityError> {
        let refuse = |why| Err(IdentityError::Request(why));
        if pem.len() > LARGEST {
            return refuse("it has more than 4 KiB; a request for one P-256 key is enough");
        }
        let Ok(der) = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()) else {
            return refuse("it is not a CERTIFICATE REQUEST in PEM");
        };
        let Ok((rest, parsed)) = X509CertificationRequest::from_der(&der) else {
            return refuse("its PEM holds no certificate request (PKCS #10)");
        };
        if !rest.is_empty() {
            return refuse("bytes follow the request");
        }
        if !parsed.certification_request_info.attributes().is_empty() {
            return refuse("it asks for names, usages or other attributes; ask for the key alone");
        }
        // rcgen takes the signature's algorithm for the key's, so the key is looked at as well.
        let key = &parsed.certification_request_info.subject_pki;
        let point = &key.subject_public_key.data;
        let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let p256 = x509_parser::oid_registry::OID_EC_P256;
        if curve != Some(p256) || point.len() != POINT || point[0] != 4 {
            return refuse("its key is not of the kind P-256 (prime256v1), uncompressed");
        }
        match CertificateSigningRequestParams::from_der(&der) {
            Ok(request) if request.public_key.algorithm() == &PKCS_ECDSA_P256_SHA256 => {
                Ok(Self { point: request.public_key.der_bytes().to_vec() })
            }
            Ok(_) => refuse("it is not signed by ECDSA with SHA-256"),
            Err(_) => refuse("its signature does not fit its key"),
        }
    }

    /// Whether the certificate (DER) is for the same key.
    pub(crate) fn is_for(&self, certificate: &[u8]) -> bool {
        X509Certificate::from_der(certificate)
            .is_ok_and(|(_, parsed)| *parsed.public_key().subject_public_key.data == self.point)
    }

    /// Tells keys apart.
    pub fn key_digest(&self) -> Digest {
        Digest::of(&self.point)
    }
}

impl PublicKeyData for Request {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({})", self.key_digest())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({})", self.serial)
    }
}
