//! What we publish figures from.
