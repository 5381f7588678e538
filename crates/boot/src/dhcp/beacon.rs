//! Beacons: how the nodes of a segment, and a scout, hear of each other.
//!
//! A datagram of fixed length to everybody on the segment. Nobody signs it: it says where to look, and what it says is used for
//! the order of answers alone, where a lie costs a moment. Who is reached through one proves itself in the handshake.

use std::net::Ipv4Addr;

use p2pinst_types::{Mac, NodeId, PublicKey};

/// What every beacon begins with, and its version.
const MAGIC: [u8; 5] = *b"p2pB\x01";
/// The bytes of a [`Kind::Hello`].
const HELLO: usize = 50;
/// The bytes of a [`Kind::Claim`].
const CLAIM: usize = HELLO + 14;

/// What a beacon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The node is here and answers machines.
    Hello,
    /// The node has offered to boot a machine, or to give it an address.
    Claim {
        /// The machine.
        mac: Mac,
        /// The machine's number of its transaction.
        xid: u32,
        /// The address that it was offered; none by a proxy.
        address: Option<Ipv4Addr>,
    },
}

/// A node says that it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// The first eight bytes of the id of the node's cluster.
    pub cluster: [u8; 8],
    /// The node.
    pub node: NodeId,
    /// The TCP port on which it is reached by others of its cluster.
    pub node_port: u16,
    /// The TCP port of its boot service's HTTP server.
    pub http_port: u16,
    /// What it says.
    pub kind: Kind,
}

impl Beacon {
    /// Reads a beacon; none where the bytes are something else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.strip_prefix(&MAGIC)?.split_first()?;
        let (cluster, rest) = rest.split_first_chunk()?;
        let (node, rest) = rest.split_first_chunk()?;
        let (node_port, rest) = rest.split_first_chunk()?;
        let (http_port, rest) = rest.split_first_chunk()?;
        let kind = match (kind, rest.len()) {
            (0, 0) => Kind::Hello,
            (1, _) => {
                let (mac, rest) = rest.split_first_chunk()?;
                let (xid, rest) = rest.split_first_chunk()?;
                let address = Ipv4Addr::from(<[u8; 4]>::try_from(rest).ok()?);
                Kind::Claim {
                    mac: Mac(*mac),
                    xid: u32::from_be_bytes(*xid),
                    address: Some(address).filter(|a| !a.is_unspecified()),
                }
            }
            _ => return None,
        };
        Some(Self {
            cluster: *cluster,
            node: NodeId(PublicKey(*node)),
            node_port: u16::from_be_bytes(*node_port),
            http_port: u16::from_be_bytes(*http_port),
            kind,
        })
    }

    /// The beacon's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CLAIM);
        out.extend(MAGIC);
        out.push(u8::from(self.kind != Kind::Hello));
        out.extend(self.cluster);
        out.extend(self.node.0.as_bytes());
        out.extend(self.node_port.to_be_bytes());
        out.extend(self.http_port.to_be_bytes());
        if let Kind::Claim { mac, xid, address } = self.kind {
            out.extend(mac.0);
            out.extend(xid.to_be_bytes());
            out.extend(address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn beacon(kind: Kind) -> Beacon {
        Beacon {
            cluster: *b"cluster!",
            node: NodeId(PublicKey([7; 32])),
            node_port: 4001,
            http_port: 8080,
            kind,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let claim = Kind::Claim { mac, xid: 5, address: Some([10, 0, 0, 9].into()) };
        for (kind, len) in [
            (Kind::Hello, HELLO),
            (claim, CLAIM),
            (Kind::Claim { mac, xid: 5, address: None }, CLAIM),
        ] {
            let bytes = beacon(kind).encode();
            assert_eq!(bytes.len(), len);
            assert_eq!(Beacon::parse(&bytes), Some(beacon(kind)));
            assert_eq!(Beacon::parse(&bytes[..len - 1]), None);
            assert_eq!(Beacon::parse(&[&bytes[..], &[0]].concat()), None);
        }
        let mut other = beacon(Kind::Hello).encode();
        other[4] = 2;
        assert_eq!(Beacon::parse(&other), None, "another version");
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let whole = [&MAGIC[..], &bytes[..]].concat();
            if let Some(read) = Beacon::parse(&whole) {
                assert_eq!(Beacon::parse(&read.encode()), Some(read));
            }
        }
    }
}
