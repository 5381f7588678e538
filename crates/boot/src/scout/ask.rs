//! Asking a peer's boot service, by plain HTTP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The longest answer: a chain of roots, a grant, an invite, a certificate.
const ANSWER: u64 = 128 * 1024;
/// How long a peer may take: it may have to ask another.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// Sends a body to a path of a peer, and returns what it answers. Blocks.
///
/// # Errors
/// When the peer cannot be reached, does not answer in time, refuses, or says too much.
pub fn ask(peer: SocketAddr, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .timeout_connect(Some(CONNECT))
        .max_redirects(0)
        .proxy(None)
        .build()
        .into();
    let answer = agent.post(format!("http://{peer}{path}")).send(body).map_err(io::Error::other)?;
    let mut answer = answer.into_body();
    answer.with_config().limit(ANSWER).read_to_vec().map_err(io::Error::other)
}

/// What somebody has said, fit for people: no control characters, and not long.
#[must_use]
pub fn text(said: &str) -> String {
    let clean = p2pinst_command::text(said.as_bytes());
    clean.chars().take(400).collect()
}
