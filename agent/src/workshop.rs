//! What all attempts of an agent share.

use std::sync::Arc;

use crate::{cache::Cache, config::Config, flights::Flights, home::Home};

#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) config: Config,
    pub(crate) home: Home,
    pub(crate) cache: Arc<Cache>,
    /// One preparation at a time for each binary.
    pub(crate) preparing: Flights,
}

impl Workshop {
    pub(crate) fn new(config: Config, home: Home) -> Arc<Self> {
        let cache = Cache::new(home.cache(), config.cache_limit);
        Arc::new(Self { config, home, cache, preparing: Flights::default() })
    }
}
