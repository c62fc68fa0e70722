//! A process that serves keeps its certificate fresh and hears whom to believe, without a restart.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use identity::{Key, Live};
use ids::{Timestamp, WorkerId};
use proto::registry::v1::{
    RenewCertificateRequest, Trust, WatchTrustRequest, registry_client::RegistryClient,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use transport::{Channel, Watchlist};

/// Between two tries, when svc-registry does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest wait for the time to renew: the clock may be set, and the machine suspended.
const LOOK: Duration = Duration::from_mins(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// For services to renew over the connections that they have, when their CA is believed no more.
const RENEWAL: Duration = Duration::from_secs(3);

/// Keeps the certificate fresh and heeds svc-registry, in the background. The answer becomes true once
/// svc-registry has said whom to believe.
pub fn keep(
    background: &mut JoinSet<()>,
    renewal: Renewal,
    watchlist: Watchlist,
) -> watch::Receiver<bool> {
    let (sender, known) = watch::channel(false);
    let (registry, live) = (renewal.registry.clone(), renewal.live.clone());
    background.spawn(follow(registry, live, watchlist, sender));
    background.spawn(renewal.keep_fresh(known.clone()));
    known
}

/// Waits until svc-registry has said whom to believe.
pub async fn wait(mut known: watch::Receiver<bool>) {
    if !*known.borrow() {
        tracing::info!("waiting for svc-registry to say who is revoked");
    }
    // The sender ends with the process alone.
    known.wait_for(|known| *known).await.ok();
}

/// Follows svc-registry's word on whom to believe, for ever. `known` becomes true with its first word.
async fn follow(
    mut registry: RegistryClient<Channel>,
    live: Live,
    watchlist: Watchlist,
    known: watch::Sender<bool>,
) {
    loop {
        let why = match registry.watch_trust(WatchTrustRequest {}).await {
            Ok(trust) => {
                let mut trust = trust.into_inner();
                loop {
                    match trust.message().await {
                        Ok(Some(word)) => {
                            heed(word, &live, &watchlist);
                            watchlist.doubt_workers(false);
                            known.send_replace(true);
                        }
                        Ok(None) => break "it ended the call".to_owned(),
                        Err(status) => break status.message().to_owned(),
                    }
                }
            }
            Err(status) => status.message().to_owned(),
        };
        tracing::debug!(why, "svc-registry does not say whom to believe; asking again");
        sleep(PAUSE).await;
    }
}

fn heed(word: Trust, live: &Live, watchlist: &Watchlist) {
    if !word.ca_certificates.is_empty() {
        match live.trust(&word.ca_certificates) {
            Ok(()) => drop_old_ca(watchlist.clone()),
            Err(error) => tracing::error!(%error, "svc-registry names a CA that cannot be used"),
        }
    }
    for serial in word.revoked {
        tracing::info!(serial, "a certificate is revoked");
        watchlist.revoke(&serial);
    }
    for worker in word.dismissed {
        match worker.parse::<WorkerId>() {
            Ok(worker) => watchlist.dismiss(worker),
            Err(error) => tracing::error!(%error, "svc-registry dismisses somebody unknown"),
        }
    }
}

/// Ends the connections whose certificates lead to no root any more.
fn drop_old_ca(watchlist: Watchlist) {
    watchlist.drop_old_ca(false);
    tokio::spawn(async move {
        sleep(RENEWAL).await;
        watchlist.drop_old_ca(true);
    });
}

/// What a renewal needs.
#[derive(Debug)]
pub struct Renewal {
    pub registry: RegistryClient<Channel>,
    pub live: Live,
    /// Where the credentials are kept.
    pub place: PathBuf,
    /// They show the new certificate from then on.
    pub channels: Vec<Channel>,
}

impl Renewal {
    /// Renews at half of the certificate's life, and at once when another CA signs, for ever: whoever is shown
    /// a certificate of the old CA must still believe that. The key stays, since more is derived from it.
    /// `told` changes with each word of svc-registry.
    async fn keep_fresh(mut self, mut told: watch::Receiver<bool>) {
        // The CA for whose sake it was renewed last: once is enough.
        let mut renewed_for = String::new();
        loop {
            self.is_due(&renewed_for, &mut told).await;
            match self.renew().await {
                Ok(()) => {
                    renewed_for = self.live.credentials().ca;
                    tracing::info!("the certificate of this service is renewed");
                }
                Err(error) => {
                    tracing::warn!("cannot renew the certificate of this service: {error:#}");
                    sleep(self.pause()).await;
                }
            }
        }
    }

    async fn is_due(&self, renewed_for: &str, told: &mut watch::Receiver<bool>) {
        let jitter: [u8; 1] = identity::random();
        loop {
            let credentials = self.live.credentials();
            let Ok(validity) = credentials.validity() else { return };
            let left = validity.renew_at(jitter[0]).since(now());
            let of_old_ca = credentials.ca != renewed_for && !credentials.is_of_newest_ca();
            if left.is_zero() || of_old_ca {
                return;
            }
            tokio::select! {
                () = sleep(left.min(LOOK)) => {}
                Ok(()) = told.changed() => {}
            }
        }
    }

    /// Some tries fit into what is left.
    fn pause(&self) -> Duration {
        let left = self.live.credentials().validity().map(|validity| validity.until.since(now()));
        match left {
            Ok(left) if !left.is_zero() => (left / 20).clamp(SHORTEST_PAUSE, LOOK),
            // It is too late: nothing is gained by haste.
            _ => LOOK,
        }
    }

    async fn renew(&mut self) -> Result<()> {
        let credentials = self.live.credentials();
        let key = Key::from_pem(&credentials.key)?;
        let request = RenewCertificateRequest {
            request: key.request()?,
            host_names: credentials.host_names()?,
            ..RenewCertificateRequest::default()
        };
        let answer = self.registry.renew_certificate(request).await;
        let answer = answer.context("ask svc-registry")?.into_inner();
        let renewed = key.certified(answer.certificate, answer.ca_certificates)?;
        renewed.save(&self.place)?;
        self.live.replace(renewed)?;
        for channel in &self.channels {
            // A connection that stands is good until the old certificate expires.
            if let Err(status) = channel.reconnect().await {
                tracing::debug!(why = status.message(), "no new connection yet");
            }
        }
        Ok(())
    }
}

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::default() + since
}
