//! Stores and streams blobs by sha256.
