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
    let user = rest.split('?').next().and_then(|rest| rest.rsplit_once('@')).map(|(user, _)| user);
    if let Some(folder) = identity.filter(|_| user.is_none() && !names("tls=false")) {
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
    if user.is_none_or(|user| user.bytes().all(|byte| is_plain(byte) || byte == b':')) {
        return Ok(settings);
    }
    decoded(&settings).ok_or_else(|| invalid("this user or password cannot be understood"))
}

/// The client sends user and password as they stand in the address, where a space, say, is `%20`. They
/// are reached through the stored form of its settings only.
fn decoded(settings: &ClientSettings) -> Option<ClientSettings> {
    let mut stored = toml::Table::try_from(settings).ok()?;
    let user = stored.get_mut("default_user_name")?.as_table_mut()?;
    for (_, part) in user.iter_mut() {
        let bytes = part.as_array()?.iter().map(|byte| u8::try_from(byte.as_integer()?).ok());
        let text = percent_decoded(&bytes.collect::<Option<Vec<_>>>()?)?;
        *part = toml::Value::String(text);
    }
    stored.try_into().ok()
}

fn percent_decoded(text: &[u8]) -> Option<String> {
    let (mut decoded, mut rest) = (Vec::new(), text);
    while let [first, after @ ..] = rest {
        let is_hex = |hex: &&[u8]| *first == b'%' && hex.iter().all(u8::is_ascii_hexdigit);
        let hex = after.get(..2).filter(is_hex);
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(decoded).ok()
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
        if is_plain(byte) || byte == b'/' {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes everything");
        }
        text
    })
}

/// Stands for itself in every address.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-~".contains(&byte)
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
    fn a_user_is_who_the_address_names_in_its_encoding() {
        let user = |user: &str| {
            let settings = parse(&format!("esdb://{user}@host:1?keepAliveInterval=5000"), None);
            settings.unwrap().default_authenticated_user().clone().unwrap()
        };
        let expected = |name: &str, password: &str| {
            kurrentdb::Credentials::new(name.to_owned(), password.to_owned())
        };
        assert_eq!(user("ada:secret"), expected("ada", "secret"));
        assert_eq!(user("ada%20l:a%40b%3Ac%25d%C3%A4"), expected("ada l", "a@b:c%dä"));
        assert_eq!(user("ada:a b"), expected("ada", "a b"));
        assert_eq!(user("ada:100%"), expected("ada", "100%"));
        assert_eq!(user("ada:%+a"), expected("ada", "%+a"));
        assert!(parse("esdb://ada:%FF@host:1", None).is_err(), "no text");
        let same =
            |user| parse(&format!("esdb+discover://{user}:c@host:1?tls=false"), None).unwrap();
        assert_eq!(same("%61"), same("a"), "all the rest stays");
    }

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
