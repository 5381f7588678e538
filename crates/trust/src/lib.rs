//! Keys, certificates, capability chains, join tokens: verifies, does no I/O.
