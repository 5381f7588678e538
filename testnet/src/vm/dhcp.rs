//! The site's DHCP server, which knows nothing of p2pinst: dnsmasq, in a namespace of its own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_types::mac::Mac;

use super::segment::Segment;
use super::service::Service;
use crate::net::{Host, SUBNET};
use crate::wait::eventually;

/// It serves within this time after its start.
const READY: Duration = Duration::from_secs(10);

/// The addresses that a server gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

/// What it says of booting, beside addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// Nothing.
    Nothing,
    /// A file by TFTP from itself to every PXE client: a competing server.
    Tftp {
        /// Where its files are.
        root: PathBuf,
        /// The file.
        file: String,
    },
    /// URLs.
    Http {
        /// A script for iPXE.
        script: String,
        /// An EFI program for UEFI HTTP Boot.
        program: String,
    },
}

/// An address that it has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// To whom.
    pub mac: Mac,
    /// Which.
    pub ip: Ipv4Addr,
}

/// A DHCP server that is not ours.
#[derive(Debug)]
pub struct ForeignDhcp {
    host: Host,
    service: Service,
    leases: PathBuf,
}

impl ForeignDhcp {
    /// Starts one at an address of the segment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        segment: &Segment,
        name: &str,
        ip: Ipv4Addr,
        range: Range,
        offer: &Offer,
    ) -> Result<Self> {
        let host = segment.guest(name, ip)?;
        let dir = segment.make_dir(name)?;
        let leases = dir.join("leases");
        let file = dir.join("dnsmasq.conf");
        fs::write(&file, settings(range, offer, &leases))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let exec = host.exec("dnsmasq").args(["--keep-in-foreground", "--log-facility=-"]);
        let exec = exec.arg(format!("--conf-file={}", file.display()));
        let mut service = Service::start(&exec, &dir.join("log"))?;
        let log = dir.join("log");
        service.ready(READY, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            ensure!(said.contains("DHCP, IP range"), "it says: {said}");
            Ok(())
        })?;
        Ok(Self { host, service, leases })
    }

    /// Where it is.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The addresses that it has given.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        let text = fs::read_to_string(&self.leases).unwrap_or_default();
        text.lines().filter_map(lease).collect()
    }

    /// Waits until a machine has an address from it.
    ///
    /// # Errors
    /// When it has none within this time.
    pub fn wait_for_lease(&self, mac: Mac, within: Duration) -> Result<Ipv4Addr> {
        eventually(within, &format!("{mac} has an address"), || {
            let lease = self.leases().into_iter().find(|lease| lease.mac == mac);
            lease.map(|lease| lease.ip).with_context(|| format!("the server says: {}", self.log()))
        })
    }

    /// What it says: each packet, and what it answered.
    #[must_use]
    pub fn log(&self) -> String {
        self.service.log()
    }

    /// Makes it hang, or go on.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.service.freeze(frozen)
    }
}

/// A line of dnsmasq's file: when it ends, the hardware address, the address, the name, the client's identifier.
fn lease(line: &str) -> Option<Lease> {
    let mut words = line.split(' ').skip(1);
    Some(Lease { mac: words.next()?.parse().ok()?, ip: words.next()?.parse().ok()? })
}

fn settings(range: Range, offer: &Offer, leases: &Path) -> String {
    let mask = if SUBNET.ends_with("/16") { "255.255.0.0" } else { "255.255.255.0" };
    let Range { first, last } = range;
    let mut text = format!(
        "port=0\ninterface=eth0\nbind-interfaces\nno-ping\nlog-dhcp\nuser=root\nno-resolv\nno-hosts\n\
         pid-file=\ndhcp-authoritative\ndhcp-range={first},{last},{mask},1h\n\
         dhcp-leasefile={}\n",
        leases.display()
    );
    match offer {
        Offer::Nothing => {}
        Offer::Tftp { root, file } => {
            let root = root.display();
            text += &format!("enable-tftp\ntftp-root={root}\ndhcp-boot={file}\n");
        }
        Offer::Http { script, program } => {
            // iPXE names itself by option 175, UEFI HTTP Boot by architecture 16 (RFC 4578, and IANA's list)
            text += &format!(
                "dhcp-match=set:ipxe,175\ndhcp-match=set:http,option:client-arch,16\n\
                 dhcp-boot=tag:ipxe,{script}\ndhcp-boot=tag:!ipxe,tag:http,{program}\n\
                 dhcp-option-force=tag:!ipxe,tag:http,60,HTTPClient\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read() {
        let line = "1700000000 52:54:00:77:00:01 10.77.200.7 * 01:52:54:00:77:00:01";
        let read = lease(line).unwrap();
        assert_eq!(
            (read.mac.to_string().as_str(), read.ip),
            ("52:54:00:77:00:01", [10, 77, 200, 7].into())
        );
        assert!(lease("duid 00:01").is_none());
    }

    #[test]
    fn a_plain_server_says_nothing_of_booting() {
        let range = Range { first: [10, 77, 200, 1].into(), last: [10, 77, 200, 9].into() };
        let text = settings(range, &Offer::Nothing, Path::new("/x"));
        assert!(
            !text.contains("boot")
                && text.contains("dhcp-range=10.77.200.1,10.77.200.9,255.255.0.0")
        );
    }
}
