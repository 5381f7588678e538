//! Who asks: firmware that boots from the network, iPXE, or any other DHCP client; on which architecture.
//!
//! Nothing is an error here: what is unknown or missing is a value, and [`super::responder`] decides what it means.
//! Sources: RFC 2132 (60), RFC 3004 (77), RFC 4578 (93, 94, 97), IANA's list of processor architecture types, and what
//! OVMF, SeaBIOS and iPXE send.

use std::fmt;
use std::net::Ipv4Addr;

use p2pinst_types::Mac;
use serde::{Deserialize, Serialize};

use super::packet::{Code, Op, Packet};

/// The kind of a DHCP message (RFC 2132, option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Message {
    /// A client looks for servers.
    Discover = 1,
    /// A server offers.
    Offer = 2,
    /// A client takes an offer, or keeps what it has.
    Request = 3,
    /// A client found its address in use.
    Decline = 4,
    /// A server agrees.
    Ack = 5,
    /// A server refuses.
    Nak = 6,
    /// A client gives its address back.
    Release = 7,
    /// A client has an address and asks for the rest.
    Inform = 8,
}

impl Message {
    /// The kind that a message says it is of.
    #[must_use]
    pub fn of(packet: &Packet) -> Option<Self> {
        match packet.options.get(Code::MESSAGE) {
            Some([1]) => Some(Self::Discover),
            Some([2]) => Some(Self::Offer),
            Some([3]) => Some(Self::Request),
            Some([4]) => Some(Self::Decline),
            Some([5]) => Some(Self::Ack),
            Some([6]) => Some(Self::Nak),
            Some([7]) => Some(Self::Release),
            Some([8]) => Some(Self::Inform),
            _ => None,
        }
    }
}

/// What asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// Firmware that loads by TFTP (PXE).
    Pxe,
    /// Firmware that loads by HTTP (UEFI HTTP Boot).
    Http,
    /// iPXE, which runs scripts.
    Ipxe,
    /// A DHCP client that does not boot from the network.
    Other,
}

/// Machines that take the same boot files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// The PC's old firmware.
    Bios,
    /// UEFI of 32 bits on x86.
    EfiIa32,
    /// UEFI on x86-64.
    EfiX64,
    /// UEFI of 32 bits on ARM.
    EfiArm32,
    /// UEFI on ARM64.
    EfiArm64,
    /// Power, by Open Firmware.
    Ppc64,
    /// Raspberry Pi's own boot loader.
    RaspberryPi,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::EfiIa32 => "UEFI IA-32",
            Self::EfiX64 => "UEFI x86-64",
            Self::EfiArm32 => "UEFI ARM",
            Self::EfiArm64 => "UEFI ARM64",
            Self::Ppc64 => "POWER",
            Self::RaspberryPi => "Raspberry Pi",
        })
    }
}

/// A processor architecture type (RFC 4578, section 2.1; IANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Architecture(pub u16);

impl Architecture {
    /// The machines that it stands for, where p2pinst knows it.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        Some(match self.0 {
            0 | 20 => Family::Bios,
            6 | 15 => Family::EfiIa32,
            7 | 9 | 16 => Family::EfiX64,
            10 | 18 => Family::EfiArm32,
            11 | 19 => Family::EfiArm64,
            12 => Family::Ppc64,
            41 => Family::RaspberryPi,
            _ => return None,
        })
    }

    /// Whether it stands for firmware that loads by HTTP.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self.0, 15 | 16 | 18 | 19 | 20)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family() {
            Some(family) => write!(f, "{family} ({})", self.0),
            None => write!(f, "architecture {}", self.0),
        }
    }
}

/// The UUID of a machine, as its SMBIOS holds it: the first three fields with the lowest byte first. OVMF, SeaBIOS and iPXE
/// send it unchanged (measured); it is shown as people know it, from `dmidecode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        write!(f, "{d:02x}{c:02x}{b:02x}{a:02x}-{g:02x}{e:02x}-{i:02x}{h:02x}-")?;
        for (at, byte) in rest.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

/// A client, as one of its messages shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its hardware address.
    pub mac: Mac,
    /// The number of its transaction.
    pub xid: u32,
    /// For how long it says that it has been trying, in seconds. iPXE begins with 4 (measured).
    pub secs: u16,
    /// What it is.
    pub program: Program,
    /// Its architecture.
    pub architecture: Option<Architecture>,
    /// Its UUID.
    pub uuid: Option<Uuid>,
    /// The relay that its message came by.
    pub relay: Option<Ipv4Addr>,
}

impl Client {
    /// The client that a request is from; none where it is a reply, or no machine's own hardware address.
    #[must_use]
    pub fn of(packet: &Packet) -> Option<Self> {
        let mac = packet.chaddr;
        if packet.op != Op::Request || mac.is_group() || mac == Mac([0; 6]) {
            return None;
        }
        let architecture = architecture(packet);
        Some(Self {
            mac,
            xid: packet.xid,
            secs: packet.secs,
            program: program(packet, architecture),
            architecture,
            uuid: uuid(packet),
            relay: Some(packet.giaddr).filter(|a| !a.is_unspecified()),
        })
    }

    /// The machines that it is one of, where p2pinst knows them.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        self.architecture.and_then(Architecture::family)
    }

    /// Whether it boots from the network.
    #[must_use]
    pub fn boots(&self) -> bool {
        self.program != Program::Other
    }
}

/// The first architecture that option 93 lists; else what the vendor class says (`PXEClient:Arch:00007:UNDI:003016`).
fn architecture(packet: &Packet) -> Option<Architecture> {
    if let Some([high, low, ..]) = packet.options.get(Code::ARCHITECTURE) {
        return Some(Architecture(u16::from_be_bytes([*high, *low])));
    }
    let class = std::str::from_utf8(packet.options.get(Code::CLASS)?).ok()?;
    let (_, digits) = class.split_once(":Arch:")?;
    digits.split(':').next()?.parse().ok().map(Architecture)
}

fn program(packet: &Packet, architecture: Option<Architecture>) -> Program {
    let class = packet.options.get(Code::CLASS).unwrap_or_default();
    let user = packet.options.get(Code::USER_CLASS).unwrap_or_default();
    if packet.options.has(Code::IPXE) || names_ipxe(user) {
        Program::Ipxe
    } else if architecture.is_none() {
        // without one there is no telling what it could run
        Program::Other
    } else if class.starts_with(b"HTTPClient") {
        Program::Http
    } else if class.starts_with(b"PXEClient") {
        Program::Pxe
    } else {
        Program::Other
    }
}

/// Whether a user class is iPXE's: as iPXE sends it, or each class after its length (RFC 3004).
fn names_ipxe(mut classes: &[u8]) -> bool {
    if classes == b"iPXE" {
        return true;
    }
    while let Some((&len, rest)) = classes.split_first() {
        let Some((class, rest)) = rest.split_at_checked(len.into()) else { return false };
        if class == b"iPXE" {
            return true;
        }
        classes = rest;
    }
    false
}

/// Option 97: a type that is 0, and the UUID.
fn uuid(packet: &Packet) -> Option<Uuid> {
    let (kind, uuid) = packet.options.get(Code::UUID)?.split_first()?;
    uuid.try_into().ok().filter(|_| *kind == 0).map(Uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: &[(Code, &[u8])]) -> Packet {
        let mut packet = Packet::new(Op::Request, 1, Mac([0x52, 0x54, 0, 0, 0, 1]));
        for (code, bytes) in options {
            packet.options.set(*code, *bytes);
        }
        packet
    }

    fn client(options: &[(Code, &[u8])]) -> Client {
        Client::of(&request(options)).unwrap()
    }

    #[test]
    fn firmware_says_what_it_is() {
        let pxe = client(&[
            (Code::CLASS, b"PXEClient:Arch:00007:UNDI:003000"),
            (Code::ARCHITECTURE, &[0, 7]),
        ]);
        assert_eq!((pxe.program, pxe.family()), (Program::Pxe, Some(Family::EfiX64)));
        let http = client(&[
            (Code::CLASS, b"HTTPClient:Arch:00016:UNDI:003000"),
            (Code::ARCHITECTURE, &[0, 16]),
        ]);
        assert_eq!((http.program, http.family()), (Program::Http, Some(Family::EfiX64)));
        let old = client(&[(Code::CLASS, b"PXEClient:Arch:00000:UNDI:002001")]);
        assert_eq!((old.program, old.family()), (Program::Pxe, Some(Family::Bios)));
        let none = client(&[(Code::CLASS, b"PXEClient")]);
        assert!(!none.boots(), "what it runs is not known");
        let host = client(&[(Code::CLASS, b"udhcp 1.35")]);
        assert_eq!((host.program, host.architecture), (Program::Other, None));
    }

    #[test]
    fn ipxe_says_so_in_three_ways() {
        let arch: (Code, &[u8]) = (Code::ARCHITECTURE, &[0, 0]);
        for option in [
            (Code::USER_CLASS, &b"iPXE"[..]),
            (Code::USER_CLASS, b"\x03foo\x04iPXE"),
            (Code::IPXE, b"\xb1\x05\x01\x1a\xf4\x10\x00"),
        ] {
            assert_eq!(client(&[arch, option]).program, Program::Ipxe, "{option:?}");
        }
        for other in [&b"\x04iPX"[..], b"\xffiPXE", b"gPXE", b""] {
            let class: (Code, &[u8]) = (Code::CLASS, b"PXEClient");
            let client = client(&[arch, class, (Code::USER_CLASS, other)]);
            assert_eq!(client.program, Program::Pxe, "{other:?}");
        }
    }

    #[test]
    fn every_architecture_of_the_table_has_a_family_and_others_are_values() {
        for code in [0, 6, 7, 9, 10, 11, 12, 15, 16, 18, 19, 20, 41] {
            assert!(Architecture(code).family().is_some(), "{code}");
        }
        let odd = client(&[(Code::CLASS, b"PXEClient"), (Code::ARCHITECTURE, &[0x12, 0x34])]);
        assert_eq!((odd.architecture, odd.family()), (Some(Architecture(0x1234)), None));
        assert_eq!(odd.architecture.unwrap().to_string(), "architecture 4660");
        assert_eq!(Architecture(7).to_string(), "UEFI x86-64 (7)");
        let several = client(&[(Code::ARCHITECTURE, &[0, 11, 0, 7]), (Code::CLASS, b"PXEClient")]);
        assert_eq!(several.family(), Some(Family::EfiArm64));
    }

    #[test]
    fn the_uuid_reads_as_dmidecode_shows_it() {
        // what QEMU's -uuid 00112233-4455-6677-8899-aabbccddeeff becomes on the wire
        let wire = b"\x00\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        let uuid = client(&[(Code::UUID, wire)]).uuid.unwrap();
        assert_eq!(uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(client(&[(Code::UUID, &[1; 17])]).uuid, None, "another type");
        assert_eq!(client(&[(Code::UUID, &[0; 16])]).uuid, None, "too short");
        assert_eq!(client(&[(Code::UUID, &[])]).uuid, None);
    }

    #[test]
    fn groups_and_replies_are_no_clients() {
        let of = |op, mac| Client::of(&Packet::new(op, 1, mac));
        assert!(of(Op::Reply, Mac([2; 6])).is_none());
        assert!(of(Op::Request, Mac([0xff; 6])).is_none());
        assert!(of(Op::Request, Mac([0; 6])).is_none());
        assert!(of(Op::Request, Mac([2; 6])).is_some());
    }
}
