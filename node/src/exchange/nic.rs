//! The network interface towards the peers: what it says of its speed, and what it has carried.
//!
//! Speeds are of payload: an interface counts headers too. Read from `/proc` and `/sys`; where
//! these say nothing, nothing is known.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

/// What TCP over IPv4 gets of a link's bytes, with full frames (measured).
const PAYLOAD: (u64, u64) = (9_564, 10_000);

/// The payload in so many bytes on the wire.
fn payload(bytes: u64) -> u64 {
    let scaled = u128::from(bytes) * u128::from(PAYLOAD.0) / u128::from(PAYLOAD.1);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nic(String);

/// Bytes of payload that an interface has carried since it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carried {
    /// From others.
    pub(super) received: u64,
    /// To others.
    pub(super) sent: u64,
}

impl Nic {
    /// The interface on which the route to an address goes; `None` of this machine itself.
    pub(super) fn towards(address: Ipv4Addr) -> Option<Self> {
        if address.is_loopback() || address.is_unspecified() {
            return None;
        }
        route(&fs::read_to_string("/proc/net/route").ok()?, address).map(Self)
    }

    /// What it can carry each way, in bytes of payload per second. A virtual interface says
    /// something about its speed, but that means nothing.
    pub(super) fn speed(&self) -> Option<u64> {
        let dir = Path::new("/sys/class/net").join(&self.0);
        if !dir.join("device").exists() {
            return None;
        }
        let mbit: u64 = fs::read_to_string(dir.join("speed")).ok()?.trim().parse().ok()?;
        // some drivers say 2^32 - 1 for what they do not know
        (mbit > 0 && mbit < u64::from(u32::MAX)).then(|| payload(mbit * 1_000_000 / 8))
    }

    /// What it has carried.
    pub(super) fn carried(&self) -> Option<Carried> {
        carried(&fs::read_to_string("/proc/net/dev").ok()?, &self.0)
    }
}

/// The interface of the longest prefix, and of these of the least metric.
fn route(table: &str, address: Ipv4Addr) -> Option<String> {
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    // the kernel prints addresses as this machine's numbers
    let address = u32::from_ne_bytes(address.octets());
    let routes = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        let destination = hex(fields.next()?)?;
        let up = hex(fields.nth(1)?)? & 1 == 1;
        let metric: u32 = fields.nth(2)?.parse().ok()?;
        let mask = hex(fields.next()?)?;
        (up && address & mask == destination).then_some((mask.count_ones(), metric, name))
    });
    let best = routes.max_by_key(|(bits, metric, _)| (*bits, std::cmp::Reverse(*metric)));
    best.map(|(_, _, name)| name.to_owned())
}

fn carried(table: &str, name: &str) -> Option<Carried> {
    let (_, counts) = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(interface, _)| interface.trim() == name)?;
    let mut counts = counts.split_ascii_whitespace().map(|n| n.parse::<u64>().ok());
    let received = payload(counts.next()??);
    Some(Carried { received, sent: payload(counts.nth(7)??) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_that_of_the_longest_prefix() {
        // as a little-endian machine prints it
        let hex = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let line = |name: &str, to: [u8; 4], mask: [u8; 4], flags: &str, metric: u32| {
            format!(
                "{name}\t{}\t00000000\t{flags}\t0\t0\t{metric}\t{}\t0\t0\t0\n",
                hex(to),
                hex(mask)
            )
        };
        let mut table = "Iface Destination Gateway Flags ...\n".to_owned();
        table += &line("wlan0", [0; 4], [0; 4], "0003", 600);
        table += &line("eth0", [0; 4], [0; 4], "0003", 100);
        table += &line("eth1", [10, 0, 0, 0], [255, 0, 0, 0], "0001", 0);
        table += &line("eth2", [10, 7, 0, 0], [255, 255, 0, 0], "0000", 0);
        let to = |address| route(&table, address);
        assert_eq!(to(Ipv4Addr::new(10, 7, 0, 1)), Some("eth1".to_owned()), "eth2 is down");
        assert_eq!(to(Ipv4Addr::new(192, 0, 2, 1)), Some("eth0".to_owned()));
        assert_eq!(route("", Ipv4Addr::new(10, 7, 0, 1)), None);
        assert_eq!(Nic::towards(Ipv4Addr::LOCALHOST), None);
    }

    #[test]
    fn counters_are_read() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
                     eth0:20000 2 0 0 0 0 0 0 10000 9 0 0 0 0 0 0\n";
        assert_eq!(carried(table, "eth0"), Some(Carried { received: 19_128, sent: 9_564 }));
        assert_eq!(carried(table, "eth1"), None);
    }
}
