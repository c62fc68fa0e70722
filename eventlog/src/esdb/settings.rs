//! The connection string, `esdb://[user:password@]host[:port][,host…]?…`, and what we add to it.
//!
//! It may hold a password, so no message shows it.

use std::{fmt::Write as _, path::Path};

use kurrentdb::ClientSettings;

use crate::log::LogError;

const SCHEMES: [&str; 8] = [
    "esdb",
    "esdb+discover",
    "kurrentdb",
    "kurrentdb+discover",
    "kurrent",
    "kurrent+discover",
    "kdb",
    "kdb+discover",
];

/// Where neither certificate nor CA is named, those of the identity are used.
pub(super) fn parse(url: &str, identity: Option<&Path>) -> Result<ClientSettings, LogError> {
    let invalid = |why: &str| LogError::Invalid(format!("{why} (`{}`)", redacted(url)));
    let (scheme, rest) = url.split_once("://").ok_or_else(|| {
        invalid("a log's address is esdb://host:port?options, of one server or of a cluster")
    })?;
    if !SCHEMES.contains(&scheme) {
        return Err(invalid("a log's address begins with esdb://"));
    }
    let options = rest.split_once('?').map_or("", |(_, options)| options).to_lowercase();
    let names = |name: &str| options.split('&').any(|option| option.starts_with(name));
    let mut added = String::new();
    // The client waits for this long before each of its first calls; we wait by ourselves.
    if !names("discoveryinterval=") {
        added.push_str("&discoveryInterval=1");
    }
    // Whoever names a user means another CA than ours, too.
    let is_user = rest.split('?').next().is_some_and(|hosts| hosts.contains('@'));
    if let Some(folder) = identity.filter(|_| !is_user && !names("tls=false")) {
        let mut add = |option: &str, file: &str| {
            let path = encoded(&folder.join(file));
            write!(added, "&{option}={path}").expect("a String takes everything");
        };
        if !names("tlscafile=") {
            add("tlsCaFile", "caCert.pem");
        }
        if !names("usercertfile=") && !names("userkeyfile=") {
            add("userCertFile", "cert.pem");
            add("userKeyFile", "key.pem");
        }
    }
    let joined =
        if url.contains('?') { format!("{url}{added}") } else { format!("{url}?{}", &added[1..]) };
    // Its error would show the password.
    let settings: ClientSettings =
        joined.parse().map_err(|_| invalid("this address cannot be understood"))?;
    readable(&settings)?;
    Ok(settings)
}

/// The client panics on files that are not what they should be.
fn readable(settings: &ClientSettings) -> Result<(), LogError> {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let certificates = |path: &String| {
        let read: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        match read {
            Ok(read) if read.is_empty() => Err("it holds no certificate".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    };
    let named = |path: &String, checked: Result<(), String>| {
        checked.map_err(|why| LogError::Invalid(format!("read `{path}` for the log: {why}")))
    };
    if let Some(ca) = settings.tls_ca_file() {
        named(ca, certificates(ca))?;
    }
    if let Some((certificate, key)) = settings.user_certificate() {
        named(certificate, certificates(certificate))?;
        let sound = PrivateKeyDer::from_pem_file(key).map(drop).map_err(|e| e.to_string());
        named(key, sound)?;
    }
    Ok(())
}

fn encoded(path: &Path) -> String {
    path.to_string_lossy().bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes everything");
        }
        text
    })
}

/// Without user and password.
fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{}", host.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_is_named_without_its_password() {
        for url in ["https://ada:secret@host:1", "esdb://ada:secret@", "esdb://ada:secret@h:x", ""]
        {
            let error = parse(url, None).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains("address"), "{error}");
        }
    }

    #[test]
    fn an_identity_is_used_where_the_address_names_none() {
        let folder = Path::new("/no such folder");
        let error = parse("esdb://host:1?nodePreference=leader", Some(folder)).unwrap_err();
        assert!(error.to_string().contains("`/no such folder/caCert.pem`"), "{error}");
        parse("esdb://host:1?tls=false", Some(folder)).unwrap();
        let own = "esdb://host:1?tlsCaFile=/a&userCertFile=/b&userKeyFile=/c";
        let error = parse(own, Some(folder)).unwrap_err();
        assert!(error.to_string().contains("`/a`"), "{error}");
    }
}
