//! The network interfaces of a machine.

use std::fs;
use std::path::Path;

use p2pinst_types::limits;
use p2pinst_types::record::Nic;

use super::{Roots, attribute, short};

/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const ETHERNET: &str = "1";

/// The Ethernet interfaces that are devices or are named, by name; at most [`limits::HARDWARE_NICS`].
pub(super) fn nics(roots: &Roots) -> Vec<Nic> {
    let entries = fs::read_dir(roots.sys.join("class/net")).into_iter().flatten().flatten();
    let counts = |dir: &Path| {
        let named = roots.nics.iter().any(|name| dir.ends_with(name));
        named || dir.join("device").exists()
    };
    let dirs = entries.map(|entry| entry.path()).filter(|dir| counts(dir));
    let mut nics: Vec<Nic> = dirs.filter_map(|dir| nic(&dir)).collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics.truncate(limits::HARDWARE_NICS);
    nics
}

fn nic(dir: &Path) -> Option<Nic> {
    let get = |key: &str| attribute(&dir.join(key));
    if get("type")? != ETHERNET {
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
