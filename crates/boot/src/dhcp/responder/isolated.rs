//! Addresses on a segment that has no other DHCP server (RFC 2131).
//!
//! A segment with relays is none: what comes by a relay is told its boot file alone.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Asked, Output, Responder, output};
use crate::dhcp::answer;
use crate::dhcp::client::Message;
use crate::dhcp::event::{Event, Foreign, Reason};
use crate::dhcp::packet::{Code, Packet};

impl Responder {
    /// Whether a client is given an address.
    pub(super) fn gives_addresses(&self, now: Duration, asked: &Asked) -> bool {
        self.table.pool().is_some()
            && asked.client.relay.is_none()
            && self.segments.is_isolated(now, asked.interface, |address| {
                self.siblings.has_address(now, address)
            })
    }

    /// The address that a client is offered.
    pub(super) fn choose_address(
        &mut self,
        now: Duration,
        asked: &Asked,
        out: &mut Vec<Output>,
    ) -> Option<Ipv4Addr> {
        if !self.gives_addresses(now, asked) {
            return None;
        }
        let taken = self.taken(now, asked);
        let mac = asked.client.mac;
        let address = self.leases.offer(now, self.table.pool()?, &taken, mac);
        if address.is_none() {
            self.say(now, Event::NotServed { mac, reason: Reason::NoAddress }, out);
        }
        address
    }

    /// What a client says on port 67 after it has found its servers.
    pub(super) fn on_other(
        &mut self,
        now: Duration,
        message: Message,
        asked: &Asked,
        out: &mut Vec<Output>,
    ) {
        let mac = asked.client.mac;
        let server = asked.packet.options.address(Code::SERVER);
        match message {
            Message::Request => {
                self.clients.goes_on(mac);
                self.on_request(now, asked, server, out);
            }
            Message::Release => self.leases.release(mac, asked.packet.ciaddr),
            Message::Decline => {
                let address = asked.packet.options.address(Code::REQUESTED);
                if let Some(address) = address.filter(|a| self.leases.decline(now, mac, *a)) {
                    self.say(now, Event::Declined { mac, address }, out);
                }
            }
            _ => self.counters.ignored += 1,
        }
    }

    /// A client takes an offer, or wants to keep the address that it has.
    fn on_request(
        &mut self,
        now: Duration,
        asked: &Asked,
        server: Option<Ipv4Addr>,
        out: &mut Vec<Output>,
    ) {
        let mac = asked.client.mac;
        let has = Some(asked.packet.ciaddr).filter(|a| !a.is_unspecified());
        let wanted = asked.packet.options.address(Code::REQUESTED).or(has);
        let taken = self.taken(now, asked);
        let other = server.filter(|s| *s != asked.own);
        if let (Some(pool), Some(other), Some(wanted)) = (self.table.pool(), other, wanted)
            && self.siblings.has_address(now, other)
        {
            // what a sibling gave is its machine's here too
            self.leases.take(now, pool, &taken, mac, wanted);
        } else if let Some(other) = other {
            self.heard_server(now, asked.interface, other, Foreign::Addresses);
        }
        let (None, Some(wanted), true) = (other, wanted, self.gives_addresses(now, asked)) else {
            self.counters.ignored += 1;
            return;
        };
        let Some(pool) = self.table.pool() else { return };
        if self.leases.take(now, pool, &taken, mac, wanted) {
            self.send(asked, Message::Ack, Some(wanted), out);
            self.counters.acks += 1;
            self.say(now, Event::Leased { mac, address: wanted }, out);
        } else {
            let refusal = self.refusal(asked);
            out.push(output(asked, &refusal));
            self.counters.naks += 1;
        }
    }

    /// A refusal, to everybody: the client's address is none of its own (RFC 2131, section 4.3.2).
    fn refusal(&self, asked: &Asked) -> Packet {
        let mut refusal = answer::reply(&asked.packet, Message::Nak, asked.own);
        refusal.ask_broadcast();
        refusal
    }
}
