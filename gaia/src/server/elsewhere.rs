//! A log that is kept elsewhere, and the certificate that we show there.
//!
//! The client reads the files anew for each connection, so it is enough to renew them in time.

use std::{path::Path, time::Duration};

use anyhow::Result;
use eventlog::{Clock, Log};
use identity::{Authority, Credentials};
use tokio::time::sleep;

/// We own all streams there.
const NAME: &str = "server";
/// The longest wait for the time to renew: the clock may be set, and the machine suspended.
const LOOK: Duration = Duration::from_mins(1);

/// The log at this address; `place` is a folder for the certificate.
pub(super) fn open(url: &str, place: &Path, authority: &Authority, valid: Duration) -> Result<Log> {
    authority.renew_service(place, NAME, &[], valid)?;
    Ok(Log::esdb(url, Some(place))?)
}

/// Renews the certificate at half of its life, for ever.
pub(super) async fn keep_fresh(place: &Path, authority: &Authority, valid: Duration) {
    loop {
        let wait = match renew_if_due(place, authority, valid) {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!("cannot renew the certificate for the log: {error:#}");
                LOOK
            }
        };
        sleep(wait.min(LOOK)).await;
    }
}

/// Answers how long the certificate needs no other.
fn renew_if_due(place: &Path, authority: &Authority, valid: Duration) -> Result<Duration> {
    let left = || -> Result<Duration> {
        let [jitter] = identity::random();
        let due = Credentials::load(place)?.validity()?.renew_at(jitter);
        Ok(due.since(Clock::system().now()))
    };
    match left() {
        Ok(left) if !left.is_zero() => Ok(left),
        _ => {
            authority.renew_service(place, NAME, &[], valid)?;
            left()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_certificate_is_renewed_before_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        identity::install_crypto();
        let authority = Authority::open_or_create(&dir.path().join("ca")).unwrap();
        let (place, valid) = (dir.path().join("server"), Duration::from_secs(4));
        let first = authority.renew_service(&place, NAME, &[], valid).unwrap().credentials;
        assert!(!renew_if_due(&place, &authority, Duration::from_hours(1)).unwrap().is_zero());
        assert_eq!(Credentials::load(&place).unwrap().certificate, first.certificate);
        let renewed = async {
            loop {
                let now = Credentials::load(&place).unwrap();
                if now.certificate != first.certificate {
                    return now;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let renewed = tokio::select! {
            renewed = renewed => renewed,
            () = keep_fresh(&place, &authority, valid) => unreachable!("it never ends"),
            () = sleep(Duration::from_mins(1)) => panic!("it was not renewed"),
        };
        assert_eq!(renewed.key, first.key);
        assert_eq!(renewed.peer().unwrap(), identity::Peer::Service(NAME.into()));
    }
}
