use std::collections::{BTreeMap, VecDeque};

use p2pinst_types::PublicKey;

use super::super::client::{Architecture, Family, Program};
use super::super::table::{Armed, Artefacts, Files, IsolatedPool, Mode, Style};
use super::*;

const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
const EVERYBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn node(n: u8) -> NodeId {
    NodeId(PublicKey([n; 32]))
}

fn own(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

fn table(n: u8, mode: Mode) -> Table {
    let files = |scout: Option<&str>, ipxe: &str| Files {
        scout: scout.map(|s| s.parse().unwrap()),
        ipxe: ipxe.parse().ok(),
        script: true,
    };
    let armed = |wants| Armed { assignment: Hash([9; 32]), style: Style::Direct, wants };
    Table {
        mode,
        http_port: 8080,
        machines: BTreeMap::from([
            (MAC, armed(Wants::Scout)),
            (Mac([2, 0, 0, 0, 0, 7]), armed(Wants::Disk)),
        ]),
        artefacts: Artefacts(BTreeMap::from([
            (Family::EfiX64, files(Some("scout.efi"), "snponly.efi")),
            (Family::Bios, files(None, "undionly.kpxe")),
        ])),
        members: (1..=4).map(node).collect(),
        ..Table::off(node(n))
    }
}

fn responder(n: u8, mode: Mode) -> Responder {
    let mut responder = Responder::new(ms(0), node(n), 1);
    responder.set_table(ms(0), table(n, mode));
    let mac = Mac([2, 0, 0, 0, 1, n]);
    responder.set_links(ms(0), &[Link { interface: 1, own: own(n), mac }]);
    responder
}

fn isolated() -> Mode {
    Mode::Isolated(IsolatedPool {
        first: [10, 0, 0, 100].into(),
        last: [10, 0, 0, 110].into(),
        netmask: [255, 255, 255, 0].into(),
        router: None,
        dns: Vec::new(),
        lease: 600,
    })
}

fn question(message: Message, mac: Mac, xid: u32, secs: u16) -> Packet {
    let mut packet = Packet::new(Op::Request, xid, mac);
    packet.secs = secs;
    packet.options.set(Code::MESSAGE, [message as u8]);
    packet
}

fn discover(mac: Mac, xid: u32, secs: u16, architecture: u8) -> Packet {
    let mut packet = question(Message::Discover, mac, xid, secs);
    packet.options.set(Code::CLASS, *b"PXEClient:Arch:xxxxx:UNDI:003016");
    packet.options.set(Code::ARCHITECTURE, [0, architecture]);
    packet
}

/// Gives a responder a message on a port; what it does.
fn hear(r: &mut Responder, now: Duration, port: u16, packet: &Packet) -> Vec<Output> {
    hear_from(r, now, port, NOBODY, packet)
}

fn hear_from(
    r: &mut Responder,
    now: Duration,
    port: u16,
    from: SocketAddrV4,
    packet: &Packet,
) -> Vec<Output> {
    let mut out = Vec::new();
    let NodeId(PublicKey([n, ..])) = r.table.node;
    let bytes = packet.encode();
    let received = Received { interface: 1, own: own(n), from, port, bytes: &bytes };
    r.on_packet(now, &received, &mut out);
    out
}

fn sent(out: &[Output]) -> Vec<(Packet, SocketAddrV4)> {
    let send = |o: &Output| match o {
        Output::Send { to, bytes, .. } => Some((Packet::parse(bytes).unwrap(), *to)),
        Output::Beacon { .. } | Output::Event(_) => None,
    };
    // not the probes, which are requests
    out.iter().filter_map(send).filter(|(packet, _)| packet.op == Op::Reply).collect()
}

fn events(out: &[Output]) -> Vec<&Event> {
    let event = |o: &'_ Output| matches!(o, Output::Event(_));
    out.iter()
        .filter(|o| event(o))
        .filter_map(|o| if let Output::Event(e) = o { Some(e) } else { None })
        .collect()
}

/// Several nodes on one segment, in virtual time.
struct Segment {
    nodes: Vec<Responder>,
    now: Duration,
    dead: Vec<usize>,
}

impl Segment {
    fn new(count: u8, mode: &Mode) -> Self {
        let nodes = (1..=count).map(|n| responder(n, mode.clone())).collect();
        let mut segment = Self { nodes, now: ms(0), dead: Vec::new() };
        segment.run(ms(7000));
        segment
    }

    /// Delivers beacons at once, answers to the caller: who sent what, when.
    fn deliver(
        &mut self,
        mut out: VecDeque<(usize, Output)>,
        got: &mut Vec<(usize, Duration, Packet)>,
    ) {
        while let Some((by, output)) = out.pop_front() {
            match output {
                Output::Beacon { bytes, .. } => {
                    let from = own(u8::try_from(by + 1).unwrap());
                    for (n, node) in self.nodes.iter_mut().enumerate() {
                        if n != by && !self.dead.contains(&n) {
                            node.on_beacon(self.now, 1, from, &bytes);
                        }
                    }
                }
                Output::Send { bytes, .. } => {
                    let packet = Packet::parse(&bytes).unwrap();
                    if packet.op == Op::Reply {
                        got.push((by, self.now, packet));
                    }
                }
                Output::Event(_) => {}
            }
        }
    }

    fn broadcast(&mut self, packet: &Packet) -> Vec<(usize, Duration, Packet)> {
        let mut got = Vec::new();
        for n in 0..self.nodes.len() {
            if !self.dead.contains(&n) {
                let out = hear(&mut self.nodes[n], self.now, SERVER_PORT, packet);
                self.deliver(out.into_iter().map(|o| (n, o)).collect(), &mut got);
            }
        }
        got
    }

    fn run(&mut self, until: Duration) -> Vec<(usize, Duration, Packet)> {
        let mut got = Vec::new();
        loop {
            let live = (0..self.nodes.len()).filter(|n| !self.dead.contains(n));
            let next = live.filter_map(|n| Some((self.nodes[n].due()?, n))).min();
            let Some((due, n)) = next.filter(|(due, _)| *due <= until) else { break };
            self.now = self.now.max(due);
            let mut out = Vec::new();
            self.nodes[n].on_time(self.now, &mut out);
            self.deliver(out.into_iter().map(|o| (n, o)).collect(), &mut got);
        }
        self.now = until;
        got
    }
}

#[test]
fn an_armed_machine_is_offered_its_file_in_the_same_step() {
    let mut r = responder(1, Mode::Armed);
    let out = hear(&mut r, ms(10), SERVER_PORT, &discover(MAC, 5, 0, 7));
    let answers = sent(&out);
    let [(offer, to)] = answers.as_slice() else { panic!("{out:?}") };
    assert_eq!((offer.file.as_bytes(), *to), (&b"scout.efi"[..], EVERYBODY));
    assert_eq!((offer.xid, offer.yiaddr.is_unspecified(), offer.siaddr), (5, true, own(1)));
    let said = events(&out);
    assert!(
        matches!(
            said[..],
            [
                Event::Discover { program: Program::Pxe, secs: 0, .. },
                Event::Offered { rank: 0, after_ms: 0, address: None, .. }
            ]
        ),
        "{said:?}"
    );
    let claims = out.iter().filter(|o| matches!(o, Output::Beacon { .. })).count();
    assert_eq!(claims, 1);
}

#[test]
fn nobody_else_is_answered() {
    let stranger = Mac([2, 0, 0, 0, 0, 99]);
    let disk = Mac([2, 0, 0, 0, 0, 7]);
    let silent = |mode: Mode, packet: &Packet| {
        let mut r = responder(1, mode);
        let out = hear(&mut r, ms(10), SERVER_PORT, packet);
        assert!(sent(&out).is_empty(), "{out:?}");
        assert_eq!((r.counters().ignored, r.remembered().clients), (1, 0));
        events(&out).into_iter().cloned().collect::<Vec<_>>()
    };
    assert!(silent(Mode::Off, &discover(MAC, 1, 0, 7)).is_empty());
    assert!(silent(Mode::Armed, &discover(stranger, 1, 0, 7)).is_empty());
    assert!(silent(Mode::Armed, &question(Message::Discover, MAC, 1, 0)).is_empty());
    assert!(silent(Mode::Discover, &question(Message::Discover, stranger, 1, 0)).is_empty());
    let said = silent(Mode::Discover, &discover(disk, 1, 0, 7));
    assert_eq!(said, [Event::NotServed { mac: disk, reason: Reason::Disk }]);
    let said = silent(Mode::Armed, &discover(MAC, 1, 0, 11));
    let architecture = Some(Architecture(11));
    let have = vec![Family::Bios, Family::EfiX64];
    assert_eq!(said, [Event::WrongArchitecture { mac: MAC, architecture, have }]);
    let mut r = responder(1, Mode::Discover);
    assert_eq!(sent(&hear(&mut r, ms(0), SERVER_PORT, &discover(stranger, 1, 0, 0))).len(), 1);
    let probe = Packet::parse(&probe(1, stranger)).unwrap();
    assert!(sent(&hear(&mut r, ms(0), SERVER_PORT, &probe)).is_empty(), "a sibling's probe");
}

#[test]
fn malformed_messages_are_counted() {
    let mut r = responder(1, Mode::Armed);
    let mut out = Vec::new();
    for bytes in [&b""[..], &[1; 100], &[0xff; 2000], &[0; 3000]] {
        let received = Received { interface: 1, own: own(1), from: NOBODY, port: 67, bytes };
        r.on_packet(ms(0), &received, &mut out);
    }
    assert_eq!((r.counters().malformed, out.len()), (4, 0));
}

#[test]
fn who_asks_on_4011_is_told_there() {
    let mut r = responder(1, Mode::Armed);
    let mut request = discover(MAC, 8, 0, 7);
    request.options.set(Code::MESSAGE, [Message::Request as u8]);
    request.ciaddr = [10, 0, 0, 50].into();
    let from = SocketAddrV4::new(request.ciaddr, PXE_PORT);
    let out = hear_from(&mut r, ms(0), PXE_PORT, from, &request);
    let answers = sent(&out);
    let [(ack, to)] = answers.as_slice() else { panic!("{out:?}") };
    assert_eq!((ack.file.as_bytes(), *to), (&b"scout.efi"[..], from));
    assert_eq!((ack.ciaddr, ack.yiaddr), (request.ciaddr, Ipv4Addr::UNSPECIFIED));
    assert_eq!(events(&out), [&Event::Requested { mac: MAC }]);
    request.options.set(Code::SERVER, own(77).octets());
    let out = hear_from(&mut r, ms(1), PXE_PORT, from, &request);
    assert!(sent(&out).is_empty(), "it asks another");
    let mut out = Vec::new();
    r.on_time(ms(6001), &mut out);
    let foreign = Event::ForeignServer { interface: 1, address: own(77), what: Foreign::Boot };
    assert!(events(&out).contains(&&foreign), "{out:?}");
}

#[test]
fn siblings_answer_one_after_the_other() {
    let mut segment = Segment::new(3, &Mode::Armed);
    let start = segment.now;
    let at_once = segment.broadcast(&discover(MAC, 1, 0, 7));
    assert_eq!(at_once.len(), 1, "one is first");
    assert!(segment.run(start + ms(3000)).is_empty(), "and the others hear of it");
    // the first is gone: the second answers after a step, and no third
    let mut segment = Segment::new(3, &Mode::Armed);
    segment.dead.push(at_once[0].0);
    let start = segment.now;
    assert!(segment.broadcast(&discover(MAC, 1, 0, 7)).is_empty());
    let later = segment.run(start + ms(3000));
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].1, start + STEP);
}

#[test]
fn a_client_that_comes_again_is_answered_by_another() {
    let mut segment = Segment::new(3, &Mode::Armed);
    let mut firsts = Vec::new();
    for (attempt, secs) in [0u16, 4, 12, 28].into_iter().enumerate() {
        let start = segment.now;
        let got = segment.broadcast(&discover(MAC, 1, secs, 7));
        assert_eq!(got.len(), 1, "attempt {attempt}");
        firsts.push(got[0].0);
        segment.run(start + ms(4000));
    }
    let distinct: BTreeSet<usize> = firsts.iter().copied().collect();
    assert_eq!(distinct.len(), 3, "{firsts:?}");
    assert_eq!(firsts[0], firsts[3]);
}

#[test]
fn a_node_that_claims_in_vain_silences_nobody_for_long() {
    // node 2 says that it answers, and never does
    let claim = |xid| {
        let kind = Kind::Claim { mac: MAC, xid, address: None };
        Beacon { cluster: [0; 8], node: node(2), node_port: 1, http_port: 1, kind }.encode()
    };
    for mac in (0..20).map(|n| Mac([2, 1, 0, 0, 0, n])) {
        let mut r = responder(1, Mode::Discover);
        let liar = |r: &mut Responder, now, xid| {
            let kind = Kind::Claim { mac, xid, address: None };
            let beacon =
                Beacon { cluster: [0; 8], node: node(2), node_port: 1, http_port: 1, kind };
            r.on_beacon(now, 1, own(2), &beacon.encode());
        };
        let mut answered = Vec::new();
        for (xid, secs) in [(1, 0), (1, 4), (1, 12)] {
            let now = ms(u64::from(secs) * 1000 + 100);
            liar(&mut r, now, xid);
            let mut out = hear(&mut r, now, SERVER_PORT, &discover(mac, xid, secs, 7));
            liar(&mut r, now, xid);
            r.on_time(now + ms(3000), &mut out);
            answered.push(!sent(&out).is_empty());
        }
        assert!(answered[1] && answered[2], "{mac}: {answered:?}");
    }
    let mut r = responder(1, Mode::Armed);
    r.on_beacon(ms(0), 1, own(2), &claim(1));
    let mut other = claim(1);
    other[6] = 7;
    r.on_beacon(ms(0), 1, own(3), &other);
    assert_eq!(r.siblings(ms(1), 1).count(), 1, "another cluster does not count");
    r.on_beacon(
        ms(0),
        1,
        own(9),
        &Beacon::parse(&claim(1)).map(|b| Beacon { node: node(9), ..b }).unwrap().encode(),
    );
    assert_eq!(r.siblings(ms(1), 1).count(), 1, "nor does who is no member");
}

#[test]
fn a_flood_of_strangers_grows_nothing_and_armed_machines_are_answered() {
    for mode in [Mode::Armed, Mode::Discover, isolated()] {
        let mut r = responder(1, mode);
        let mut said = 0;
        for n in 0..20_000u32 {
            let [a, b, c, d] = n.to_be_bytes();
            let now = ms(10_000 + u64::from(n) * 5);
            let mut out = hear(&mut r, now, 67, &discover(Mac([2, 9, a, b, c, d]), n, 0, 7));
            r.on_time(now, &mut out);
            said += events(&out).len();
        }
        let remembered = r.remembered();
        assert!(remembered.clients <= 1024 && remembered.leases <= 11, "{remembered:?}");
        assert!(said <= 128 + 8 * 101, "{said}");
        let now = ms(10_000 + 20_000 * 5);
        assert_eq!(sent(&hear(&mut r, now, 67, &discover(MAC, 1, 0, 7))).len(), 1);
    }
}

#[test]
fn other_boot_servers_are_warned_of_and_siblings_are_not() {
    let mut r = responder(1, Mode::Armed);
    let hello =
        Beacon { cluster: [0; 8], node: node(2), node_port: 1, http_port: 1, kind: Kind::Hello };
    for server in [own(1), own(2), own(66)] {
        let mut offer = Packet::new(Op::Reply, 1, MAC);
        offer.options.set(Code::MESSAGE, [Message::Offer as u8]);
        offer.options.set(Code::SERVER, server.octets());
        offer.options.set(Code::CLASS, *b"PXEClient");
        offer.yiaddr = [10, 0, 0, 50].into();
        assert!(hear(&mut r, ms(100), CLIENT_PORT, &offer).is_empty());
    }
    r.on_beacon(ms(4000), 1, own(2), &hello.encode());
    let mut out = Vec::new();
    for now in [6100, 6200, 100_000] {
        r.on_time(ms(now), &mut out);
    }
    let foreign = Event::ForeignServer { interface: 1, address: own(66), what: Foreign::Boot };
    assert_eq!(events(&out), [&foreign]);
}

#[test]
fn firmware_that_takes_no_offer_is_pointed_out() {
    let mut r = responder(1, Mode::Armed);
    let mut said = Vec::new();
    for secs in [0, 4, 12, 28, 60] {
        let now = ms(u64::from(secs) * 1000);
        said.extend(hear(&mut r, now, 67, &discover(MAC, 1, secs, 7)));
    }
    let repeated = Event::RepeatedWithoutBoot { mac: MAC, secs: 28 };
    assert_eq!(events(&said).into_iter().filter(|e| **e == repeated).count(), 1);
}

fn take(mac: Mac, xid: u32, server: Option<Ipv4Addr>, wanted: Ipv4Addr) -> Packet {
    let mut request = question(Message::Request, mac, xid, 0);
    if let Some(server) = server {
        request.options.set(Code::SERVER, server.octets());
    }
    request.options.set(Code::REQUESTED, wanted.octets());
    request
}

#[test]
fn an_isolated_segment_is_given_addresses() {
    let mut segment = Segment::new(2, &isolated());
    let host = Mac([2, 0, 0, 0, 5, 5]);
    let start = segment.now;
    let mut got = segment.broadcast(&question(Message::Discover, host, 1, 0));
    got.extend(segment.run(start + ms(3000)));
    let [(by, _, offer)] = got.as_slice() else { panic!("{got:?}") };
    assert!(table(1, isolated()).pool().unwrap().contains(offer.yiaddr));
    assert!(offer.file.is_empty() && !offer.options.has(Code::CLASS), "it does not boot");
    let server = offer.options.address(Code::SERVER).unwrap();
    let acks = segment.broadcast(&take(host, 1, Some(server), offer.yiaddr));
    assert_eq!(acks.len(), 1);
    assert_eq!((acks[0].0, Message::of(&acks[0].2)), (*by, Some(Message::Ack)));
    // the other node heard it: nobody else gets that address there, also when the offer is long past
    let other = &mut segment.nodes[1 - by];
    let steal = take(MAC, 2, None, offer.yiaddr);
    let nak = sent(&hear(other, start + ms(20_000), 67, &steal));
    assert_eq!(Message::of(&nak[0].0), Some(Message::Nak));
    assert_eq!((nak[0].1, nak[0].0.yiaddr.is_unspecified()), (EVERYBODY, true));
    // and it renews what the first gave
    let mut renew = question(Message::Request, host, 3, 0);
    renew.ciaddr = offer.yiaddr;
    let ack = sent(&hear(other, start + ms(21_000), 67, &renew));
    assert_eq!(ack[0].1, SocketAddrV4::new(offer.yiaddr, CLIENT_PORT));
}

#[test]
fn a_booting_machine_on_an_isolated_segment_gets_both_at_once() {
    let mut r = responder(1, isolated());
    let offer = sent(&hear(&mut r, ms(7000), 67, &discover(MAC, 1, 0, 7))).remove(0).0;
    assert_eq!(offer.file.as_bytes(), b"scout.efi");
    assert!(!offer.yiaddr.is_unspecified() && offer.options.has(Code::NETMASK));
    let ack = sent(&hear(&mut r, ms(7001), 67, &take(MAC, 1, Some(own(1)), offer.yiaddr)));
    assert_eq!((ack[0].0.yiaddr, ack[0].1), (offer.yiaddr, EVERYBODY));
    let mut release = question(Message::Release, MAC, 2, 0);
    release.ciaddr = offer.yiaddr;
    hear(&mut r, ms(7002), 67, &release);
    assert_eq!(r.remembered().leases, 0);
    let again = sent(&hear(&mut r, ms(7003), 67, &discover(MAC, 3, 0, 7))).remove(0).0;
    let mut decline = take(MAC, 3, Some(own(1)), again.yiaddr);
    decline.options.set(Code::MESSAGE, [Message::Decline as u8]);
    let out = hear(&mut r, ms(7004), 67, &decline);
    assert!(matches!(events(&out)[..], [Event::Declined { .. }]), "{out:?}");
    let next = sent(&hear(&mut r, ms(7005), 67, &discover(MAC, 4, 0, 7))).remove(0).0;
    assert_ne!(next.yiaddr, again.yiaddr);
}

#[test]
fn no_address_is_given_beside_another_dhcp_server() {
    let host = Mac([2, 0, 0, 0, 5, 5]);
    let mut r = responder(1, isolated());
    let ask = question(Message::Discover, host, 1, 0);
    assert!(sent(&hear(&mut r, ms(1000), 67, &ask)).is_empty(), "it listens first");
    let mut offer = Packet::new(Op::Reply, 1, Mac([2, 0, 0, 0, 1, 1]));
    offer.options.set(Code::MESSAGE, [Message::Offer as u8]);
    offer.options.set(Code::SERVER, own(66).octets());
    offer.yiaddr = [10, 0, 0, 50].into();
    hear(&mut r, ms(3000), CLIENT_PORT, &offer);
    assert!(sent(&hear(&mut r, ms(8000), 67, &ask)).is_empty());
    let mut out = Vec::new();
    r.on_time(ms(9000), &mut out);
    let what = Foreign::Addresses;
    let foreign = Event::ForeignServer { interface: 1, address: own(66), what };
    assert!(events(&out).contains(&&foreign), "{out:?}");
    let boot = sent(&hear(&mut r, ms(9000), 67, &discover(MAC, 1, 0, 7))).remove(0).0;
    assert!(boot.yiaddr.is_unspecified() && !boot.file.is_empty(), "a boot file all the same");
    // a client that takes another's offer shows that there is one
    let mut r = responder(1, isolated());
    hear(&mut r, ms(3000), 67, &take(host, 1, Some(own(66)), [10, 0, 0, 50].into()));
    assert!(sent(&hear(&mut r, ms(8000), 67, &ask)).is_empty());
}

#[test]
fn a_relay_is_answered_and_its_clients_get_no_address() {
    let mut r = responder(1, isolated());
    let mut relayed = discover(MAC, 1, 0, 7);
    relayed.giaddr = [10, 9, 0, 1].into();
    let answers = sent(&hear(&mut r, ms(8000), 67, &relayed));
    let (offer, to) = &answers[0];
    assert_eq!(*to, SocketAddrV4::new(relayed.giaddr, SERVER_PORT));
    assert!(offer.yiaddr.is_unspecified() && !offer.file.is_empty());
}
