//! The CA: makes the certificates of workers and services.
//!
//! A worker's certificate is good for clients only, so it can never pose as a server.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ids::{Digest, Timestamp, WorkerId};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    string::Ia5String,
};
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

use crate::{
    Credentials, IdentityError, Issued, Peer, Request, Signed,
    ca::Ca,
    credentials::certificates,
    peer::{GAIA, hex, service_uri, worker_uri},
    peer_of, random,
    tls::{client_verifier, roots},
    validity_of,
};

/// The CA. Its key never leaves this type.
#[derive(Clone)]
pub struct Authority {
    dir: PathBuf,
    /// Replaced as a whole when the CA rolls over; all clones have the same.
    ca: Arc<RwLock<Arc<Ca>>>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

/// Clocks of others may be behind by this much.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_hours(2);

impl Authority {
    /// Opens the CA in `dir` (keys with mode 0600), or makes one.
    pub fn open_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let clock = Arc::new(machine_clock);
        let ca = Arc::new(RwLock::new(Arc::new(Ca::open_or_create(dir, moment(clock()))?)));
        Ok(Self { dir: dir.into(), ca, clock })
    }

    /// Dates certificates by this clock, instead of the machine's.
    #[must_use]
    pub fn dated_by(self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    fn now(&self) -> OffsetDateTime {
        moment((self.clock)())
    }

    /// A new root and intermediate sign from now on. For the overlap, whoever trusts the old root
    /// alone believes the new certificates, and the old certificates are still believed.
    pub fn roll_over(&self, overlap: Duration) -> Result<(), IdentityError> {
        let next = Arc::new(self.ca().succeed(&self.dir, overlap, self.now())?);
        *self.ca.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    fn ca(&self) -> Arc<Ca> {
        Arc::clone(&self.ca.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The certificates of the CA's roots, PEM, the newest first.
    pub fn ca_pem(&self) -> String {
        self.ca().roots(self.now())
    }

    /// The sha256 of the current root's certificate, which join tokens carry.
    pub fn fingerprint(&self) -> Digest {
        let root = certificates("CA certificate", self.ca().root());
        Digest::of(&root.expect("it was read before")[0])
    }

    /// Client-only EKU; URI SAN `spiffe://gaia/worker/<id>`; the key is made here, Gaia's way.
    pub fn issue_worker(&self, worker: WorkerId, valid: Duration) -> Result<Issued, IdentityError> {
        let key = new_key()?;
        Ok(self.worker(&key, worker, valid)?.with(&key))
    }

    /// The same for a key that its owner keeps.
    pub fn sign_worker(
        &self,
        request: &Request,
        worker: WorkerId,
        valid: Duration,
    ) -> Result<Signed, IdentityError> {
        self.worker(request, worker, valid)
    }

    fn worker(
        &self,
        key: &impl PublicKeyData,
        worker: WorkerId,
        valid: Duration,
    ) -> Result<Signed, IdentityError> {
        let names = vec![SanType::URI(ia5("worker id", &worker_uri(worker))?)];
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(key, &worker.to_string(), names, usages, signed(valid)?)
    }

    /// The worker that a certificate of this CA names (PEM, with what leads to the CA behind it), and its
    /// serial in hex, whatever its dates. The request must be for its key: whoever shows both has it.
    pub fn recognize(
        &self,
        certificate: &str,
        request: &Request,
    ) -> Result<(WorkerId, String), IdentityError> {
        let refuse = |why: &str| IdentityError::NotAPeer(why.into());
        let chain = certificates("certificate", certificate)?;
        let (first, behind) = chain.split_first().ok_or_else(|| refuse("there is none"))?;
        let clients = client_verifier(roots(&self.ca_pem())?.into())?;
        // It was good at its beginning, if ever.
        let begun = Duration::from_millis(validity_of(first)?.from.0);
        clients
            .verify_client_cert(first, behind, UnixTime::since_unix_epoch(begun))
            .map_err(|_| refuse("it is none of this server's CA"))?;
        if !request.is_for(first) {
            return Err(refuse("the request is for another key than the certificate's"));
        }
        match peer_of(first)? {
            (Peer::Worker(worker), serial) => Ok((worker, serial)),
            _ => Err(refuse("it is no worker's")),
        }
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
        let key = new_key()?;
        Ok(self.service(&key, name, names, valid)?.with(&key))
    }

    /// The same for a key that its owner keeps.
    pub fn sign_service(
        &self,
        request: &Request,
        name: &str,
        names: &[String],
        valid: Duration,
    ) -> Result<Signed, IdentityError> {
        self.service(request, name, names, valid)
    }

    fn service(
        &self,
        key: &impl PublicKeyData,
        name: &str,
        names: &[String],
        valid: Duration,
    ) -> Result<Signed, IdentityError> {
        let mut all = vec![
            SanType::URI(ia5("service name", &service_uri(name)?)?),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        let gaia = (name == "gateway").then_some(GAIA);
        let own = [name, "localhost"].into_iter().chain(gaia);
        for host in own.chain(names.iter().map(String::as_str)) {
            let host = host_name(host)?;
            if !all.contains(&host) {
                all.push(host);
            }
        }
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(key, name, all, usages, signed(valid)?)
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
        let issued = self.service(&key, name, names, valid)?.with(&key);
        issued.credentials.save(dir)?;
        Ok(issued)
    }

    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        subject: &str,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        valid: time::Duration,
    ) -> Result<Signed, IdentityError> {
        let now = self.now();
        let mut params = params(subject, valid, now)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.clone().expect("every certificate gets one");
        let expires_at = Timestamp(params.not_after.unix_timestamp() as u64 * 1_000);
        let ca = self.ca();
        let certificate = params.signed_by(key, &ca.issuer).map_err(IdentityError::Issue)?;
        Ok(Signed {
            certificate: certificate.pem() + &ca.links(now),
            ca: ca.roots(now),
            serial: hex(&serial.to_bytes()),
            expires_at,
        })
    }
}

impl Signed {
    fn with(self, key: &KeyPair) -> Issued {
        let Self { certificate, ca, serial, expires_at } = self;
        let credentials = Credentials { certificate, key: key.serialize_pem(), ca };
        Issued { credentials, serial, expires_at }
    }
}

pub(crate) fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Issue)
}

pub(crate) fn new_serial() -> SerialNumber {
    let mut serial: [u8; 16] = random();
    // Positive and without leading zeros, so that its hex is the same wherever it is read.
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&serial)
}

/// What all certificates share.
pub(crate) fn params(
    subject: &str,
    valid: time::Duration,
    now: OffsetDateTime,
) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(new_serial());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Gaia");
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now.checked_add(valid).ok_or(IdentityError::TooLong)?;
    Ok(params)
}

pub(crate) fn signed(valid: Duration) -> Result<time::Duration, IdentityError> {
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

fn machine_clock() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
    let now = SystemTime::now();
    Timestamp::default() + now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn moment(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_millis(at.0)
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}
