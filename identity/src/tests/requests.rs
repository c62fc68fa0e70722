//! Requests for certificates, good and hostile.

use rcgen::{
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};

use super::*;

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn refused(pem: &str) -> String {
    Request::parse(pem).unwrap_err().to_string()
}

#[test]
fn a_key_that_stays_gets_a_certificate() {
    let (_dir, authority) = authority();
    let key = Key::generate().unwrap();
    let request = Request::parse(&key.request().unwrap()).unwrap();
    let signed = authority.sign_worker(&request, WORKER, HOUR).unwrap();
    let credentials = key.certified(signed.certificate.clone(), signed.ca.clone()).unwrap();
    let client = client_tls(&credentials).unwrap();
    assert_eq!(handshake(client, gateway(&authority), "gateway"), Ok(Peer::Worker(WORKER)));
    assert!(!credentials.certificate.contains("PRIVATE"));

    let other = Key::generate().unwrap();
    assert!(matches!(other.certified(signed.certificate, signed.ca), Err(IdentityError::OtherKey)));
    let same = Key::from_pem(&key.to_pem()).unwrap().request().unwrap();
    assert_eq!(Request::parse(&same).unwrap().key_digest(), request.key_digest());
    let another = Request::parse(&other.request().unwrap()).unwrap();
    assert_ne!(another.key_digest(), request.key_digest());
}

#[test]
fn a_request_for_more_than_its_key_is_refused() {
    let key = new_key().unwrap();
    let name = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let uri = SanType::URI("spiffe://gaia/service/gateway".try_into().unwrap());
    for pem in [
        request(&key, |params| params.subject_alt_names.push(name("gaia-pipeline.io"))),
        request(&key, |params| params.subject_alt_names.push(uri)),
        request(&key, |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        request(&key, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    ] {
        let why = refused(&pem);
        assert!(why.contains("ask for the key alone"), "{why}");
    }
    let named = request(&key, |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "../../etc\u{0}\u{1b}[31m");
    });
    // Whom it says to be does not count.
    let (_dir, authority) = authority();
    let signed = authority.sign_worker(&Request::parse(&named).unwrap(), WORKER, HOUR).unwrap();
    let der = crate::credentials::certificates("", &signed.certificate).unwrap();
    assert_eq!(peer_of(&der[0]).unwrap().0, Peer::Worker(WORKER));
    let (_, parsed) = X509Certificate::from_der(&der[0]).unwrap();
    assert_eq!(parsed.subject().to_string(), format!("O=Gaia, CN={WORKER}"));
    assert!(!parsed.is_ca());
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let kinds = [
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyPair::generate_for(&PKCS_ED25519),
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
    ];
    for key in kinds {
        let why = refused(&request(&key.unwrap(), |_| {}));
        assert!(why.contains("P-256"), "{why}");
    }
    // Made by `openssl req -new -newkey rsa:1024`.
    let why = refused(include_str!("rsa-1024.csr"));
    assert!(why.contains("P-256"), "{why}");
    // Made by `openssl req -new -addext basicConstraints=critical,CA:TRUE`.
    let why = refused(include_str!("ca-true.csr"));
    assert!(why.contains("ask for the key alone"), "{why}");
}

#[test]
fn what_is_damaged_is_refused_whole() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let pem = |der: &[u8]| {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let text = BASE64_STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let whole = Request::parse(&pem(&der)).unwrap();
    // The flip of any byte, and the loss of any end. The few bits that are not signed mean nothing.
    for at in 0..der.len() {
        let mut flipped = der.clone();
        flipped[at] ^= 1;
        if let Ok(same) = Request::parse(&pem(&flipped)) {
            assert_eq!(same.key_digest(), whole.key_digest(), "byte {at}");
        }
        refused(&pem(&der[..at]));
    }
    refused(&pem(&[&der[..], b"x"].concat()));
    for text in ["", "no PEM", "-----BEGIN CERTIFICATE REQUEST-----", &"A".repeat(1 << 20)] {
        refused(text);
    }
    let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
    refused(&certificate);
    refused(&key.serialize_pem());
}
