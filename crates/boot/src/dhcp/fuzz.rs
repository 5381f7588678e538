//! For the fuzzer and its corpus: what must hold for every input.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use p2pinst_types::{Hash, Mac, NodeId, PublicKey};

use super::client::{Family, Message};
use super::clients::CLIENTS;
use super::packet::{self, Code, Op, Packet};
use super::responder::{Output, Received, Responder};
use super::segments::Link;
use super::table::{Armed, Artefacts, Files, IsolatedPool, Mode, POOL, Style, Table, Wants};

/// For the fuzzer and its corpus: a message that is read and written is the same when it is read again.
///
/// # Panics
/// When it is not.
pub fn fuzz_packet(bytes: &[u8]) {
    let Ok(read) = Packet::parse(bytes) else { return };
    let written = read.encode();
    assert!(written.len() >= packet::MIN, "too short: {}", written.len());
    // options that were in `file` and `sname` can make it longer than what is read
    if written.len() <= packet::MAX {
        assert_eq!(Packet::parse(&written).as_ref(), Ok(&read), "reading does not settle");
    }
}

/// For the fuzzer and its corpus: messages, beacons and the passing of time, as the bytes say, leave a responder within its bounds, and all
/// that it sends can be read.
///
/// The first byte is the mode; then each step is a byte and what belongs to it: 0 time passes (2 bytes, milliseconds), 1 to 3 a message to port 67, 4011,
/// 68 (2 bytes of length, lowest first, and the message), 4 a beacon (a byte of length), 5 a new mode, 6 a file was
/// read (a MAC), 7 a message that is made of six bytes: kind, last byte of the hardware address, architecture and program, transaction, seconds, address.
///
/// # Panics
/// When it does not.
pub fn fuzz_responder(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut now = Duration::ZERO;
    let mut responder = Responder::new(now, node(0), 1);
    let links = [1, 2].map(|interface| Link { interface, own: own(), mac: Mac([2; 6]) });
    responder.set_links(now, &links);
    responder.set_table(now, table(bytes.byte().unwrap_or(0)));
    let mut out = Vec::new();
    while let Some(what) = bytes.byte() {
        out.clear();
        let (port, packet) = match what % 8 {
            0 => {
                let ms =
                    bytes.byte().zip(bytes.byte()).map_or(0, |(a, b)| u16::from_le_bytes([a, b]));
                now += Duration::from_millis(ms.into());
                responder.on_time(now, &mut out);
                (0, Vec::new())
            }
            what @ 1..=3 => {
                let len =
                    bytes.byte().zip(bytes.byte()).map_or(0, |(a, b)| u16::from_le_bytes([a, b]));
                let port = if what == 1 {
                    67
                } else if what == 2 {
                    4011
                } else {
                    68
                };
                (port, bytes.take(len.into()).to_vec())
            }
            4 => {
                let len = bytes.byte().unwrap_or(0);
                let from = Ipv4Addr::new(10, 0, 0, len);
                responder.on_beacon(now, 1, from, bytes.take(len.into()));
                (0, Vec::new())
            }
            5 => {
                responder.set_table(now, table(bytes.byte().unwrap_or(0)));
                (0, Vec::new())
            }
            6 => {
                let mac = bytes.take(6).try_into().map_or(Mac([2; 6]), Mac);
                responder.client_got_file(mac);
                (0, Vec::new())
            }
            _ => made(&mut bytes),
        };
        if port != 0 {
            let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
            let received = Received { interface: 1, own: own(), from, port, bytes: &packet };
            responder.on_packet(now, &received, &mut out);
        }
        check(&responder, &out);
    }
}

fn check(responder: &Responder, out: &[Output]) {
    let remembered = responder.remembered();
    assert!(remembered.clients <= CLIENTS, "clients: {}", remembered.clients);
    assert!(remembered.leases <= POOL as usize, "leases: {}", remembered.leases);
    // a step of time may answer every client that waits: with an offer, a claim and an event
    assert!(out.len() <= 4 * CLIENTS, "outputs: {}", out.len());
    for output in out {
        if let Output::Send { bytes, port, .. } = output {
            assert!((packet::MIN..=1472).contains(&bytes.len()), "length {}", bytes.len());
            let sent = Packet::parse(bytes);
            assert!(sent.is_ok(), "{sent:?}");
            assert!([67, 68, 4011].contains(port), "port {port}");
        }
    }
}

/// A message from a few bytes: kind, hardware address, architecture and program, transaction, seconds, address.
fn made(bytes: &mut Bytes<'_>) -> (u16, Vec<u8>) {
    let mut next = || bytes.byte().unwrap_or(0);
    let (kind, mac, what, xid, secs, at) = (next(), next(), next(), next(), next(), next());
    let mut packet = Packet::new(Op::Request, xid.into(), Mac([2, 0, 0, 0, 0, mac]));
    packet.secs = secs.into();
    packet.options.set(Code::MESSAGE, [kind % 9]);
    let class: &[u8] = if what & 64 == 0 { b"PXEClient" } else { b"HTTPClient" };
    packet.options.set(Code::CLASS, class);
    packet.options.set(Code::ARCHITECTURE, [0, what % 32]);
    if what & 128 != 0 {
        packet.options.set(Code::USER_CLASS, *b"iPXE");
    }
    let address = Ipv4Addr::new(10, 0, 0, at);
    packet.options.set(Code::REQUESTED, address.octets());
    if kind & 32 != 0 {
        packet.options.set(Code::SERVER, address.octets());
    }
    if kind & 64 != 0 {
        packet.ciaddr = address;
    }
    if kind % 9 == Message::Offer as u8 {
        packet.op = Op::Reply;
        packet.yiaddr = address;
    }
    (if kind & 128 == 0 { 67 } else { 4011 }, packet.encode())
}

fn node(n: u8) -> NodeId {
    NodeId(PublicKey([n; 32]))
}

fn own() -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 1)
}

fn table(mode: u8) -> Table {
    let mode = match mode % 4 {
        0 => Mode::Armed,
        1 => Mode::Discover,
        2 => Mode::Isolated(IsolatedPool {
            first: [10, 0, 0, mode].into(),
            last: [10, 0, 0, 200].into(),
            netmask: [255, 255, 255, 0].into(),
            router: Some(own()),
            dns: vec![own()],
            lease: 60,
        }),
        _ => Mode::Off,
    };
    let machine = |n: u8| {
        let style = if n & 1 == 0 { Style::Direct } else { Style::Ask };
        let wants = if n & 2 == 0 { Wants::Scout } else { Wants::Disk };
        (Mac([2, 0, 0, 0, 0, n]), Armed { assignment: Hash([n; 32]), style, wants })
    };
    let files = |scout: &str, script| Files { scout: scout.parse().ok(), ipxe: None, script };
    Table {
        mode,
        machines: (0..8).map(machine).collect(),
        artefacts: Artefacts(BTreeMap::from([
            (Family::Bios, files("undionly.kpxe", true)),
            (Family::EfiX64, files("scout.efi", true)),
        ])),
        members: BTreeSet::from([1, 2, 3].map(node)),
        http_port: 8080,
        ..Table::off(node(0))
    }
}

/// Takes bytes off the front, as long as there are any.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::{any, proptest};

    use super::*;

    /// Every file of a corpus, which must be there.
    fn replay(target: &str, run: fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let mut files = 0;
        for entry in std::fs::read_dir(&dir).unwrap() {
            run(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 12, "{} has {files} files", dir.display());
    }

    #[test]
    fn the_corpus_of_packets_holds() {
        replay("dhcp_packet", fuzz_packet);
    }

    #[test]
    fn the_corpus_of_conversations_holds() {
        replay("dhcp_responder", fuzz_responder);
    }

    proptest! {
        #[test]
        fn any_conversation_stays_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            fuzz_responder(&bytes);
        }
    }
}
