//! Clients, each for one open read or session at a time.
//!
//! A client's calls share one connection, and readers that do not read use up its window; so nobody
//! shares a client. One that failed is not used again.

use std::sync::{Arc, Mutex, PoisonError};

use kurrentdb::{Client, ClientSettings, Error};
use tokio::{runtime::Handle, task::spawn_blocking};

/// Clients that are kept for the next who needs one.
const IDLE: usize = 4;

pub(crate) struct Pool {
    settings: ClientSettings,
    idle: Mutex<Vec<Client>>,
}

impl Pool {
    pub(crate) fn new(settings: ClientSettings) -> Self {
        Self { settings, idle: Mutex::default() }
    }

    pub(crate) async fn lease(self: &Arc<Self>) -> kurrentdb::Result<Lease> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let client = match idle {
            Some(client) => client,
            None => self.connect().await?,
        };
        Ok(Lease { client, pool: Arc::clone(self), spoilt: false })
    }

    /// Reads certificates from files, so not on the runtime's own threads.
    async fn connect(&self) -> kurrentdb::Result<Client> {
        let (settings, runtime) = (self.settings.clone(), Handle::current());
        let made = spawn_blocking(move || Client::with_runtime_handle(runtime, settings)).await;
        let failed = |why: String| Error::InitializationError(why);
        made.map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(format!("{error:#}")))
    }
}

/// A client for one who needs one. Goes back to the pool when dropped, unless it failed.
pub(crate) struct Lease {
    client: Client,
    pool: Arc<Pool>,
    spoilt: bool,
}

impl Lease {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Nobody else shall get it.
    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// Looks whether the client itself failed.
    pub(crate) fn look<T>(&mut self, outcome: kurrentdb::Result<T>) -> kurrentdb::Result<T> {
        self.spoilt |= match &outcome {
            Ok(_) | Err(Error::ResourceNotFound | Error::ResourceDeleted) => false,
            Err(error) => !super::is_conflict(error),
        };
        outcome
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.spoilt && idle.len() < IDLE {
            idle.push(self.client.clone());
        }
    }
}
