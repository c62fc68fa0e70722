//! What a process shows and whom it believes, and the three files that hold it.

use std::{fmt, fs, path::Path};

use ids::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{IdentityError, Peer, files::write_private, peer_of};

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

/// Gaia's names, so that a folder of its agent can be used as it is.
const FILES: [&str; 3] = ["cert.pem", "key.pem", "caCert.pem"];

impl Credentials {
    /// Reads `cert.pem`, `key.pem`, `caCert.pem` in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let [certificate, key, ca] = FILES.map(|name| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| IdentityError::Read { path, source })
        });
        Ok(Self { certificate: certificate?, key: key?, ca: ca? })
    }

    /// Writes them atomically, each file with mode 0600, a new folder with mode 0700.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let texts = [&self.certificate, &self.key, &self.ca];
        FILES
            .iter()
            .zip(texts)
            .try_for_each(|(name, text)| write_private(&dir.join(name), text.as_bytes()))
    }

    /// The peer that this certificate names.
    pub fn peer(&self) -> Result<Peer, IdentityError> {
        let chain = self.chain()?;
        let first = chain.first().ok_or_else(|| IdentityError::NotAPeer("there is none".into()))?;
        peer_of(first).map(|(peer, _)| peer)
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        certificates("certificate", &self.certificate)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, IdentityError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|source| IdentityError::Pem { what: "private key", source })
    }
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
