//! Who is at the other end, as a certificate names it.
//!
//! A peer is named by exactly one URI, `spiffe://gaia/worker/<id>` or `spiffe://gaia/service/<name>`.
//! Subjects and host names never decide who somebody is. A name has one spelling only, so that
//! comparing names is comparing peers.

use std::{fmt, net::IpAddr};

use ids::WorkerId;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::IdentityError;

/// Who is at the other end of a connection, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// No client certificate was shown: browsers, REST clients, agents before they joined.
    Anonymous,
    Worker(WorkerId),
    /// A service of the house: "gateway", "svc-registry", …
    Service(String),
}

const WORKER: &str = "spiffe://gaia/worker/";
const SERVICE: &str = "spiffe://gaia/service/";
/// The name by which Gaia's agents know their server.
pub(crate) const GAIA: &str = "gaia-pipeline.io";

/// The peer that a verified certificate (DER) names, and its serial in hex.
///
/// Verifying the signature, the dates and the usage is the work of the TLS handshake.
pub fn peer_of(certificate: &[u8]) -> Result<(Peer, String), IdentityError> {
    let not_a_peer = |error: &dyn fmt::Display| IdentityError::NotAPeer(error.to_string());
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| not_a_peer(&error))?;
    if !rest.is_empty() {
        return Err(not_a_peer(&"bytes follow the certificate"));
    }
    let names = parsed.subject_alternative_name().map_err(|error| not_a_peer(&error))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else {
        return Err(not_a_peer(&format!("it holds {} URIs instead of one", uris.len())));
    };
    let peer = parse(uri).ok_or_else(|| not_a_peer(&format!("`{}`", uri.escape_debug())))?;
    Ok((peer, hex(parsed.raw_serial())))
}

/// The host names and addresses of a service's certificate (DER), without those that every certificate
/// of this service holds.
pub(crate) fn host_names(certificate: &[u8], service: &str) -> Result<Vec<String>, IdentityError> {
    let not_a_peer = |error: &dyn fmt::Display| IdentityError::NotAPeer(error.to_string());
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| not_a_peer(&error))?;
    let names = parsed.subject_alternative_name().map_err(|error| not_a_peer(&error))?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let texts = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    });
    let own = [service, "localhost", GAIA, "127.0.0.1", "::1"];
    Ok(texts.filter(|text| !own.contains(&text.as_str())).collect())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

pub(crate) fn worker_uri(worker: WorkerId) -> String {
    format!("{WORKER}{worker}")
}

pub(crate) fn service_uri(name: &str) -> Result<String, IdentityError> {
    if !is_service_name(name) {
        return Err(IdentityError::InvalidName {
            what: "service name",
            name: name.into(),
            why: "it has 1 to 63 of a–z, 0–9 and `-`",
        });
    }
    Ok(format!("{SERVICE}{name}"))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn parse(uri: &str) -> Option<Peer> {
    if let Some(text) = uri.strip_prefix(WORKER) {
        let worker: WorkerId = text.parse().ok()?;
        return (worker.to_string() == text).then_some(Peer::Worker(worker));
    }
    let name = uri.strip_prefix(SERVICE)?;
    is_service_name(name).then(|| Peer::Service(name.into()))
}

fn is_service_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_spelling_of_a_name_is_a_peer() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let worker = id.parse().unwrap();
        assert_eq!(parse(&worker_uri(worker)), Some(Peer::Worker(worker)));
        assert_eq!(
            parse(&service_uri("svc-registry").unwrap()),
            Some(Peer::Service("svc-registry".into()))
        );
        for foreign in [
            format!("spiffe://gaia/worker/{}", id.to_uppercase()),
            format!("spiffe://gaia/worker/{}", id.replace('-', "")),
            format!("spiffe://gaia/worker/{id}/"),
            format!("spiffe://other/worker/{id}"),
            "spiffe://gaia/service/".into(),
            "spiffe://gaia/service/Gateway".into(),
            "spiffe://gaia/service/gateway/x".into(),
            "https://gaia/service/gateway".into(),
            String::new(),
        ] {
            assert_eq!(parse(&foreign), None, "{foreign}");
        }
    }
}
