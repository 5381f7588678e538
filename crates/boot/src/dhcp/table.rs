//! What the daemon lets the boot service do: one value, made anew when something changes and swapped whole.
//!
//! It travels from the daemon to the boot service over a pipe, in CBOR. It holds no secret.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use p2pinst_types::{Hash, Mac, NodeId};
use serde::{Deserialize, Serialize};

use super::client::{Client, Family, Program};

/// Below this path the boot service's HTTP server has the boot files by their names.
pub const FILES: &str = "/boot/";
/// Below this path it has the scripts of iPXE, one for each machine: see [`script_path`].
pub const SCRIPTS: &str = "/boot/script/";
/// Where repositories of packages are, below their names, on the HTTP server of every node that boots machines.
pub const MIRRORS: &str = "/boot/mirror/";
/// The longest name of a boot file: with an address, a port and [`FILES`] it fits the 127 bytes of a DHCP message's `file`.
pub const FILE_NAME: usize = 64;
/// Addresses that one isolated segment can give away.
pub const POOL: u32 = 4096;

/// Where the script of a machine is: `/boot/script/52-54-00-12-34-56`.
#[must_use]
pub fn script_path(mac: Mac) -> String {
    format!("{SCRIPTS}{}", mac.to_string().replace(':', "-"))
}

/// The name of a boot file: letters, digits, `.`, `-` and `_`, and no dot in front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

impl FileName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

impl TryFrom<String> for FileName {
    type Error = FileNameError;

    fn try_from(name: String) -> Result<Self, FileNameError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let fits = (1..=FILE_NAME).contains(&name.len());
        if fits && name.chars().all(plain) && !name.starts_with('.') {
            Ok(Self(name))
        } else {
            Err(FileNameError(name.chars().take(80).collect()))
        }
    }
}

impl std::str::FromStr for FileName {
    type Err = FileNameError;

    fn from_str(name: &str) -> Result<Self, FileNameError> {
        name.to_owned().try_into()
    }
}

/// A name that no boot file has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a boot file: it has at most {FILE_NAME} letters, digits, '.', '-' and '_'"
)]
pub struct FileNameError(String);

/// Whom the boot service answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nobody.
    #[default]
    Off,
    /// Machines that the table arms.
    Armed,
    /// Those, and machines that boot from the network and are not in the table.
    Discover,
    /// As [`Mode::Discover`], and gives addresses to everybody: for a segment without any DHCP server.
    Isolated(IsolatedPool),
}

/// What a segment without a DHCP server is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsolatedPool {
    /// The first address that is given away.
    pub first: Ipv4Addr,
    /// The last address that is given away; what is more than [`POOL`] after the first is left alone.
    pub last: Ipv4Addr,
    /// The segment's netmask.
    pub netmask: Ipv4Addr,
    /// The segment's router.
    #[serde(default)]
    pub router: Option<Ipv4Addr>,
    /// Name servers; the first four are told.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// How long an address is given for, in seconds.
    pub lease: u32,
}

impl IsolatedPool {
    /// How many addresses it has.
    #[must_use]
    pub fn size(&self) -> u32 {
        let (first, last) = (u32::from(self.first), u32::from(self.last));
        last.checked_sub(first).map_or(0, |n| n.saturating_add(1)).min(POOL)
    }

    /// The address at a place.
    #[must_use]
    pub fn at(&self, place: u32) -> Option<Ipv4Addr> {
        let address = u32::from(self.first).checked_add(place)?;
        (place < self.size()).then(|| address.into())
    }

    /// Whether it gives an address away.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address).checked_sub(self.first.into()).is_some_and(|n| n < self.size())
    }
}

/// How firmware that loads by TFTP is told its file. Every firmware that was tried takes either; where one does not, its machine's
/// assignment can name the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// In the offer, with PXE's discovery turned off (option 43 is `06 01 08 ff`): the client goes straight to TFTP.
    #[default]
    Direct,
    /// In the answer to a second question, which the client asks on port 4011.
    Ask,
}

/// What a machine of the table is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wants {
    /// The scout.
    Scout,
    /// Its own disk: the boot service stays silent, so that its firmware goes on to it.
    Disk,
}

/// A machine of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// Which assignment this is: part of the order in which the nodes of a segment answer.
    pub assignment: Hash,
    /// How it is told its file.
    #[serde(default)]
    pub style: Style,
    /// What it is to start.
    pub wants: Wants,
}

/// The boot files for one family of machines. They are to be here, whole, before the table names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// The scout as one program that UEFI starts (a UKI): `scout.efi`.
    #[serde(default)]
    pub scout: Option<FileName>,
    /// iPXE, for firmware that cannot start the scout: `undionly.kpxe`, `snponly.efi`.
    #[serde(default)]
    pub ipxe: Option<FileName>,
    /// Whether there is what a script of iPXE starts: a kernel and an initramfs, or [`Files::scout`].
    #[serde(default)]
    pub script: bool,
}

/// The boot files of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Artefacts(pub BTreeMap<Family, Files>);

impl Artefacts {
    /// What a client starts; none where there is nothing for it.
    #[must_use]
    pub fn for_client(&self, client: &Client) -> Option<Start> {
        let files = self.0.get(&client.family()?)?;
        let ipxe = files.ipxe.as_ref().filter(|_| files.script);
        match client.program {
            Program::Pxe => files.scout.as_ref().or(ipxe).cloned().map(Start::Tftp),
            Program::Http => files.scout.as_ref().or(ipxe).cloned().map(Start::Http),
            Program::Ipxe => files.script.then_some(Start::Script),
            Program::Other => None,
        }
    }
}

/// What a client is told to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A file, by TFTP from the node that answers.
    Tftp(FileName),
    /// A file, by HTTP from the node that answers, below [`FILES`].
    Http(FileName),
    /// The machine's script, by HTTP from the node that answers, at [`script_path`].
    Script,
}

/// What the daemon lets the boot service do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Whom it answers.
    pub mode: Mode,
    /// The first eight bytes of the cluster's id: beacons of other clusters are left alone.
    pub cluster: [u8; 8],
    /// This node.
    pub node: NodeId,
    /// The TCP port on which this node is reached by others of its cluster; told in beacons.
    pub node_port: u16,
    /// The TCP port of the boot service's HTTP server.
    pub http_port: u16,
    /// Machines by the hardware address that they boot from.
    pub machines: BTreeMap<Mac, Armed>,
    /// The boot files that are here.
    pub artefacts: Artefacts,
    /// The nodes of the cluster with the boot role: those whose beacons count.
    pub members: BTreeSet<NodeId>,
}

impl Table {
    /// A table by which nobody is answered: what holds before the daemon has said anything.
    #[must_use]
    pub fn off(node: NodeId) -> Self {
        Self {
            mode: Mode::Off,
            cluster: [0; 8],
            node,
            node_port: 0,
            http_port: 0,
            machines: BTreeMap::new(),
            artefacts: Artefacts::default(),
            members: BTreeSet::new(),
        }
    }

    /// Whether machines that it does not name are answered too.
    #[must_use]
    pub fn takes_strangers(&self) -> bool {
        matches!(self.mode, Mode::Discover | Mode::Isolated(_))
    }

    /// The addresses that it gives away.
    #[must_use]
    pub fn pool(&self) -> Option<&IsolatedPool> {
        match &self.mode {
            Mode::Isolated(pool) => Some(pool),
            Mode::Off | Mode::Armed | Mode::Discover => None,
        }
    }

    /// What it says of a machine; a stranger that is answered has the assignment 0.
    #[must_use]
    pub fn machine(&self, mac: Mac) -> Option<Armed> {
        let stranger =
            Armed { assignment: Hash([0; 32]), style: Style::default(), wants: Wants::Scout };
        match self.mode {
            Mode::Off => None,
            _ => self.machines.get(&mac).copied().or(self.takes_strangers().then_some(stranger)),
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::{PublicKey, codec};

    use super::super::client::Architecture;
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn files(scout: Option<&str>, ipxe: Option<&str>, script: bool) -> Files {
        let name = |n: &str| n.parse().unwrap();
        Files { scout: scout.map(name), ipxe: ipxe.map(name), script }
    }

    #[test]
    fn names_of_files_are_plain() {
        for good in ["scout.efi", "undionly.kpxe", "vmlinuz-6.1.0_1"] {
            assert!(good.parse::<FileName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "é", &"a".repeat(65)] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
        assert_eq!(script_path(MAC), "/boot/script/52-54-00-12-34-56");
    }

    #[test]
    fn each_client_starts_what_it_can() {
        let artefacts = Artefacts(BTreeMap::from([
            (Family::Bios, files(None, Some("undionly.kpxe"), true)),
            (Family::EfiX64, files(Some("scout.efi"), Some("snponly.efi"), true)),
            (Family::EfiArm64, files(None, Some("snponly-arm64.efi"), false)),
        ]));
        let start = |program, architecture: u16| {
            artefacts.for_client(&Client {
                mac: MAC,
                xid: 1,
                secs: 0,
                program,
                architecture: Some(Architecture(architecture)),
                uuid: None,
                relay: None,
            })
        };
        let scout = || "scout.efi".parse().unwrap();
        assert_eq!(start(Program::Pxe, 7), Some(Start::Tftp(scout())));
        assert_eq!(start(Program::Http, 16), Some(Start::Http(scout())));
        assert_eq!(start(Program::Ipxe, 7), Some(Start::Script));
        assert_eq!(start(Program::Pxe, 0), Some(Start::Tftp("undionly.kpxe".parse().unwrap())));
        assert_eq!(start(Program::Pxe, 11), None, "iPXE alone leads nowhere");
        assert_eq!(start(Program::Pxe, 12), None);
        assert_eq!(start(Program::Pxe, 999), None);
        assert_eq!(start(Program::Other, 0), None);
    }

    #[test]
    fn pools_are_bounded_and_may_be_nonsense() {
        let pool = |first: [u8; 4], last: [u8; 4]| IsolatedPool {
            first: first.into(),
            last: last.into(),
            netmask: [255, 255, 255, 0].into(),
            router: None,
            dns: Vec::new(),
            lease: 3600,
        };
        let small = pool([10, 0, 0, 250], [10, 0, 0, 255]);
        assert_eq!((small.size(), small.at(5)), (6, Some([10, 0, 0, 255].into())));
        assert_eq!(small.at(6), None);
        assert!(small.contains([10, 0, 0, 250].into()) && !small.contains([10, 0, 1, 0].into()));
        assert_eq!(pool([10, 0, 0, 9], [10, 0, 0, 1]).size(), 0);
        let all = pool([0, 0, 0, 0], [255, 255, 255, 255]);
        assert_eq!(all.size(), POOL);
        assert_eq!(pool([255; 4], [255; 4]).at(0), Some([255; 4].into()));
    }

    #[test]
    fn the_table_travels_in_cbor() {
        let mut table = Table::off(NodeId(PublicKey([7; 32])));
        let armed = Armed { assignment: Hash([1; 32]), style: Style::Ask, wants: Wants::Scout };
        table.machines.insert(MAC, armed);
        table.artefacts.0.insert(Family::EfiX64, files(Some("scout.efi"), None, true));
        table.mode = Mode::Isolated(IsolatedPool {
            first: [10, 0, 0, 10].into(),
            last: [10, 0, 0, 20].into(),
            netmask: [255, 255, 255, 0].into(),
            router: None,
            dns: vec![[10, 0, 0, 1].into()],
            lease: 60,
        });
        table.members.insert(table.node);
        let bytes = codec::encode(&table).unwrap();
        assert_eq!(codec::decode::<Table>(&bytes).unwrap(), table);
        assert!(Table::off(table.node).machine(MAC).is_none());
        assert_eq!(table.machine(MAC), Some(armed));
        assert!(table.machine(Mac([2; 6])).is_some(), "isolated takes strangers");
        table.mode = Mode::Armed;
        assert!(table.machine(Mac([2; 6])).is_none());
    }
}
