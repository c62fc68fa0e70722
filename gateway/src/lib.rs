//! The public door: REST, Worker API, bulk transfers. Holds no state.
