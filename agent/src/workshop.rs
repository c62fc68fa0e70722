//! What all attempts of an agent share.

use std::sync::Arc;

use crate::{cache::Cache, config::Config, flights::Flights, home::Home, kept::Kept};

#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) config: Config,
    pub(crate) home: Home,
    pub(crate) cache: Arc<Cache>,
    /// One preparation at a time for each binary.
    pub(crate) preparing: Flights,
    /// What was prepared, and what builds keep.
    pub(crate) kept: Arc<Kept>,
}

impl Workshop {
    pub(crate) fn new(config: Config, home: Home) -> Arc<Self> {
        let cache = Cache::new(home.cache(), config.cache_limit);
        let kept = Kept::new(vec![home.prepared(), home.targets()], config.cache_limit);
        Arc::new(Self { config, home, cache, preparing: Flights::default(), kept })
    }
}
