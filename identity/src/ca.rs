//! The CA's folder: roots, intermediates, and how one CA hands over to the next.
//!
//! ```text
//! ca/ca.pem          the roots to trust, the newest first: what agents and clients are given
//! ca/<n>/root.pem    the root of generation n, and root.key, which may be kept elsewhere
//! ca/<n>/issuer.pem  the intermediate, which signs everything, and issuer.key; behind it the same
//!                    intermediate as each earlier root vouches for it
//! ```
//!
//! The newest generation signs. While the earlier roots vouch for its intermediate, whoever trusts an
//! earlier root alone still believes every new certificate, and what the earlier generations signed
//! is still believed here; so nobody need learn of a roll-over at once. A root is trusted for as long
//! as its last voucher is valid, and there is no other record of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    IdentityError,
    authority::{params, signed},
    credentials::certificates,
    files::{read_private, write_private},
    peer::hex,
    random,
};

const VALID: time::Duration = time::Duration::days(3652);

/// What signs, and whom to trust.
pub(crate) struct Ca {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    /// What leads from a certificate to the roots.
    links: Vec<Link>,
    /// The current root first.
    roots: Vec<Link>,
    generation: u32,
}

/// A certificate of the CA, PEM, and until when it counts.
struct Link {
    pem: String,
    until: OffsetDateTime,
}

impl Ca {
    pub(crate) fn open_or_create(dir: &Path, now: OffsetDateTime) -> Result<Self, IdentityError> {
        let ca = match newest(dir)? {
            0 => match Self::open_first_version(dir)? {
                Some(ca) => return Ok(ca),
                None => Self::create(dir, None, Duration::ZERO, now)?,
            },
            generation => Self::open(dir, generation)?,
        };
        ca.publish(dir, now)?;
        Ok(ca)
    }

    /// A new root and intermediate. What the old ones signed is believed for the overlap.
    pub(crate) fn succeed(
        &self,
        dir: &Path,
        overlap: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, IdentityError> {
        if self.generation == 0 {
            return Err(IdentityError::OldCa { path: dir.into() });
        }
        let ca = Self::create(dir, Some(self), overlap, now)?;
        ca.publish(dir, now)?;
        Ok(ca)
    }

    /// The intermediate and who vouches for it now, PEM.
    pub(crate) fn links(&self, now: OffsetDateTime) -> String {
        valid(&self.links, now)
    }

    /// The roots to trust now, PEM.
    pub(crate) fn roots(&self, now: OffsetDateTime) -> String {
        valid(&self.roots, now)
    }

    /// The current root.
    pub(crate) fn root(&self) -> &str {
        &self.roots[0].pem
    }

    fn publish(&self, dir: &Path, now: OffsetDateTime) -> Result<(), IdentityError> {
        let (path, roots) = (dir.join("ca.pem"), self.roots(now));
        if read_private(&path)?.is_none_or(|known| known != roots.as_bytes()) {
            write_private(&path, roots.as_bytes())?;
        }
        Ok(())
    }

    /// Early versions had one certificate, which signed everything itself.
    fn open_first_version(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let (ca_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        match (read(&ca_path)?, read_private(&key_path)?) {
            (Some(pem), Some(key)) => {
                let issuer = issuer(&pem, &String::from_utf8_lossy(&key))?;
                let until = certificate(&pem, |root| Ok(root.validity().not_after.to_datetime()))?;
                let roots = vec![Link { pem, until }];
                Ok(Some(Self { issuer, links: vec![], roots, generation: 0 }))
            }
            (Some(_), None) => Err(IdentityError::HalfACa { present: ca_path, missing: key_path }),
            // A key alone was left by a crash; nothing was signed with it.
            (None, _) => Ok(None),
        }
    }

    fn open(dir: &Path, generation: u32) -> Result<Self, IdentityError> {
        let place = place(dir, generation);
        let chain_path = place.join("issuer.pem");
        let chain = must_read(&chain_path)?;
        let key_path = place.join("issuer.key");
        let Some(key) = read_private(&key_path)? else {
            return Err(IdentityError::HalfACa { present: chain_path, missing: key_path });
        };
        let mut links = Vec::new();
        let mut vouchers = Vec::new();
        for der in certificates("CA certificate", &chain)? {
            let (by, until) = parse(&der, |link| {
                Ok((link.issuer().as_raw().to_vec(), link.validity().not_after.to_datetime()))
            })?;
            links.push(Link { pem: pem(&der), until });
            vouchers.push((by, until));
        }
        let intermediate =
            links.first().ok_or(IdentityError::Ca(rcgen::Error::CouldNotParseCertificate))?;
        let issuer = issuer(&intermediate.pem, &String::from_utf8_lossy(&key))?;
        let mut roots = Vec::new();
        for earlier in (1..=generation).rev() {
            let Some(pem) = read(&self::place(dir, earlier).join("root.pem"))? else { continue };
            let name = certificate(&pem, |root| Ok(root.subject().as_raw().to_vec()))?;
            let voucher = vouchers.iter().find(|(by, _)| *by == name);
            roots.extend(voucher.map(|&(_, until)| Link { pem, until }));
        }
        if roots.is_empty() {
            let missing = place.join("root.pem");
            return Err(IdentityError::HalfACa { present: chain_path, missing });
        }
        Ok(Self { issuer, links, roots, generation })
    }

    /// Makes the next generation aside and puts it in place whole: a crash leaves it out whole.
    fn create(
        dir: &Path,
        before: Option<&Self>,
        overlap: Duration,
        now: OffsetDateTime,
    ) -> Result<Self, IdentityError> {
        let generation = before.map_or(0, |before| before.generation) + 1;
        let (root, root_key) = root(now).map_err(IdentityError::Issue)?;
        let (intermediate, intermediate_key) = intermediate(now)?;
        let own = issuer(&root, &root_key)?;
        let mut chain = sign(intermediate.clone(), &intermediate_key, &own)?;
        if !overlap.is_zero() {
            for voucher in before.map_or(Ok(vec![]), |before| before.vouchers(dir, now))? {
                let Voucher { issuer, until } = voucher;
                let mut vouched = intermediate.clone();
                let end = now.checked_add(signed(overlap)?).ok_or(IdentityError::TooLong)?;
                vouched.not_after = end.min(until);
                chain += &sign(vouched, &intermediate_key, &issuer)?;
            }
        }
        let unfinished = dir.join(format!(".{generation}.{}", hex(&random::<8>())));
        let write = |name: &str, text: &str| write_private(&unfinished.join(name), text.as_bytes());
        write("root.key", &root_key)?;
        write("root.pem", &root)?;
        write("issuer.key", &intermediate_key.serialize_pem())?;
        write("issuer.pem", &chain)?;
        let place = place(dir, generation);
        let placed = fs::rename(&unfinished, &place).and_then(|()| fs::File::open(dir)?.sync_all());
        placed.map_err(|source| IdentityError::Write { path: place, source })?;
        Self::open(dir, generation)
    }

    /// The roots that are trusted now, with their keys.
    fn vouchers(&self, dir: &Path, now: OffsetDateTime) -> Result<Vec<Voucher>, IdentityError> {
        let mut vouchers = Vec::new();
        for generation in (1..=self.generation).rev() {
            let path = place(dir, generation).join("root.pem");
            let Some(pem) = read(&path)? else { continue };
            let trusted = self.roots.iter().find(|root| root.pem.trim() == pem.trim());
            let Some(root) = trusted.filter(|root| root.until > now) else { continue };
            let path = place(dir, generation).join("root.key");
            match read_private(&path)? {
                Some(key) => vouchers.push(Voucher {
                    issuer: issuer(&pem, &String::from_utf8_lossy(&key))?,
                    until: root.until,
                }),
                None => return Err(IdentityError::NoRootKey { path }),
            }
        }
        Ok(vouchers)
    }
}

struct Voucher {
    issuer: Issuer<'static, KeyPair>,
    until: OffsetDateTime,
}

fn place(dir: &Path, generation: u32) -> PathBuf {
    dir.join(generation.to_string())
}

/// The highest generation that is there; 0: none.
fn newest(dir: &Path) -> Result<u32, IdentityError> {
    let failed = |source| IdentityError::Read { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    let mut newest = 0;
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let generation = name.to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        newest = newest.max(generation);
    }
    Ok(newest)
}

fn root(now: OffsetDateTime) -> Result<(String, String), rcgen::Error> {
    // Two CAs must not share a name, else a verifier that knows both may try the wrong one.
    let params = of_a_ca(&format!("Gaia CA {}", hex(&random::<4>())), 1, now);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn intermediate(now: OffsetDateTime) -> Result<(CertificateParams, KeyPair), IdentityError> {
    let mut params = of_a_ca(&format!("Gaia issuer {}", hex(&random::<4>())), 0, now);
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Issue)?;
    Ok((params, key))
}

/// `below`: how many CAs may stand between it and a certificate.
fn of_a_ca(name: &str, below: u8, now: OffsetDateTime) -> CertificateParams {
    let mut params = params(name, VALID, now).expect("the CA's validity is a constant");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn sign(
    mut params: CertificateParams,
    key: &KeyPair,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<String, IdentityError> {
    params.serial_number = Some(crate::authority::new_serial());
    Ok(params.signed_by(key, issuer).map_err(IdentityError::Issue)?.pem())
}

fn issuer(certificate: &str, key: &str) -> Result<Issuer<'static, KeyPair>, IdentityError> {
    let key = KeyPair::from_pem(key).map_err(IdentityError::Ca)?;
    Issuer::from_ca_cert_pem(certificate, key).map_err(IdentityError::Ca)
}

fn valid(links: &[Link], now: OffsetDateTime) -> String {
    links.iter().filter(|link| link.until > now).map(|link| link.pem.as_str()).collect()
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn certificate<T>(
    pem: &str,
    look: impl FnOnce(&X509Certificate<'_>) -> Result<T, IdentityError>,
) -> Result<T, IdentityError> {
    let found = certificates("CA certificate", pem)?;
    let first = found.first().ok_or(IdentityError::Ca(rcgen::Error::CouldNotParseCertificate))?;
    parse(first, look)
}

fn parse<T>(
    der: &[u8],
    look: impl FnOnce(&X509Certificate<'_>) -> Result<T, IdentityError>,
) -> Result<T, IdentityError> {
    let unreadable = |_| IdentityError::Ca(rcgen::Error::CouldNotParseCertificate);
    let (_, parsed) = X509Certificate::from_der(der).map_err(unreadable)?;
    look(&parsed)
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Read { path: path.into(), source }),
    }
}

fn must_read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| IdentityError::Read { path: path.into(), source })
}
