//! What the scout is told on the kernel's command line. Pure.
//!
//! Everything here is a hint from somebody on the segment: it says whom to ask, and decides nothing about trust.

use std::net::{IpAddr, SocketAddr};

/// Port of the boot service's HTTP, where a hint names none.
pub const HTTP_PORT: u16 = crate::service::HTTP_PORT;
/// More hints than this are not looked at.
const PEERS_MAX: usize = 16;

/// The arguments of the scout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootArgs {
    /// `p2pinst.peer=ADDRESS[:PORT]`, also several times or separated by commas: peers to ask first, in this order.
    pub peers: Vec<SocketAddr>,
    /// `p2pinst.debug`: say more on the console.
    pub debug: bool,
    /// `p2pinst.shell`: offer a shell on the console.
    pub shell: bool,
    /// Values that were no address, for a word on the console.
    pub ignored: Vec<String>,
}

impl BootArgs {
    /// Reads `/proc/cmdline`. What is not the scout's is left alone.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let mut args = Self::default();
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("p2pinst.peer", values)) => args.add_peers(values),
                Some(("p2pinst.debug", value)) => args.debug = value != "0",
                Some(("p2pinst.shell", value)) => args.shell = value != "0",
                None if word == "p2pinst.debug" => args.debug = true,
                None if word == "p2pinst.shell" => args.shell = true,
                _ => {}
            }
        }
        args
    }

    fn add_peers(&mut self, values: &str) {
        for value in values.split(',').filter(|value| !value.is_empty()) {
            match peer(value) {
                Some(peer) if self.peers.len() < PEERS_MAX && !self.peers.contains(&peer) => {
                    self.peers.push(peer);
                }
                None if self.ignored.len() < PEERS_MAX => {
                    self.ignored.push(value.chars().take(64).collect());
                }
                _ => {}
            }
        }
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]`, `[ADDRESS]:PORT` of one machine.
pub(crate) fn peer(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let peer = match bare.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, HTTP_PORT),
        Err(_) => text.parse().ok()?,
    };
    let address = peer.ip();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let one = !address.is_unspecified() && !address.is_multicast() && !broadcast;
    (one && peer.port() != 0).then_some(peer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_the_scouts_is_read() {
        let line = "BOOT_IMAGE=vmlinuz console=ttyS0 p2pinst.peer=10.0.0.7 p2pinst.peer=10.0.0.8:8080,[fd00::1],fd00::2,[fd00::3]:81 p2pinst.debug quiet\n";
        let args = BootArgs::parse(line);
        let peers: Vec<_> = args.peers.iter().map(ToString::to_string).collect();
        let want =
            ["10.0.0.7:4080", "10.0.0.8:8080", "[fd00::1]:4080", "[fd00::2]:4080", "[fd00::3]:81"];
        assert_eq!(peers, want);
        assert!(args.debug && !args.shell && args.ignored.is_empty());
        assert!(BootArgs::parse("p2pinst.shell").shell);
        assert!(!BootArgs::parse("p2pinst.shell=0 xp2pinst.debug").shell);
    }

    #[test]
    fn what_is_no_machine_is_named() {
        let args = BootArgs::parse(
            "p2pinst.peer=0.0.0.0,224.0.0.1,255.255.255.255,name,10.0.0.1:0,10.0.0.1,10.0.0.1",
        );
        assert_eq!(args.peers.len(), 1);
        assert_eq!(args.ignored.len(), 5);
    }

    proptest! {
        #[test]
        fn every_line_is_bounded(line in "(.|p2pinst.peer=[0-9.:,]{0,20} )*") {
            let args = BootArgs::parse(&line);
            prop_assert!(args.peers.len() <= PEERS_MAX && args.ignored.len() <= PEERS_MAX);
        }
    }
}
