//! Blobs and pieces on disk; the exchange scheduler.
