//! The Worker API of the server that this agent joined.
//!
//! Control and logs share one connection, binaries have another, so that a big download delays
//! neither an order nor a log line.

use std::sync::Arc;

use identity::{Credentials, Live};
use proto::worker::{PipelineRun, WorkerInstance, worker_client::WorkerClient};
use tokio::sync::{Mutex, MutexGuard};
use tonic::{Code, Request, Status, Streaming, metadata::AsciiMetadataValue};
use transport::Channel;

use crate::{AgentError, config::Config, home::Identity};

/// The name in the gateway's certificate, as Gaia's agents verify it.
pub(crate) const SERVER_NAME: &str = "gaia-pipeline.io";
/// What Gaia answers to a certificate or id that it does not know.
const NOT_REGISTERED: &str = "worker is not registered";
/// An order carries arguments, which may be long.
const LARGEST_ORDER: usize = 16 << 20;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Primary {
    worker: AsciiMetadataValue,
    control: Channel,
    bulk: Channel,
    live: Live,
    renewing: Arc<Mutex<()>>,
}

impl Primary {
    pub(crate) fn new(config: &Config, identity: &Identity) -> Result<Self, AgentError> {
        let live = Live::new(identity.credentials.clone())?;
        let channel = || {
            let tls = identity::live_client_tls(&live)?;
            let protocols = config.protocols.into();
            Ok::<_, AgentError>(Channel::remote(&config.server, SERVER_NAME, tls, protocols)?)
        };
        let worker = AsciiMetadataValue::try_from(identity.worker.as_str())
            .map_err(|_| AgentError::BadIdentity { worker: identity.worker.clone() })?;
        let (control, bulk) = (channel()?, channel()?);
        Ok(Self { worker, control, bulk, live, renewing: Arc::default() })
    }

    pub(crate) fn credentials(&self) -> Credentials {
        self.live.credentials()
    }

    /// Held while a certificate is asked for and put into its files.
    pub(crate) async fn renewing(&self) -> MutexGuard<'_, ()> {
        self.renewing.lock().await
    }

    /// Shows this certificate from now on; calls that run keep the connection that they have.
    pub(crate) async fn show(&self, credentials: Credentials) -> Result<(), AgentError> {
        self.live.replace(credentials)?;
        for channel in [&self.control, &self.bulk] {
            // The connection that stands is good until the old certificate expires.
            if let Err(status) = channel.reconnect().await {
                tracing::debug!(why = status.message(), "no new connection yet");
            }
        }
        Ok(())
    }

    /// For logs.
    pub(crate) fn control(&self) -> &Channel {
        &self.control
    }

    /// For binaries.
    pub(crate) fn bulk(&self) -> &Channel {
        &self.bulk
    }

    pub(crate) fn worker(&self) -> &str {
        self.worker.to_str().unwrap_or_default()
    }

    pub(crate) async fn get_work(
        &self,
        instance: WorkerInstance,
    ) -> Result<Streaming<PipelineRun>, Status> {
        Ok(self.client().get_work(self.request(instance)).await?.into_inner())
    }

    pub(crate) async fn update_work(&self, run: PipelineRun) -> Result<(), Status> {
        self.client().update_work(self.request(run)).await?;
        Ok(())
    }

    fn client(&self) -> WorkerClient<Channel> {
        WorkerClient::new(self.control.clone()).max_decoding_message_size(LARGEST_ORDER)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("uniqueid", self.worker.clone());
        request
    }
}

/// Why an identity is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    NotRegistered,
    Revoked,
    /// The agent was away for too long.
    Expired,
    /// The server's certificate leads to no root that the agent knows.
    UnknownCa,
}

/// Whether the server says that it is.
pub(crate) fn ended(status: &Status) -> Option<Ended> {
    let says = |alert| status.code() == Code::Unauthenticated && status.message().contains(alert);
    if status.message() == NOT_REGISTERED {
        Some(Ended::NotRegistered)
    } else if says("CertificateRevoked") {
        Some(Ended::Revoked)
    } else if says("CertificateExpired") {
        Some(Ended::Expired)
    } else if status.message().contains("UnknownIssuer") {
        Some(Ended::UnknownCa)
    } else {
        None
    }
}
