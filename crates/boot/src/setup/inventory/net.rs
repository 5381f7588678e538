//! The network interfaces of a machine.

use std::fs;
use std::path::Path;

use p2pinst_types::limits;
use p2pinst_types::record::Nic;

use super::{attribute, short};

/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const ETHERNET: &str = "1";

/// The Ethernet interfaces that are devices, by name; at most [`limits::HARDWARE_NICS`].
pub(super) fn nics(sys: &Path) -> Vec<Nic> {
    let entries = fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
    let mut nics: Vec<Nic> = entries.filter_map(|entry| nic(&entry.path())).collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics.truncate(limits::HARDWARE_NICS);
    nics
}

fn nic(dir: &Path) -> Option<Nic> {
    let get = |key: &str| attribute(&dir.join(key));
    if !dir.join("device").exists() || get("type")? != ETHERNET {
        return None;
    }
    let driver = fs::read_link(dir.join("device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name);
    Some(Nic {
        name: short(dir.file_name()?.as_encoded_bytes())?,
        // a part of a bond shows the bond's address, and starts over the network with its own
        mac: get("bonding_slave/perm_hwaddr").or_else(|| get("address"))?.parse().ok()?,
        driver: driver.and_then(|name| short(name.as_encoded_bytes())),
        link: get("carrier").is_some_and(|carrier| carrier == "1"),
        // -1 where it is not known
        mbit: get("speed").and_then(|speed| speed.parse().ok()),
    })
}
