//! Queues runs, leases them to workers, and knows how each ended.
