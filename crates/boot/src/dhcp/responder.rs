//! Answers machines that boot from the network: the whole of the DHCP side, without a socket or a clock.
//!
//! Messages, beacons and the passing of time go in, what is to be sent and what is to be said comes out; everything that an answer
//! says is in the [`Table`], so that it is made in the same step as the question comes. Nobody is elected: the nodes of a segment
//! answer one after the other ([`STEP`] apart), each unless it hears that another has; where two answer, firmware takes either. A client
//! that asks again has not been helped, and the order rotates. What is remembered is bounded, and lost with the process without harm.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use p2pinst_types::{Hash, Mac, NodeId};

use super::answer::{self, CLIENT_PORT, PXE_PORT, SERVER_PORT, Server};
use super::beacon::{Beacon, Kind};
use super::client::{Client, Message};
use super::clients::{Asked, Clients, Heard};
use super::event::{Counters, Event, Foreign, Limiter, Reason};
use super::packet::{Code, Op, Packet};
use super::pool::Leases;
use super::segments::{Due, Link, Segments, gives, is_probe, probe};
use super::siblings::{Sibling, Siblings};
use super::table::{Start, Table, Wants};

mod isolated;

/// Between the answers of two nodes that follow each other in the order: three fit into the 3.8 s that firmware waits (measured).
pub const STEP: Duration = Duration::from_millis(600);
/// The last place in the order that waits for longer than the one before it.
pub const RANKS: u32 = 3;

/// A datagram that came.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// The number of the interface that it came by.
    pub interface: u32,
    /// This node's address on that interface.
    pub own: Ipv4Addr,
    /// Whom it came from.
    pub from: SocketAddrV4,
    /// The port that it came to: 67, 68 or 4011.
    pub port: u16,
    /// What it says.
    pub bytes: &'a [u8],
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram by an interface.
    Send {
        /// The interface's number.
        interface: u32,
        /// The port to send it from: 67, 68 or 4011.
        port: u16,
        /// Whom to.
        to: SocketAddrV4,
        /// What.
        bytes: Vec<u8>,
    },
    /// Send a beacon to everybody on an interface's segment, from this node's address there: siblings know it by that.
    Beacon {
        /// The interface's number.
        interface: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// Tell people.
    Event(Event),
}

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// Clients: at most 1024.
    pub clients: usize,
    /// Addresses that are not free: at most [`super::table::POOL`].
    pub leases: usize,
}

/// The machine that answers.
#[derive(Debug)]
pub struct Responder {
    table: Table,
    clients: Clients,
    siblings: Siblings,
    segments: Segments,
    leases: Leases,
    limiter: Limiter,
    counters: Counters,
    seed: u64,
    probes: u64,
}

impl Responder {
    /// A responder that answers nobody until it has a table. The seed is random: transaction numbers of probes follow from it.
    #[must_use]
    pub fn new(now: Duration, node: NodeId, seed: u64) -> Self {
        Self {
            table: Table::off(node),
            clients: Clients::default(),
            siblings: Siblings::default(),
            segments: Segments::default(),
            leases: Leases::default(),
            limiter: Limiter::new(now),
            counters: Counters::default(),
            seed,
            probes: 0,
        }
    }

    /// This holds from now on. When a pool is new, its segments are listened to first.
    pub fn set_table(&mut self, now: Duration, table: Table) {
        if self.table.mode != table.mode {
            self.segments.restart(now);
        }
        self.table = table;
        let members = &self.table.members;
        self.siblings.retain(now, |node| members.contains(&node));
    }

    /// These are the interfaces that the service has sockets on, from now on: beacons and probes are sent on them. Questions
    /// are also answered on others, but addresses are given on these alone.
    pub fn set_links(&mut self, now: Duration, links: &[Link]) {
        self.segments.set(now, links);
    }

    /// The machine has read its boot file, or its script: the answers have helped.
    pub fn client_got_file(&mut self, mac: Mac) {
        self.clients.goes_on(mac);
    }

    /// The siblings on an interface that were heard lately: the nodes that a script can name beside this one.
    pub fn siblings(&self, now: Duration, interface: u32) -> impl Iterator<Item = &Sibling> {
        self.siblings.on(now, interface)
    }

    /// How often something happened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much is remembered.
    #[must_use]
    pub fn remembered(&self) -> Remembered {
        Remembered { clients: self.clients.len(), leases: self.leases.len() }
    }

    /// When [`Responder::on_time`] is to be called next; none while nobody is answered.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        if self.is_off() {
            return None;
        }
        self.clients.due().into_iter().chain(self.segments.due()).min()
    }

    fn is_off(&self) -> bool {
        self.table.mode == super::table::Mode::Off
    }

    /// A DHCP message came.
    pub fn on_packet(&mut self, now: Duration, received: &Received<'_>, out: &mut Vec<Output>) {
        self.counters.received += 1;
        let Ok(packet) = Packet::parse(received.bytes) else {
            self.counters.malformed += 1;
            return;
        };
        if self.is_off() || received.own.is_unspecified() || is_probe(&packet) {
            self.counters.ignored += 1;
            return;
        }
        if packet.op == Op::Reply {
            return self.on_reply(now, received, &packet);
        }
        let Some(client) = Client::of(&packet) else {
            self.counters.ignored += 1;
            return;
        };
        let message = Message::of(&packet);
        let Received { interface, own, from, port, .. } = *received;
        let asked = Asked { interface, own, from, port, at: now, packet, client };
        match (port, message) {
            (SERVER_PORT, Some(Message::Discover)) => self.on_discover(now, asked, out),
            (PXE_PORT, Some(Message::Request)) => self.on_boot_request(now, &asked, out),
            (SERVER_PORT, Some(message)) => self.on_other(now, message, &asked, out),
            _ => self.counters.ignored += 1,
        }
    }

    /// A server's answer, to a client or to a probe.
    fn on_reply(&mut self, now: Duration, received: &Received<'_>, packet: &Packet) {
        self.counters.ignored += 1;
        let server = packet.options.address(Code::SERVER).unwrap_or(*received.from.ip());
        for what in gives(packet).filter(|_| server != received.own) {
            self.heard_server(now, received.interface, server, what);
        }
    }

    fn heard_server(&mut self, now: Duration, interface: u32, server: Ipv4Addr, what: Foreign) {
        let wanted = what == Foreign::Boot || self.table.pool().is_some();
        if wanted && !server.is_unspecified() && !self.is_own(server) {
            self.segments.heard(now, interface, server, what);
        }
    }

    fn is_own(&self, address: Ipv4Addr) -> bool {
        self.segments.links().any(|link| link.own == address)
    }

    /// A beacon came.
    pub fn on_beacon(&mut self, now: Duration, interface: u32, from: Ipv4Addr, bytes: &[u8]) {
        let Some(beacon) = Beacon::parse(bytes) else { return };
        let table = &self.table;
        if beacon.cluster != table.cluster
            || beacon.node == table.node
            || !table.members.contains(&beacon.node)
        {
            return;
        }
        self.counters.beacons += 1;
        self.siblings.heard(now, interface, from, &beacon);
        if let Kind::Claim { mac, xid, address } = beacon.kind {
            let yielded = self.clients.claim(now, mac, xid, beacon.node);
            self.counters.yielded += u64::from(yielded);
            if let (Some(pool), Some(address)) = (self.table.pool(), address) {
                self.leases.offered_elsewhere(now, pool, mac, address);
            }
        }
    }

    /// A client looks for servers.
    fn on_discover(&mut self, now: Duration, asked: Asked, out: &mut Vec<Output>) {
        let client = asked.client;
        let Some(machine) = self.table.machine(client.mac) else {
            self.counters.ignored += 1;
            return;
        };
        let gives = self.gives_addresses(now, &asked);
        let start = self.start(&client);
        if start.is_none() && client.boots() {
            self.say_why_not(now, &client, machine.wants, out);
        } else if !gives && self.table.pool().is_some() && !client.boots() {
            let reason = Reason::ForeignDhcp;
            self.say(now, Event::NotServed { mac: client.mac, reason }, out);
        }
        if start.is_none() && !gives {
            self.counters.ignored += 1;
            return;
        }
        let named = self.table.machines.contains_key(&client.mac);
        let (heard, series) = self.clients.heard(now, &client, machine.assignment, named);
        let (answered, claimed) = (series.is_answered(), series.is_claimed());
        let attempt = series.attempt;
        let suspect = series.is_suspect();
        if heard != Heard::Same {
            self.say(now, discover(&client), out);
        }
        if suspect {
            let event = Event::RepeatedWithoutBoot { mac: client.mac, secs: client.secs };
            self.say(now, event, out);
        }
        let rank = self.rank(now, &asked, machine.assignment, attempt);
        if claimed && rank > 0 {
            self.counters.yielded += 1;
        } else if rank == 0 || answered {
            self.offer(now, &asked, rank, out);
        } else {
            let until = now.saturating_add(STEP.saturating_mul(rank.min(RANKS)));
            if let Some(series) = self.clients.get_mut(client.mac) {
                series.wait(until, asked);
            }
        }
    }

    fn rank(&self, now: Duration, asked: &Asked, assignment: Hash, attempt: u32) -> u32 {
        let about = (asked.client.mac, assignment);
        self.siblings.rank(now, asked.interface, self.table.node, about, attempt)
    }

    /// What a client is told to start.
    fn start(&self, client: &Client) -> Option<Start> {
        let machine = self.table.machine(client.mac)?;
        (machine.wants == Wants::Scout).then(|| self.table.artefacts.for_client(client))?
    }

    fn say_why_not(&mut self, now: Duration, client: &Client, wants: Wants, out: &mut Vec<Output>) {
        let mac = client.mac;
        let have = &self.table.artefacts.0;
        let event = match client.family() {
            _ if wants == Wants::Disk => Event::NotServed { mac, reason: Reason::Disk },
            Some(family) if have.contains_key(&family) => {
                Event::NotServed { mac, reason: Reason::NoFile }
            }
            _ => Event::WrongArchitecture {
                mac,
                architecture: client.architecture,
                have: have.keys().copied().collect(),
            },
        };
        self.say(now, event, out);
    }

    /// Makes an offer, and says so to the siblings.
    fn offer(&mut self, now: Duration, asked: &Asked, rank: u32, out: &mut Vec<Output>) {
        let (mac, xid) = (asked.client.mac, asked.client.xid);
        let address = self.choose_address(now, asked, out);
        if !self.send(asked, Message::Offer, address, out) {
            return;
        }
        self.counters.offers += 1;
        let claim = self.beacon(Kind::Claim { mac, xid, address });
        out.push(Output::Beacon { interface: asked.interface, bytes: claim });
        let after_ms = now.saturating_sub(asked.at).as_millis();
        let after_ms = u64::try_from(after_ms).unwrap_or(u64::MAX);
        self.say(now, Event::Offered { mac, rank, after_ms, address }, out);
        if let Some(series) = self.clients.get_mut(mac) {
            series.answered();
        }
    }

    /// A client asks this node, or another, for its boot file.
    fn on_boot_request(&mut self, now: Duration, asked: &Asked, out: &mut Vec<Output>) {
        let mac = asked.client.mac;
        let other = asked.packet.options.address(Code::SERVER).filter(|s| *s != asked.own);
        if let Some(server) = other {
            self.counters.ignored += 1;
            return self.heard_server(now, asked.interface, server, Foreign::Boot);
        }
        self.clients.goes_on(mac);
        if self.start(&asked.client).is_some() && self.send(asked, Message::Ack, None, out) {
            self.counters.acks += 1;
            self.say(now, Event::Requested { mac }, out);
        } else {
            self.counters.ignored += 1;
        }
    }

    /// Sends an answer; not where it would say nothing.
    fn send(
        &self,
        asked: &Asked,
        message: Message,
        address: Option<Ipv4Addr>,
        out: &mut Vec<Output>,
    ) -> bool {
        let (request, client) = (&asked.packet, &asked.client);
        let start = self.start(client);
        if start.is_none() && address.is_none() {
            return false;
        }
        let mut reply = answer::reply(request, message, asked.own);
        if message == Message::Ack {
            reply.ciaddr = request.ciaddr;
        }
        if let (Some(pool), Some(address)) = (self.table.pool(), address) {
            answer::add_address(&mut reply, request, client, pool, address);
        }
        if let Some(start) = start {
            let style = self.table.machine(client.mac).map(|m| m.style).unwrap_or_default();
            let server = Server { own: asked.own, http_port: self.table.http_port };
            answer::add_boot(&mut reply, request, client, server, &start, style);
        }
        out.push(output(asked, &reply));
        true
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.is_off() {
            return;
        }
        while let Some(asked) = self.clients.take_due(now) {
            let mac = asked.client.mac;
            // what the table said when the question came may have changed
            if let Some(machine) = self.table.machine(mac) {
                let attempt = self.clients.get_mut(mac).map_or(0, |s| s.attempt);
                let rank = self.rank(now, &asked, machine.assignment, attempt);
                self.offer(now, &asked, rank, out);
            }
        }
        let isolated = self.table.pool().is_some();
        while let Some((link, due)) = self.segments.take_due(now, isolated) {
            out.push(match due {
                Due::Hello => {
                    let bytes = self.beacon(Kind::Hello);
                    Output::Beacon { interface: link.interface, bytes }
                }
                Due::Probe => self.probe(&link),
            });
        }
        let siblings = &self.siblings;
        while let Some((interface, address, what)) =
            self.segments.take_foreign(now, |a| siblings.has_address(now, a))
        {
            let event = Event::ForeignServer { interface, address, what };
            if self.limiter.allows(now, &event) {
                out.push(Output::Event(event));
            }
        }
        self.siblings.retain(now, |_| true);
    }

    fn probe(&mut self, link: &Link) -> Output {
        self.probes = self.probes.wrapping_add(1);
        let parts = [&self.seed.to_be_bytes()[..], &self.probes.to_be_bytes()];
        let Hash([a, b, c, d, ..]) = Hash::of_parts("p2pinst dhcp probe", &parts);
        Output::Send {
            interface: link.interface,
            port: CLIENT_PORT,
            to: SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT),
            bytes: probe(u32::from_be_bytes([a, b, c, d]), link.mac),
        }
    }

    fn beacon(&self, kind: Kind) -> Vec<u8> {
        let Table { cluster, node, node_port, http_port, .. } = self.table;
        Beacon { cluster, node, node_port, http_port, kind }.encode()
    }

    fn say(&mut self, now: Duration, event: Event, out: &mut Vec<Output>) {
        if self.limiter.allows(now, &event) {
            out.push(Output::Event(event));
        } else {
            self.counters.unsaid += 1;
        }
    }

    /// The addresses that are this node's or a sibling's.
    fn taken(&self, now: Duration, asked: &Asked) -> BTreeSet<Ipv4Addr> {
        let siblings = self.siblings.on(now, asked.interface).map(|s| s.address);
        self.segments.links().map(|l| l.own).chain(siblings).chain([asked.own]).collect()
    }
}

fn discover(client: &Client) -> Event {
    let Client { mac, uuid, program, architecture, secs, .. } = *client;
    Event::Discover { mac, uuid, program, architecture, secs }
}

fn output(asked: &Asked, reply: &Packet) -> Output {
    let to = answer::destination(&asked.packet, reply, asked.from, asked.port);
    let (interface, port) = (asked.interface, asked.port);
    Output::Send { interface, port, to, bytes: reply.encode() }
}

#[cfg(test)]
mod tests;
