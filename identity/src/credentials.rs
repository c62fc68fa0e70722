//! What a process shows and whom it believes, and the three files that hold it.

use std::{fmt, fs, io, path::Path};

use ids::{Digest, Timestamp};
use rustls::{Error, InconsistentKeys, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate, oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    prelude::FromDer as _,
};

use crate::{
    IdentityError, Peer, authority::CLOCK_SKEW, files::write_private, peer, peer_of, tls::provider,
};

/// Certificate, key and the CA to trust: what a process shows and whom it believes. PEM texts.
#[derive(Clone)]
pub struct Credentials {
    pub certificate: String,
    pub key: String,
    pub ca: String,
}

/// A certificate that was made, and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    pub credentials: Credentials,
    /// Hex.
    pub serial: String,
    pub expires_at: Timestamp,
}

/// A certificate for a key that its owner keeps.
#[derive(Clone)]
pub struct Signed {
    /// PEM, with what leads to the roots behind it.
    pub certificate: String,
    /// The roots to trust, PEM.
    pub ca: String,
    /// Hex.
    pub serial: String,
    pub expires_at: Timestamp,
}

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// When it was made; it is good for clocks that are behind as well.
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Validity {
    /// When to get another: at half of its life, a tenth of it sooner or later as `jitter` says, so that
    /// those who started together do not come together.
    #[must_use]
    pub fn renew_at(&self, jitter: u8) -> Timestamp {
        let life = self.until.since(self.from);
        self.from + life * 2 / 5 + life * u32::from(jitter) / (5 * u32::from(u8::MAX))
    }
}

/// Gaia's names, so that a folder of its agent can be used as it is.
const FILES: [&str; 3] = ["cert.pem", "key.pem", "caCert.pem"];
/// The key of a certificate that is on its way to the disk.
const NEXT_KEY: &str = "next-key.pem";

impl Credentials {
    /// Reads `cert.pem`, `key.pem`, `caCert.pem` in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| IdentityError::Read { path, source })
        };
        let [certificate, key, ca] = FILES.map(read);
        let (certificate, ca) = (certificate?, ca?);
        // A crash in `save` can leave the new certificate before its key has its name.
        if let Ok(key) = read(NEXT_KEY) {
            let next = Self { certificate: certificate.clone(), key, ca: ca.clone() };
            if next.fit().unwrap_or(false) {
                return Ok(next);
            }
        }
        Ok(Self { certificate, key: key?, ca })
    }

    /// Writes them, each file atomically and with mode 0600, a new folder with mode 0700. Whenever it is
    /// interrupted, the old credentials or the new ones are there.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let write = |name: &str, text: &str| write_private(&dir.join(name), text.as_bytes());
        let [certificate, key, ca] = FILES;
        write(NEXT_KEY, &self.key)?;
        write(ca, &self.ca)?;
        write(certificate, &self.certificate)?;
        write(key, &self.key)?;
        let path = dir.join(NEXT_KEY);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::Write { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Whether the certificate is the key's.
    pub(crate) fn fit(&self) -> Result<bool, IdentityError> {
        let key =
            provider().key_provider.load_private_key(self.key()?).map_err(IdentityError::Tls)?;
        match CertifiedKey::new(self.chain()?, key).keys_match() {
            Ok(()) => Ok(true),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Ok(false),
            Err(error) => Err(IdentityError::Tls(error)),
        }
    }

    /// From when to when the certificate is good.
    pub fn validity(&self) -> Result<Validity, IdentityError> {
        validity_of(&self.first()?)
    }

    /// Whether the first of the roots that it trusts, which is the newest, leads to the certificate.
    pub fn is_of_newest_ca(&self) -> bool {
        let name = |certificate: &[u8], of: fn(&X509Certificate<'_>) -> Vec<u8>| {
            X509Certificate::from_der(certificate).ok().map(|(_, parsed)| of(&parsed))
        };
        let roots = certificates("CA certificate", &self.ca).unwrap_or_default();
        let newest = roots.first().and_then(|root| name(root, |it| it.subject().as_raw().to_vec()));
        let chain = self.chain().unwrap_or_default();
        let mut issuers = chain.iter().map(|link| name(link, |it| it.issuer().as_raw().to_vec()));
        newest.is_some() && issuers.any(|issuer| issuer == newest)
    }

    /// Whether it trusts the root with this fingerprint.
    pub fn has_root(&self, fingerprint: Digest) -> bool {
        let roots = certificates("CA certificate", &self.ca).unwrap_or_default();
        roots.iter().any(|root| Digest::of(root) == fingerprint)
    }

    /// The host names and addresses that a service's certificate holds beside those that all services
    /// have.
    pub fn host_names(&self) -> Result<Vec<String>, IdentityError> {
        let name = match self.peer()? {
            Peer::Service(name) => name,
            _ => String::new(),
        };
        peer::host_names(&self.first()?, &name)
    }

    fn first(&self) -> Result<CertificateDer<'static>, IdentityError> {
        let first = self.chain()?.into_iter().next();
        first.ok_or_else(|| IdentityError::NotAPeer("there is none".into()))
    }

    /// The peer that this certificate names.
    pub fn peer(&self) -> Result<Peer, IdentityError> {
        peer_of(&self.first()?).map(|(peer, _)| peer)
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        certificates("certificate", &self.certificate)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|source| IdentityError::Pem { what: "private key", source })
    }
}

/// From when to when a certificate (DER) is good.
pub fn validity_of(certificate: &[u8]) -> Result<Validity, IdentityError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| IdentityError::NotAPeer(error.to_string()))?;
    let at = |seconds: i64| Timestamp(seconds.max(0) as u64 * 1_000);
    let validity = parsed.validity();
    let from = at(validity.not_before.timestamp()) + CLOCK_SKEW;
    Ok(Validity { from, until: at(validity.not_after.timestamp()) })
}

/// Tells apart who signed certificates (DER), as the certificates themselves say it.
pub fn issuer_of(certificate: &[u8]) -> Option<Digest> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let key = parsed.get_extension_unique(&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER).ok()?;
    let key = key.map_or(&[][..], |extension| extension.value);
    Some(Digest::of(&[parsed.issuer().as_raw(), key].concat()))
}

pub(crate) fn certificates(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityError::Pem { what, source })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("peer", &self.peer().ok()).finish_non_exhaustive()
    }
}
