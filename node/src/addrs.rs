//! Where a node can be reached, from where it listens.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::net::socket_addr;

/// The address that this machine uses towards another; nothing is sent to find out.
fn source_towards(peer: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// A documentation address (RFC 5737): stands for "somewhere else" to find the default route.
const ELSEWHERE: ([u8; 4], u16) = ([192, 0, 2, 1], 9);

/// The multiaddresses to tell others: what the node listens on, wildcards replaced by the address
/// that is used towards `peer` (or the default route when there is none yet).
#[must_use]
pub fn reachable(listen: &[String], peer: Option<&str>) -> Vec<String> {
    let towards = peer.and_then(socket_addr).unwrap_or_else(|| ELSEWHERE.into());
    let mut out: Vec<String> = Vec::new();
    for text in listen {
        let Some(addr) = socket_addr(text) else { continue };
        let told = if addr.ip().is_unspecified() {
            let Some(ip) = source_towards(towards) else { continue };
            let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
            format!("/{family}/{ip}/tcp/{}", addr.port())
        } else {
            text.clone()
        };
        if !out.contains(&told) {
            out.push(told);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_become_the_address_that_is_used() {
        let listen = ["/ip4/0.0.0.0/tcp/4001".to_owned(), "/ip4/10.1.2.3/tcp/5".to_owned()];
        let told = reachable(&listen, Some("/ip4/127.0.0.1/tcp/4001"));
        assert_eq!(told, ["/ip4/127.0.0.1/tcp/4001", "/ip4/10.1.2.3/tcp/5"]);
    }
}
