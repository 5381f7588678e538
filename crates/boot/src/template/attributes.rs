//! What a template sees of its machine, and what the conditions of edges ask.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use p2pinst_types::mac::Mac;
use p2pinst_types::name::{LabelValue, Labels, Name};
use p2pinst_types::record::hardware::{Firmware, Inventory};
use p2pinst_types::selector::Selector;
use serde::{Deserialize, Serialize};

use super::format::Format;
use crate::dhcp::table::MIRRORS;
use crate::setup::document::FileSystem;
use crate::setup::plan::{DiskGoal, Goal, PartitionGoal, Place};

/// A partition of the machine's host setup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its disk's device: `/dev/sda`.
    pub disk: String,
    /// The disk's serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its own device: `/dev/sda1`.
    pub device: String,
    /// Its label.
    pub label: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its filesystem: `ext4`, `swap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// Where it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
}

/// A repository of packages that a peer hands out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// The repository, as it was published.
    pub repository: Name,
    /// The peer's address.
    pub peer: String,
    /// Where its packages are.
    pub url: String,
}

impl Mirror {
    /// A repository at the boot service of a peer.
    #[must_use]
    pub fn at(repository: &Name, peer: SocketAddr) -> Self {
        let host = match (peer, peer.port()) {
            (SocketAddr::V4(peer), 80) => peer.ip().to_string(),
            (SocketAddr::V6(peer), 80) => format!("[{}]", peer.ip()),
            _ => peer.to_string(),
        };
        let url = format!("http://{host}{MIRRORS}{repository}");
        Self { repository: repository.clone(), peer: peer.ip().to_string(), url }
    }
}

/// What is known of a machine when its installer's files are rendered. A template sees each field by its name, what is not
/// known as undefined; and `appliance`, `format`, and the graph's own `attributes` beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The cluster's name.
    pub cluster: Name,
    /// The machine's name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// The groups that it belongs to.
    #[serde(default)]
    pub groups: BTreeSet<Name>,
    /// The hardware addresses of its interfaces; the first is the one it boots from.
    #[serde(default)]
    pub macs: Vec<Mac>,
    /// What is installed: `debian-12`. For conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<LabelValue>,
    /// Which installation this is: with another one, cloud-init takes the machine for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// The partitions that its host setup gives it.
    #[serde(default)]
    pub partitions: Vec<Partition>,
    /// The peers that hand out packages, the nearest first.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
}

impl Attributes {
    /// A machine of which no more is known than what it is called.
    #[must_use]
    pub fn new(cluster: Name, name: Name, site: Name) -> Self {
        Self {
            cluster,
            name,
            site,
            labels: Labels::new(),
            groups: BTreeSet::new(),
            macs: Vec::new(),
            os: None,
            instance: None,
            inventory: None,
            partitions: Vec::new(),
            mirrors: Vec::new(),
        }
    }

    /// The appliance that its label of this name says.
    pub(crate) fn appliance(&self) -> Option<Name> {
        let label = self.labels.iter().find(|(key, _)| key.as_str() == "appliance");
        label.and_then(|(_, value)| value.as_str().parse().ok())
    }

    /// The partitions that a plan gives the machine.
    pub fn set_partitions(&mut self, goal: &Goal) {
        let mounts = |place| goal.mounts.iter().find(|m| m.place == place);
        let disk = |(d, disk): (usize, &DiskGoal)| {
            let name = disk.identity.name.clone();
            let between = if name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
            let part = |(p, part): (usize, &PartitionGoal)| Partition {
                disk: format!("/dev/{name}"),
                serial: disk.identity.serial.clone(),
                device: format!("/dev/{name}{between}{}", part.number),
                label: part.content.label.to_string(),
                size: part.size,
                filesystem: Some(part.content.filesystem)
                    .filter(|f| *f != FileSystem::None)
                    .map(|f| f.to_string()),
                mount: mounts(Place::Partition(d, p)).and_then(|m| m.path.clone()),
            };
            disk.partitions.iter().enumerate().map(part).collect::<Vec<_>>()
        };
        self.partitions = goal.disks.iter().enumerate().flat_map(disk).collect();
    }

    /// What conditions are asked of: the labels, and `arch`, `firmware`, `os`, `appliance` and `format` beside them. What
    /// was found out wins over a label of the same name.
    pub(crate) fn facts(&self, appliance: &Name, format: Format) -> Facts<'_> {
        let mut labels = self.labels.clone();
        let inventory = self.inventory.as_ref();
        let firmware = inventory.map(|i| match i.firmware {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
        });
        let found = [
            ("arch", inventory.map(|i| i.arch.as_str())),
            ("firmware", firmware),
            ("os", self.os.as_ref().map(LabelValue::as_str)),
            ("appliance", Some(appliance.as_str())),
            ("format", Some(format.as_str())),
        ];
        for (key, value) in found {
            let value = value.map(|v| LabelValue::try_from(v.to_owned()));
            // an architecture that is no name can be asked for by no condition
            if let (Ok(key), Some(Ok(value))) = (key.parse(), value) {
                labels.insert(key, value);
            }
        }
        Facts { machine: self, labels }
    }
}

/// What the conditions of edges are asked of.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    machine: &'a Attributes,
    labels: Labels,
}

impl Facts<'_> {
    /// Whether a condition holds.
    pub(crate) fn meet(&self, condition: &Selector) -> bool {
        condition.matches(&self.machine.name, &self.machine.site, &self.labels)
    }
}
