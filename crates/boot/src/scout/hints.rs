//! Where the scout came from, and so whom it asks first. Pure.
//!
//! The kernel's arguments name peers only where an iPXE script made them; the image for UEFI has a fixed command line. Where firmware
//! loaded that by HTTP, the stub of systemd 258 and later keeps the URL in the variable `LoaderDeviceURL`; that of Debian 12 (252)
//! keeps nothing. Otherwise the next server of the DHCP lease (`siaddr`) is asked, which is the boot server where the site's
//! DHCP points to one, and the beacon of a peer (UDP port [`BEACON_PORT`]) is listened for. All of these are hints.

use std::net::SocketAddr;

use super::boot_args::{BootArgs, peer};

/// Where peers with the boot service say that they are there.
pub const BEACON_PORT: u16 = crate::service::BEACON_PORT;
/// Where [`init`](super) leaves what it found.
pub const RUN_DIR: &str = "/run/scout";
/// More of a lease than this is not read.
const LINES_MAX: usize = 64;
/// Longer than any device path that firmware writes.
const LOADER_MAX: usize = 4096;

/// How a peer became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `p2pinst.peer` on the kernel's command line.
    Argument,
    /// The URL that firmware loaded the image from.
    Loader,
    /// The next server of a DHCP lease.
    Lease,
}

/// A peer that may have the boot service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Its HTTP.
    pub peer: SocketAddr,
    /// Who said so.
    pub source: Source,
}

/// A DHCP lease, as `/run/scout/net/LINK.lease` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// The machine's own address.
    pub ip: Option<std::net::Ipv4Addr>,
    /// Who gave the lease.
    pub server: Option<std::net::Ipv4Addr>,
    /// The next server in the boot process.
    pub next_server: Option<std::net::Ipv4Addr>,
    /// What the site calls this machine.
    pub hostname: Option<String>,
}

impl Lease {
    /// Reads lines `key=value`; what is unknown is left alone.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut lease = Self::default();
        for (key, value) in text.lines().take(LINES_MAX).filter_map(|line| line.split_once('=')) {
            let address =
                || value.parse().ok().filter(|a: &std::net::Ipv4Addr| !a.is_unspecified());
            match key {
                "ip" => lease.ip = address(),
                "serverid" => lease.server = address(),
                "siaddr" => lease.next_server = address(),
                "hostname" => lease.hostname = Some(value.to_owned()),
                _ => {}
            }
        }
        lease
    }
}

/// Whom to ask, best first, each once.
#[must_use]
pub fn gather(args: &BootArgs, loader: Option<&[u8]>, leases: &[Lease]) -> Vec<Hint> {
    let argued = args.peers.iter().map(|peer| Hint { peer: *peer, source: Source::Argument });
    let loaded = loader.and_then(loader_peer).map(|peer| Hint { peer, source: Source::Loader });
    let leased = leases.iter().filter_map(|lease| lease.next_server).filter_map(|address| {
        Some(Hint { peer: peer(&address.to_string())?, source: Source::Lease })
    });
    let mut hints: Vec<Hint> = Vec::new();
    for hint in argued.chain(loaded).chain(leased) {
        if hints.iter().all(|there| there.peer != hint.peer) {
            hints.push(hint);
        }
    }
    hints
}

/// The machine of the URL in a variable `LoaderDeviceURL`: four bytes of attributes, then text in UTF-16, the URL alone or
/// the last node of a device path, `Uri(http://10.0.0.1/scout.efi)`.
#[must_use]
pub fn loader_peer(variable: &[u8]) -> Option<SocketAddr> {
    let (units, _) = variable.get(4..)?.as_chunks();
    let units = units.iter().take(LOADER_MAX).map(|unit| u16::from_le_bytes(*unit));
    let path: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect();
    let rest = path.rsplit_once("http://").map(|(_, rest)| rest)?;
    peer(rest.split(['/', '\\', ')', '\0']).next()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(path: &str) -> Vec<u8> {
        let mut bytes = vec![6, 0, 0, 0];
        bytes.extend(path.encode_utf16().flat_map(u16::to_le_bytes));
        bytes
    }

    #[test]
    fn firmware_says_from_where_it_loaded() {
        let path = "PciRoot(0x0)/Pci(0x2,0x0)/MAC(525400770001,0x1)/IPv4(0.0.0.0,0x0,DHCP,0.0.0.0,0.0.0.0,0.0.0.0)/Uri(http://10.77.0.1:8080/b/scout.efi)\0";
        let peer = loader_peer(&variable(path)).unwrap();
        assert_eq!(peer.to_string(), "10.77.0.1:8080");
        assert_eq!(loader_peer(&variable("HD(1,GPT)/\\EFI\\BOOT\\BOOTX64.EFI")), None);
        assert_eq!(loader_peer(b"x"), None);
    }

    #[test]
    fn each_peer_is_asked_once() {
        let lease =
            Lease::parse("ip=10.0.0.9\nsiaddr=10.0.0.1\nserverid=10.0.0.254\nhostname=n1\nx\n");
        assert_eq!(lease.hostname.as_deref(), Some("n1"));
        assert_eq!(lease.server.unwrap().to_string(), "10.0.0.254");
        let none = Lease::parse("siaddr=0.0.0.0\n");
        let args = BootArgs::parse("p2pinst.peer=10.0.0.1");
        let loader = variable("Uri(http://10.0.0.2/x)");
        let hints = gather(&args, Some(&loader), &[lease, none]);
        let sources: Vec<_> = hints.iter().map(|hint| hint.source).collect();
        assert_eq!(sources, [Source::Argument, Source::Loader]);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "(.|\n)*") {
            let _any = loader_peer(&bytes);
            let _any = loader_peer(&variable(&format!("http://{text}")));
            let _any = Lease::parse(&text);
        }
    }
}
