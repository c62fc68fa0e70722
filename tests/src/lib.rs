//! The cluster harness, and the system stories.
