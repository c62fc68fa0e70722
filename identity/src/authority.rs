//! The CA: makes the certificates of workers and services.
//!
//! A worker's certificate is good for clients only, so it can never pose as a server.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ids::{Timestamp, WorkerId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
    string::Ia5String,
};
use time::OffsetDateTime;

use crate::{
    Credentials, IdentityError, Issued,
    files::{read_private, write_private},
    peer::{hex, service_uri, worker_uri},
    random,
};

/// The CA. Its key never leaves this type.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    ca: String,
}

/// Clocks of workers may be behind by this much.
const CLOCK_SKEW: Duration = Duration::from_hours(2);
const CA_VALID: time::Duration = time::Duration::days(3652);

impl Authority {
    /// Opens `ca.pem`/`ca.key` (0600) in `dir`, or makes them.
    pub fn open_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let (ca_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        match (read(&ca_path)?, read_private(&key_path)?) {
            (Some(ca), Some(key)) => Self::open(ca, &String::from_utf8_lossy(&key)),
            (Some(_), None) => Err(IdentityError::HalfACa { present: ca_path, missing: key_path }),
            // A key alone is left by a crash while the CA was made; nothing was signed with it.
            (None, _) => {
                let (ca, key) = create().map_err(IdentityError::Issue)?;
                write_private(&key_path, key.as_bytes())?;
                write_private(&ca_path, ca.as_bytes())?;
                Self::open(ca, &key)
            }
        }
    }

    fn open(ca: String, key: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key).map_err(IdentityError::Ca)?;
        let issuer = Issuer::from_ca_cert_pem(&ca, key).map_err(IdentityError::Ca)?;
        Ok(Self(Arc::new(Inner { issuer, ca })))
    }

    /// The CA's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.0.ca
    }

    /// Client-only EKU; URI SAN `spiffe://gaia/worker/<id>`.
    pub fn issue_worker(&self, worker: WorkerId, valid: Duration) -> Result<Issued, IdentityError> {
        let names = vec![SanType::URI(ia5("worker id", &worker_uri(worker))?)];
        self.issue(
            new_key()?,
            &worker.to_string(),
            names,
            vec![ExtendedKeyUsagePurpose::ClientAuth],
            signed(valid)?,
        )
    }

    /// Client and server EKU; URI SAN `spiffe://gaia/service/<name>`; dNSNames: `<name>`,
    /// "localhost", and for the gateway "gaia-pipeline.io" (what Gaia's agents and ours verify);
    /// `names`: further host names or IP addresses.
    pub fn issue_service(
        &self,
        name: &str,
        names: &[String],
        valid: Duration,
    ) -> Result<Issued, IdentityError> {
        self.issue_service_for(new_key()?, name, names, valid)
    }

    fn issue_service_for(
        &self,
        key: KeyPair,
        name: &str,
        names: &[String],
        valid: Duration,
    ) -> Result<Issued, IdentityError> {
        let mut all = vec![
            SanType::URI(ia5("service name", &service_uri(name)?)?),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        let gaia = (name == "gateway").then_some("gaia-pipeline.io");
        let own = [name, "localhost"].into_iter().chain(gaia);
        for host in own.chain(names.iter().map(String::as_str)) {
            let host = host_name(host)?;
            if !all.contains(&host) {
                all.push(host);
            }
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(key, name, all, usages, signed(valid)?)
    }

    /// Like [`Authority::issue_service`], with the key that `dir` holds, and saved there. The key
    /// outlives restarts, so that what is derived from it does too: a restarted server can tell the
    /// clients of the process before it, over QUIC, that their connections are gone.
    pub fn renew_service(
        &self,
        dir: &Path,
        name: &str,
        names: &[String],
        valid: Duration,
    ) -> Result<Issued, IdentityError> {
        let known = Credentials::load(dir).ok();
        let key = match known.and_then(|known| KeyPair::from_pem(&known.key).ok()) {
            Some(key) => key,
            None => new_key()?,
        };
        let issued = self.issue_service_for(key, name, names, valid)?;
        issued.credentials.save(dir)?;
        Ok(issued)
    }

    pub(crate) fn issue(
        &self,
        key: KeyPair,
        subject: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        valid: time::Duration,
    ) -> Result<Issued, IdentityError> {
        let (mut params, serial) = params(subject, valid)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let expires_at = Timestamp(params.not_after.unix_timestamp() as u64 * 1_000);
        let certificate = params.signed_by(&key, &self.0.issuer).map_err(IdentityError::Issue)?;
        let credentials = Credentials {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            ca: self.0.ca.clone(),
        };
        Ok(Issued { credentials, serial, expires_at })
    }
}

pub(crate) fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Issue)
}

/// PEM of a new CA and of its key.
fn create() -> Result<(String, String), rcgen::Error> {
    // Two CAs must not share a name, else a verifier that knows both may try the wrong one.
    let name = format!("Gaia CA {}", hex(&random::<4>()));
    let (mut params, _) = params(&name, CA_VALID).expect("the CA's validity is a constant");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// What all certificates share, and the serial in hex.
fn params(
    subject: &str,
    valid: time::Duration,
) -> Result<(CertificateParams, String), IdentityError> {
    let mut serial: [u8; 16] = random();
    // Positive and without leading zeros, so that its hex is the same wherever it is read.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Gaia");
    params.distinguished_name.push(DnType::CommonName, subject);
    let now = now();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now.checked_add(valid).ok_or(IdentityError::TooLong)?;
    Ok((params, hex(&serial)))
}

fn signed(valid: Duration) -> Result<time::Duration, IdentityError> {
    valid.try_into().map_err(|_| IdentityError::TooLong)
}

fn host_name(text: &str) -> Result<SanType, IdentityError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    rustls_pki_types::DnsName::try_from(text).map_err(|_| IdentityError::InvalidName {
        what: "host name",
        name: text.into(),
        why: "it should be a DNS name or an IP address, without port",
    })?;
    Ok(SanType::DnsName(ia5("host name", text)?))
}

fn ia5(what: &'static str, text: &str) -> Result<Ia5String, IdentityError> {
    Ia5String::try_from(text).map_err(|_| IdentityError::InvalidName {
        what,
        name: text.into(),
        why: "it should be ASCII",
    })
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path);
    text.map(Some).map_err(|source| IdentityError::Read { path: path.into(), source })
}

fn now() -> OffsetDateTime {
    #[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
    let now = SystemTime::now();
    now.into()
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}
