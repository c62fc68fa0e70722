//! The TLS identities of a run: one for the agent, one for the pipeline, from a CA made for the run.
//!
//! The CA's key is gone as soon as both are made. A CA for several runs would let a pipeline pose
//! as the agent to another one on the same machine; with P-256 a fresh one costs next to nothing.
//! All three end after two days.
//!
//! What the SDKs' TLS stacks need, as observed: subject, subject key id and authority key id that
//! differ from the CA's (OpenSSL 3 takes the leaf for self-signed otherwise); the name `unused`,
//! which go-plugin dials; a PKCS#8 key (Java); P-256 (grpcio cannot use Ed25519).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// The name that go-plugin dials, so every pipeline's certificate must hold it.
pub(super) const SERVER_NAME: &str = "unused";
const LIFE: Duration = Duration::hours(48);
/// For clocks that were set back since.
const LEEWAY: Duration = Duration::hours(1);

/// Where a run's three PEM files are, as the pipeline is told.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("make the certificates of the pipeline connection")]
    Make(#[from] rcgen::Error),
    #[error("use the certificates of the pipeline connection")]
    Use(#[from] rustls::Error),
    #[error("write the certificates of the pipeline connection to {path}")]
    Write { path: String, source: io::Error },
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// Makes both identities of a run. The pipeline's is written into `folder`; the agent's comes back
/// as the configuration to dial with.
pub(super) fn issue(folder: &Path) -> Result<(Files, Arc<ClientConfig>), CertificateError> {
    let authority = make_authority()?;
    let (pipeline_cert, pipeline_key) = leaf(&authority, "pipeline")?;
    let files = Files {
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
        ca: folder.join("caCert.pem"),
    };
    write(&files.cert, &pipeline_cert.pem())?;
    write(&files.key, &pipeline_key.serialize_pem())?;
    write(&files.ca, &authority.pem)?;
    Ok((files, Arc::new(client(&authority)?)))
}

fn make_authority() -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "gaia-pipeline");
    params.distinguished_name.push(DnType::CommonName, "Gaia agent pipeline CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - LEEWAY;
    params.not_after = now + LIFE;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let (pem, der) = (certificate.pem(), certificate.der().clone());
    Ok(Authority { issuer: Issuer::new(params, key), pem, der })
}

fn leaf(authority: &Authority, role: &str) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
    let names = vec![SERVER_NAME.to_owned(), "gaia-pipeline.io".to_owned()];
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::OrganizationName, "gaia-pipeline");
    params.distinguished_name.push(DnType::CommonName, format!("Gaia {role}"));
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - LEEWAY;
    params.not_after = now + LIFE;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &authority.issuer)?, key))
}

fn client(authority: &Authority) -> Result<ClientConfig, CertificateError> {
    let (cert, key) = leaf(authority, "agent")?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Readable by the agent's user alone, from its first byte on.
fn write(path: &Path, pem: &str) -> Result<(), CertificateError> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(pem.as_bytes()))
        .map_err(|source| CertificateError::Write { path: path.display().to_string(), source })
}
