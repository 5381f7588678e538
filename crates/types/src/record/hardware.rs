//! What a machine is made of, as the system that runs on it sees it.

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::mac::Mac;

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// The PC's old one.
    Bios,
    /// UEFI.
    Uefi,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its device's name, without `/dev/`: `sda`, `nvme0n1`. It may change with every start.
    pub name: String,
    /// The last part of its name in `/dev/disk/by-path`: where it is plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// The length of its logical sectors in bytes: 4096 on some (4Kn), on which partitions begin at other places.
    #[serde(default = "Disk::usual_sector", skip_serializing_if = "Disk::is_usual_sector")]
    pub sector: u32,
    /// Its world-wide name, as the kernel writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether its platters turn.
    pub rotational: bool,
    /// Whether it can be taken out by hand: a USB stick, say.
    pub removable: bool,
    /// What is on it, as blkid calls it: a partition table (`gpt`, `dos`), or a filesystem on the whole of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

impl Disk {
    /// The length of the sectors of most disks.
    #[must_use]
    pub fn usual_sector() -> u32 {
        512
    }

    fn is_usual_sector(sector: &u32) -> bool {
        *sector == Self::usual_sector()
    }

    /// Whether sectors may be so long.
    #[must_use]
    pub fn is_sector(bytes: u32) -> bool {
        bytes.is_power_of_two() && (512..=65536).contains(&bytes)
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its name: `eth0`, `enp3s0`.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// The kernel's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Whether it has a carrier.
    pub link: bool,
    /// Its speed in Mbit/s, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbit: Option<u32>,
}

/// What a machine is made of. Texts are at most [`limits::HARDWARE_TEXT`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The UUID of the SMBIOS (DMTF DSP0134), in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// What its maker calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How it started.
    pub firmware: Firmware,
    /// Its architecture, as `uname -m` says.
    pub arch: String,
    /// The model of its processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// How many processors the kernel sees.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// Its disks by name; at most [`limits::HARDWARE_DISKS`].
    pub disks: Vec<Disk>,
    /// Its network interfaces by name; at most [`limits::HARDWARE_NICS`].
    pub nics: Vec<Nic>,
    /// The address of its controller (BMC) on the network, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
}

impl Inventory {
    /// Whether it keeps the bounds, so that it fits into a cell.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let short = |text: &str| text.len() <= limits::HARDWARE_TEXT;
        let all = |texts: &[&Option<String>]| texts.iter().all(|t| t.as_deref().is_none_or(short));
        let disk = |d: &Disk| {
            Disk::is_sector(d.sector)
                && short(&d.name)
                && all(&[&d.path, &d.wwn, &d.serial, &d.model, &d.content])
        };
        let nic = |n: &Nic| short(&n.name) && all(&[&n.driver]);
        let own =
            [&self.uuid, &self.vendor, &self.product, &self.serial, &self.cpu, &self.controller];
        self.disks.len() <= limits::HARDWARE_DISKS
            && self.nics.len() <= limits::HARDWARE_NICS
            && short(&self.arch)
            && all(&own)
            && self.disks.iter().all(disk)
            && self.nics.iter().all(nic)
    }
}
