//! Wake-on-LAN: a magic packet by UDP, from a node on the machine's own segment. Nobody answers, so nothing is ever known.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use p2pinst_types::mac::Mac;
use socket2::{Domain, Protocol, Socket, Type};

use super::action::{Boot, BootDevice, PowerState, Switch};
use super::controller::{Controller, Wol};
use super::driver::{Capabilities, PowerDriver};
use super::error::{Class, Fault, PowerError};

/// Six bytes of ones and sixteen times the address (AMD publication 20213).
const PACKET: usize = 102;
/// How often it is sent: datagrams are lost, and a second packet does no harm.
const TIMES: usize = 3;
/// Interfaces that it is sent by: more than a machine has.
const INTERFACES: usize = 64;

/// The magic packet of an address.
#[must_use]
pub fn packet(mac: Mac) -> [u8; PACKET] {
    let mut packet = [0xff; PACKET];
    let (_, addresses) = packet.split_at_mut(6);
    for place in addresses.chunks_exact_mut(6) {
        place.copy_from_slice(&mac.0);
    }
    packet
}

/// Wakes a machine by its addresses.
#[derive(Debug)]
pub struct WolDriver {
    at: Wol,
    line: String,
    macs: Vec<Mac>,
}

impl WolDriver {
    /// A machine with these hardware addresses.
    #[must_use]
    pub fn new(at: Wol, macs: Vec<Mac>) -> Self {
        let line = Controller::Wol(at.clone()).to_string();
        Self { at, line, macs }
    }

    fn wake(&self) -> Result<(), Fault> {
        let macs: Vec<Mac> = self.macs.iter().copied().filter(|mac| !mac.is_group()).collect();
        if macs.is_empty() {
            let advice = "name the machine's MAC address (p2pinst machine set)";
            return Err(
                Fault::new(Class::Config, "the machine has no MAC address").advising(advice)
            );
        }
        let interfaces = match (&self.at.interface, self.at.to) {
            (Some(interface), _) => vec![Some(interface.clone())],
            (None, Some(_)) => vec![None],
            (None, None) => interfaces().into_iter().map(Some).collect(),
        };
        let to = SocketAddrV4::new(self.at.to.unwrap_or(Ipv4Addr::BROADCAST), self.at.port);
        let mut result = Err(io::Error::other("this node has no network interface that is up"));
        for interface in &interfaces {
            let sent = send(interface.as_deref(), to, &macs);
            // one segment that takes it is enough: which one the machine is on is not known
            if result.is_err() {
                result = sent;
            }
        }
        result.map_err(|error| Fault::new(Class::Conn, error.to_string()))
    }

    fn cannot(&self, what: &str) -> PowerError {
        Fault::new(Class::Config, "Wake-on-LAN can only switch on")
            .advising("use the machine's own system, or give it another controller")
            .at(what, &self.line)
    }
}

fn send(interface: Option<&str>, to: SocketAddrV4, macs: &[Mac]) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    for _ in 0..TIMES {
        for mac in macs {
            socket.send_to(&packet(*mac), &to.into())?;
        }
    }
    Ok(())
}

/// The interfaces of this thread's network namespace, without the loopback. Those that are down or broadcast nothing refuse.
fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    table.lines().filter_map(name).filter(|name| name != "lo").take(INTERFACES).collect()
}

impl PowerDriver for WolDriver {
    fn query(&mut self) -> Result<PowerState, PowerError> {
        Ok(PowerState::Unknown)
    }

    fn set(&mut self, switch: Switch) -> Result<(), PowerError> {
        match switch {
            Switch::On => self.wake().map_err(|f| f.at("wake the machine", &self.line)),
            Switch::Off | Switch::SoftOff | Switch::Reset => {
                Err(self.cannot("switch off the machine"))
            }
        }
    }

    fn set_boot(&mut self, _: Boot) -> Result<(), PowerError> {
        Err(self.cannot("set the boot device"))
    }

    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError> {
        Ok(None)
    }

    fn clear_boot(&mut self) -> Result<(), PowerError> {
        Err(self.cannot("clear the boot device"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            reads: false,
            off: false,
            soft_off: false,
            boot: false,
            once: false,
            reads_boot: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_has_102_bytes() {
        let packet = packet(Mac([0x52, 0x54, 0, 1, 2, 3]));
        assert_eq!(packet.len(), 102);
        assert_eq!(packet[..6], [0xff; 6]);
        assert_eq!(packet[96..], [0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(packet[6..12], packet[54..60]);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let at = Wol { to: None, port: 9, interface: None };
        let mut driver = WolDriver::new(at, vec![Mac([0xff; 6])]);
        let error = driver.set(Switch::On).unwrap_err();
        assert_eq!(error.class, Class::Config);
        assert!(error.to_string().contains("no MAC address"), "{error}");
        assert_eq!(driver.set(Switch::Off).unwrap_err().class, Class::Config);
    }
}
