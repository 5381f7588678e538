//! The kernel's table of neighbours (ARP), read through a file that was opened before the root directory changed.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::Ipv4Addr;

use p2pinst_types::Mac;

/// How much of the table is read: 16,000 neighbours.
const MAX: u64 = 1 << 20;

/// The table of neighbours.
#[derive(Debug)]
pub(super) struct Neighbours(File);

impl Neighbours {
    pub(super) fn open() -> io::Result<Self> {
        File::open("/proc/net/arp").map(Self)
    }

    /// The hardware address that the kernel sends to for this address; none for one beyond a router.
    pub(super) fn mac(&mut self, address: Ipv4Addr) -> Option<Mac> {
        let mut text = String::new();
        self.0.rewind().ok()?;
        self.0.by_ref().take(MAX).read_to_string(&mut text).ok()?;
        find(&text, address)
    }
}

/// `IP address  HW type  Flags  HW address  Mask  Device`
fn find(table: &str, address: Ipv4Addr) -> Option<Mac> {
    let row = table.lines().skip(1).find_map(|row| {
        let mut words = row.split_whitespace();
        let of = words.next()?.parse::<Ipv4Addr>().ok()?;
        words.nth(2).filter(|_| of == address)
    });
    row?.parse().ok().filter(|mac| *mac != Mac([0; 6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found() {
        let table = "\
IP address       HW type     Flags       HW address            Mask     Device
192.0.2.1        0x1         0x2         52:54:00:12:34:56     *        eth0
192.0.2.2        0x1         0x0         00:00:00:00:00:00     *        eth0
";
        let mac = |last| find(table, Ipv4Addr::new(192, 0, 2, last));
        assert_eq!(mac(1), Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        assert_eq!((mac(2), mac(3)), (None, None));
    }
}
