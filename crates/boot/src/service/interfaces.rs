//! The interfaces that the boot service faces.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use p2pinst_types::Mac;

/// Interfaces that are faced at once: each has sockets of its own.
const MAX: usize = 64;

/// An interface with IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its name.
    pub(super) name: String,
    /// Its number, which packets are told by.
    pub(super) index: u32,
    /// Its hardware address; zeros where it has none.
    pub(super) mac: Mac,
    /// Its addresses, the first one first.
    pub(super) addresses: Vec<Ipv4Addr>,
}

impl Interface {
    /// The address that others are told.
    pub(super) fn own(&self) -> Ipv4Addr {
        self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}

/// The interfaces that are up and have an IPv4 address: the named ones, or all that broadcast.
///
/// # Errors
/// When the system does not say.
pub(super) fn scan(wanted: Option<&[String]>) -> io::Result<Vec<Interface>> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let mut macs = BTreeMap::new();
    for entry in getifaddrs()? {
        // an address may have a label of its own: eth0:1
        let name = entry.interface_name.split(':').next().unwrap_or_default();
        let flags = entry.flags;
        let faces = match wanted {
            Some(names) => names.iter().any(|n| n == name),
            None => {
                flags.contains(InterfaceFlags::IFF_BROADCAST)
                    && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
            }
        };
        if let Some(mac) = entry.address.as_ref().and_then(|a| a.as_link_addr()?.addr()) {
            macs.insert(name.to_owned(), Mac(mac));
        }
        let address = entry.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| a.ip());
        let Some(address) = address.filter(|_| faces && flags.contains(InterfaceFlags::IFF_UP))
        else {
            continue;
        };
        if let Some(interface) = found.get_mut(name) {
            interface.addresses.push(address);
        } else if found.len() < MAX {
            // it may have gone since
            let Ok(index) = if_nametoindex(name) else { continue };
            let (name, mac, addresses) = (name.to_owned(), Mac([0; 6]), vec![address]);
            let interface = Interface { name, index, mac, addresses };
            found.insert(interface.name.clone(), interface);
        }
    }
    let with_mac = found.into_values().map(|mut interface| {
        interface.mac = macs.get(&interface.name).copied().unwrap_or(interface.mac);
        interface
    });
    Ok(with_mac.collect())
}

/// Whether `now` has an interface or an address that `then` had not.
pub(super) fn gained(then: &[Interface], now: &[Interface]) -> bool {
    now.iter().any(|n| {
        let same = then.iter().find(|t| t.name == n.name && t.index == n.index);
        same.is_none_or(|t| n.addresses.iter().any(|a| !t.addresses.contains(a)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_faced_when_it_is_named() {
        let all = scan(None).unwrap();
        assert!(all.iter().all(|i| i.name != "lo" && !i.own().is_loopback()), "{all:?}");
        let lo = scan(Some(&["lo".to_owned()])).unwrap();
        assert_eq!((lo.len(), lo[0].own()), (1, Ipv4Addr::LOCALHOST));
        assert!(scan(Some(&["none".to_owned()])).unwrap().is_empty());
    }

    #[test]
    fn what_is_new_counts_and_what_is_gone_does_not() {
        let at = |name: &str, index, last: &[u8]| Interface {
            name: name.into(),
            index,
            mac: Mac([0; 6]),
            addresses: last.iter().map(|l| Ipv4Addr::new(192, 0, 2, *l)).collect(),
        };
        let then = [at("a", 1, &[1, 2]), at("b", 2, &[3])];
        assert!(!gained(&then, &then) && !gained(&then, &then[..1]) && !gained(&then, &[]));
        assert!(gained(&then, &[at("a", 9, &[1])]), "the name of another");
        assert!(gained(&then, &[at("a", 1, &[1, 7])]));
        assert!(gained(&then, &[at("c", 3, &[1])]));
    }
}
