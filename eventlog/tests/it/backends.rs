//! The engines that the contract suites run against.

use std::any::Any;

use eventlog::Log;
use identity::Peer;
use transport::Channel;

use crate::{clock, open_small};

/// A log, and what must live as long.
pub(crate) struct Backend {
    pub(crate) log: Log,
    _keep: Box<dyn Any>,
}

pub(crate) fn memory() -> Backend {
    Backend { log: Log::in_memory(clock()), _keep: Box::new(()) }
}

pub(crate) fn embedded() -> Backend {
    let dir = tempfile::tempdir().unwrap();
    Backend { log: Log::open(dir.path(), clock()).unwrap(), _keep: Box::new(dir) }
}

pub(crate) fn embedded_in_small_segments() -> Backend {
    let dir = tempfile::tempdir().unwrap();
    Backend { log: open_small(dir.path()), _keep: Box::new(dir) }
}

pub(crate) fn remote() -> Backend {
    let served = embedded_in_small_segments();
    let router = eventlog::server::router(served.log.clone());
    let channel = Channel::local(router, Peer::Service("svc-test".into()));
    Backend { log: Log::remote(channel), _keep: Box::new(served) }
}

macro_rules! contract {
    ($backends:tt, [$($name:ident,)*]) => { contract!(@ $backends, $($name)*); };
    (@ [$($backend:ident,)*], $($name:ident)*) => { contract!(@@ [$($backend)*] [$($name)*]); };
    (@@ [$($backend:ident)*] $names:tt) => { $(contract!(@@@ $backend $names);)* };
    (@@@ $backend:ident [$($name:ident)*]) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $name() {
                    let backend = super::$backend();
                    super::$name(&backend.log).await;
                }
            )*
        }
    };
}

pub(crate) use contract;
