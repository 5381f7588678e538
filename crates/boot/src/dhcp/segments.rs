//! The segments that this node is on: when to say hello and to probe, and whom else was heard there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use p2pinst_types::Mac;

use super::client::Message;
use super::event::Foreign;
use super::packet::{Code, Op, Packet};

/// Between two beacons.
pub const HELLO: Duration = Duration::from_secs(5);
/// For how long a segment is listened to before an address is given away on it: dnsmasq takes three seconds to offer one
/// (measured), and each sibling says hello within that time.
pub const QUIET: Duration = Duration::from_secs(6);
/// Between the first three probes; a datagram may be lost.
const PROBE_FIRST: Duration = Duration::from_secs(2);
/// Between later probes where this node gives addresses, and where it does not.
const PROBE_ISOLATED: Duration = Duration::from_secs(60);
const PROBE: Duration = Duration::from_secs(300);
/// For how long another DHCP server counts after it was last heard.
pub const FOREIGN: Duration = Duration::from_secs(600);
/// Interfaces.
const LINKS: usize = 64;
/// Other servers that are remembered.
const OTHERS: usize = 64;
/// What a probe has for a UUID, so that siblings know it.
const PROBE_UUID: [u8; 17] = *b"\0p2pinst: a probe";

/// An interface of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub interface: u32,
    /// This node's address there.
    pub own: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
}

/// What is to be sent on a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Hello,
    Probe,
}

#[derive(Debug)]
struct Segment {
    link: Link,
    since: Duration,
    hello: Duration,
    probe: Duration,
    probes: u32,
}

#[derive(Debug)]
struct Other {
    first: Duration,
    last: Duration,
    said: bool,
}

/// The segments.
#[derive(Debug, Default)]
pub(super) struct Segments {
    segments: BTreeMap<u32, Segment>,
    others: BTreeMap<(u32, Ipv4Addr, Foreign), Other>,
}

impl Segments {
    /// These are the interfaces from now on.
    pub(super) fn set(&mut self, now: Duration, links: &[Link]) {
        let mut old = std::mem::take(&mut self.segments);
        for link in links.iter().take(LINKS) {
            let kept = old.remove(&link.interface).filter(|s| s.link == *link);
            self.segments.insert(link.interface, kept.unwrap_or_else(|| Segment::new(now, *link)));
        }
    }

    /// What this node does on its segments has changed: they are listened to anew.
    pub(super) fn restart(&mut self, now: Duration) {
        for segment in self.segments.values_mut() {
            *segment = Segment::new(now, segment.link);
        }
        self.others.retain(|(_, _, what), _| *what == Foreign::Boot);
    }

    /// The interfaces.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.segments.values().map(|s| &s.link)
    }

    /// What is to be sent now, one thing at a time.
    pub(super) fn take_due(&mut self, now: Duration, isolated: bool) -> Option<(Link, Due)> {
        for segment in self.segments.values_mut() {
            if segment.hello <= now {
                segment.hello = now.saturating_add(HELLO);
                return Some((segment.link, Due::Hello));
            }
            if segment.probe <= now {
                segment.probes = segment.probes.saturating_add(1);
                segment.probe = now.saturating_add(match (segment.probes, isolated) {
                    (..=2, _) => PROBE_FIRST,
                    (_, true) => PROBE_ISOLATED,
                    (_, false) => PROBE,
                });
                return Some((segment.link, Due::Probe));
            }
        }
        None
    }

    /// When something is to be sent or said next.
    pub(super) fn due(&self) -> Option<Duration> {
        let send = self.segments.values().map(|s| s.hello.min(s.probe));
        let unsaid = self.others.values().filter(|o| !o.said);
        send.chain(unsaid.map(|o| o.first.saturating_add(QUIET))).min()
    }

    /// Whether a segment has been listened to for long enough to give addresses away on it, and there is no other server but
    /// those that `is_sibling` knows.
    pub(super) fn is_isolated(
        &self,
        now: Duration,
        interface: u32,
        is_sibling: impl Fn(Ipv4Addr) -> bool,
    ) -> bool {
        let listened = |s: &Segment| now.saturating_sub(s.since) >= QUIET;
        self.segments.get(&interface).is_some_and(listened)
            && !self.others.iter().any(|((i, address, what), other)| {
                *i == interface
                    && *what == Foreign::Addresses
                    && now.saturating_sub(other.last) < FOREIGN
                    && !is_sibling(*address)
            })
    }

    /// Another server was heard.
    pub(super) fn heard(
        &mut self,
        now: Duration,
        interface: u32,
        address: Ipv4Addr,
        what: Foreign,
    ) {
        let key = (interface, address, what);
        if self.others.len() >= OTHERS && !self.others.contains_key(&key) {
            let oldest = self.others.iter().min_by_key(|(_, o)| o.last).map(|(key, _)| *key);
            oldest.map(|key| self.others.remove(&key));
        }
        let other = self.others.entry(key).or_insert(Other { first: now, last: now, said: false });
        if now.saturating_sub(other.last) >= FOREIGN {
            (other.first, other.said) = (now, false);
        }
        other.last = now;
    }

    /// A server that is to be warned of: one that has not turned out to be a sibling within [`QUIET`].
    pub(super) fn take_foreign(
        &mut self,
        now: Duration,
        is_sibling: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<(u32, Ipv4Addr, Foreign)> {
        self.others.retain(|(_, address, _), _| !is_sibling(*address));
        let ripe = |o: &Other| !o.said && now.saturating_sub(o.first) >= QUIET;
        let (key, other) = self.others.iter_mut().find(|(_, other)| ripe(other))?;
        other.said = true;
        Some(*key)
    }

    #[cfg(test)]
    pub(super) fn others(&self) -> usize {
        self.others.len()
    }
}

impl Segment {
    fn new(now: Duration, link: Link) -> Self {
        Self { link, since: now, hello: now, probe: now, probes: 0 }
    }
}

/// A DISCOVER as PXE firmware sends it: whoever answers with boot files or an address is another server. It asks for answers to
/// everybody, and siblings leave it alone.
#[must_use]
pub fn probe(xid: u32, mac: Mac) -> Vec<u8> {
    let mut packet = Packet::new(Op::Request, xid, mac);
    packet.ask_broadcast();
    packet.options.set(Code::MESSAGE, [Message::Discover as u8]);
    let wanted = [Code::NETMASK, Code::ROUTER, Code::VENDOR, Code::TFTP_SERVER, Code::BOOT_FILE];
    packet.options.set(Code::PARAMETERS, wanted.map(|c| c.0));
    packet.options.set(Code::CLASS, *b"PXEClient:Arch:00007:UNDI:003016");
    packet.options.set(Code::ARCHITECTURE, [0, 7]);
    packet.options.set(Code::INTERFACE, [1, 3, 16]);
    packet.options.set(Code::UUID, PROBE_UUID);
    packet.encode()
}

/// Whether a request is a node's [`probe`].
#[must_use]
pub fn is_probe(packet: &Packet) -> bool {
    packet.options.get(Code::UUID) == Some(&PROBE_UUID)
}

/// What a server's answer gives away: boot files, an address. That it names a server (`siaddr`) is nothing: dnsmasq always
/// names itself.
pub(super) fn gives(packet: &Packet) -> impl Iterator<Item = Foreign> {
    let class = packet.options.get(Code::CLASS).unwrap_or_default();
    let boot = class.starts_with(b"PXEClient")
        || class.starts_with(b"HTTPClient")
        || !packet.file.is_empty()
        || packet.options.has(Code::BOOT_FILE)
        || packet.options.has(Code::TFTP_SERVER);
    let answers = matches!(Message::of(packet), Some(Message::Offer | Message::Ack));
    let address = answers && !packet.yiaddr.is_unspecified();
    let boot = (answers && boot).then_some(Foreign::Boot);
    boot.into_iter().chain(address.then_some(Foreign::Addresses))
}

#[cfg(test)]
mod tests {
    use super::super::client::Client;
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn link(interface: u32) -> Link {
        Link { interface, own: [10, 0, 0, 1].into(), mac: Mac([2; 6]) }
    }

    fn sent(segments: &mut Segments, until: u64, isolated: bool) -> (usize, usize) {
        let (mut hellos, mut probes) = (0, 0);
        while let Some(due) = segments.due().filter(|due| *due <= S(until)) {
            match segments.take_due(due, isolated) {
                Some((_, Due::Hello)) => hellos += 1,
                Some((_, Due::Probe)) => probes += 1,
                None => break,
            }
        }
        (hellos, probes)
    }

    #[test]
    fn each_segment_hears_from_this_node() {
        let mut segments = Segments::default();
        assert_eq!(segments.due(), None);
        segments.set(S(0), &[link(1), link(2)]);
        assert_eq!(sent(&mut segments, 59, false), (24, 6));
        segments.set(S(59), &[link(2)]);
        assert_eq!(sent(&mut segments, 303, false), (49, 0), "one segment, known before");
        assert_eq!(sent(&mut segments, 304, false).1, 1);
        segments.restart(S(1000));
        assert_eq!(sent(&mut segments, 1059, true).1, 3);
        assert_eq!(sent(&mut segments, 1124, true).1, 2);
        let many: Vec<Link> = (0..1000).map(link).collect();
        segments.set(S(0), &many);
        assert_eq!(segments.links().count(), LINKS);
    }

    #[test]
    fn a_segment_is_isolated_after_silence_alone() {
        let mut segments = Segments::default();
        segments.set(S(0), &[link(1)]);
        assert!(
            !segments.is_isolated(S(5), 1, |_| false) && segments.is_isolated(S(6), 1, |_| false)
        );
        assert!(!segments.is_isolated(S(6), 2, |_| false), "not known");
        segments.heard(S(7), 1, OTHER, Foreign::Boot);
        assert!(segments.is_isolated(S(7), 1, |_| false));
        segments.heard(S(7), 1, OTHER, Foreign::Addresses);
        assert!(!segments.is_isolated(S(7), 1, |_| false));
        assert!(segments.is_isolated(S(7), 1, |a| a == OTHER), "a sibling may");
        assert!(segments.is_isolated(S(607), 1, |_| false), "it has gone");
    }

    #[test]
    fn who_turns_out_to_be_a_sibling_is_not_warned_of() {
        let mut segments = Segments::default();
        segments.heard(S(0), 1, OTHER, Foreign::Boot);
        assert_eq!(segments.take_foreign(S(5), |_| false), None);
        assert_eq!(segments.due(), Some(S(6)));
        assert_eq!(segments.take_foreign(S(6), |_| false), Some((1, OTHER, Foreign::Boot)));
        assert_eq!(segments.take_foreign(S(7), |_| false), None, "once");
        segments.heard(S(700), 1, OTHER, Foreign::Boot);
        assert!(segments.take_foreign(S(706), |_| false).is_some(), "it came back");
        segments.heard(S(1400), 1, OTHER, Foreign::Boot);
        assert_eq!(segments.take_foreign(S(1500), |_| true), None);
        assert_eq!(segments.others(), 0);
        for n in 0..1000u32 {
            segments.heard(S(n.into()), n, OTHER, Foreign::Boot);
        }
        assert_eq!(segments.others(), OTHERS);
    }

    #[test]
    fn a_probe_looks_like_firmware_to_everybody_but_siblings() {
        let packet = Packet::parse(&probe(7, Mac([2; 6]))).unwrap();
        assert!(is_probe(&packet) && packet.wants_broadcast());
        let client = Client::of(&packet).unwrap();
        assert!(client.boots());
        assert!(!is_probe(&Packet::new(Op::Request, 7, Mac([2; 6]))));
    }

    #[test]
    fn answers_show_what_a_server_gives() {
        let mut packet = Packet::new(Op::Reply, 1, Mac([2; 6]));
        packet.siaddr = OTHER;
        packet.options.set(Code::MESSAGE, [Message::Offer as u8]);
        assert_eq!(gives(&packet).count(), 0);
        packet.yiaddr = [10, 0, 0, 77].into();
        assert_eq!(gives(&packet).collect::<Vec<_>>(), [Foreign::Addresses]);
        packet.options.set(Code::BOOT_FILE, *b"pxelinux.0");
        assert_eq!(gives(&packet).collect::<Vec<_>>(), [Foreign::Boot, Foreign::Addresses]);
        packet.options.set(Code::MESSAGE, [Message::Nak as u8]);
        assert_eq!(gives(&packet).count(), 0);
    }
}
