//! The engines that the contract suites run against.

use std::any::Any;

use eventlog::Log;

use crate::{
    clock, open_small,
    serving::{ANY_PORT, Ca, Serving},
};

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

/// Through the official Rust client, over TLS.
pub(crate) fn served() -> Backend {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let log = serving.client(&ca.folder("server"));
    Backend { log, _keep: Box::new((serving, ca, dir)) }
}

macro_rules! contract {
    ($backends:tt, [$($name:ident,)*]) => { contract!(@ $backends, $($name)*); };
    (@ [$($backend:ident,)*], $($name:ident)*) => { contract!(@@ [$($backend)*] [$($name)*]); };
    (@@ [$($backend:ident)*] $names:tt) => { $(contract!(@@@ $backend $names);)* };
    (@@@ $backend:ident [$($name:ident)*]) => {
        mod $backend {
            $(
                // Of several threads, so that whoever appends may write.
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let backend = super::$backend();
                    super::$name(&backend.log).await;
                }
            )*
        }
    };
}

pub(crate) use contract;
