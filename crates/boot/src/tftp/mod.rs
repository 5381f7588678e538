//! A server of TFTP that is only read from: RFC 1350, with the options of RFC 2347, 2348 (block size), 2349 (length and time) and
//! 7440 (windows).
//!
//! [`Server`] is bytes in, bytes out: it owns the transfers that go on, and no socket, clock or path. A name is looked up by whom
//! the server is given, and is never part of a path. It never takes a file (WRQ is refused), never converts text (netascii is
//! refused), and keeps no more transfers than its [`Limits`] say.

mod packet;
mod server;
mod transfer;

pub use packet::{ErrorCode, Options, Packet, PacketError, Request};
pub use server::{Output, Server, Transferred};
pub use transfer::Content;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Bounds of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Transfers at a time.
    pub transfers: usize,
    /// Transfers of one address at a time.
    pub per_client: usize,
    /// Largest block: what fits into a packet of the network, less where tunnels and tags take their part.
    pub blksize: u16,
    /// Largest window, in blocks.
    pub windowsize: u16,
}

impl Default for Limits {
    /// Blocks of 1428 bytes leave room for a VLAN tag and a tunnel in 1500; a window of 32 of them is less than the usual
    /// receive buffer.
    fn default() -> Self {
        Self { transfers: 256, per_client: 4, blksize: 1428, windowsize: 32 }
    }
}

/// Feeds a server with datagrams: each is a byte that says who sends it, how much time has passed and how long it is, one of
/// length, and that many bytes. Nothing may panic, and no bound may be exceeded.
pub fn fuzz_tftp(bytes: &[u8]) {
    let limits = Limits { transfers: 8, per_client: 2, blksize: 512, windowsize: 4 };
    let mut server = Server::new(limits);
    let mut now = Duration::ZERO;
    let mut rest = bytes;
    let mut out = Vec::new();
    while let [head, len, tail @ ..] = rest {
        let take = usize::from(*len) | usize::from(head & 0x40) << 4;
        let (datagram, after) = tail.split_at(take.min(tail.len()));
        rest = after;
        let client =
            SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, head & 3), 2000 + u16::from(head >> 2 & 3));
        now += Duration::from_millis(u64::from(head >> 4 & 3) * 700);
        if head & 0x80 == 0 {
            let file = |name: &str| (name.len() < 20).then(|| vec![7u8; name.len() * 700]);
            server.on_request(now, client, datagram, file, &mut out);
        } else {
            server.on_datagram(now, client, datagram, &mut out);
        }
        server.on_time(now, &mut out);
        assert!(server.len() <= limits.transfers, "more transfers than allowed");
        // one window, an answer, and what had to be sent again for each transfer
        assert!(out.len() <= 8 * (limits.transfers + 1), "{} packets for one", out.len());
        out.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_corpus_is_harmless() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/tftp");
        let mut seen = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            fuzz_tftp(&std::fs::read(entry.unwrap().path()).unwrap());
            seen += 1;
        }
        assert!(seen >= 8, "only {seen} files");
    }

    proptest! {
        #[test]
        fn nothing_panics_whatever_comes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            fuzz_tftp(&bytes);
        }

        #[test]
        fn nothing_panics_on_what_is_nearly_right(
            parts in prop::collection::vec((any::<u8>(), 1u8..7, any::<u8>(), ".{0,8}"), 1..60),
        ) {
            let mut all = Vec::new();
            for (head, operation, low, name) in parts {
                let mut packet = vec![0, operation, 0, low % 8];
                if operation < 3 {
                    packet.truncate(2);
                    packet.extend_from_slice(name.as_bytes());
                    packet.extend_from_slice(b"\0octet\0blksize\x0032\0windowsize\x003\0");
                }
                all.extend([head & !0x40, u8::try_from(packet.len()).unwrap()]);
                all.extend(packet);
            }
            fuzz_tftp(&all);
        }
    }
}
