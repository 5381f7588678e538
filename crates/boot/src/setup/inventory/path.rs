//! Where a disk is plugged in, as udev names it in `/dev/disk/by-path`.

use std::fs;
use std::path::Path;

use super::{Roots, attribute, short};

/// From udev's links, where there are any, or else from the disk's place in sysfs.
pub(super) fn of(roots: &Roots, name: &str) -> Option<String> {
    linked(&roots.dev.join("disk/by-path"), name).or_else(|| {
        let device = fs::canonicalize(roots.sys.join("block").join(name)).ok()?;
        let base = fs::canonicalize(&roots.sys).ok()?;
        derived(device.strip_prefix(&base).ok()?, &base)
    })
}

/// Of several links the shortest, then the first: udev keeps the old names beside the new.
fn linked(dir: &Path, name: &str) -> Option<String> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let links = entries.filter(|entry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        target.file_name().is_some_and(|target| target == name)
    });
    let names = links.filter_map(|entry| entry.file_name().into_string().ok());
    short(names.min_by_key(|name| (name.len(), name.clone()))?.as_bytes())
}

/// From the parts of `devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda`. Disks behind a SAS expander
/// or fibre channel get names of this form that are not udev's.
fn derived(device: &Path, base: &Path) -> Option<String> {
    let parts: Vec<&str> = device.iter().filter_map(|part| part.to_str()).collect();
    let bus = parts.iter().rposition(|part| is_pci(part));
    let mut name = match bus {
        Some(at) => format!("pci-{}", parts.get(at)?),
        // boards without PCI: an SD card, a disk on a mainframe
        None => {
            let at = parts.iter().position(|part| *part == "platform")?;
            format!("platform-{}", parts.get(at + 1)?)
        }
    };
    let behind = parts.get(bus.map_or(2, |at| at + 1)..)?;
    let last = behind.last()?;
    if let Some(interface) = behind.iter().rev().find(|part| is_usb_interface(part)) {
        let (_, port) = interface.split_once('-')?;
        name.push_str(&format!("-usb-0:{port}"));
    }
    if let Some(ata) = behind.iter().find(|part| numbered(part, "ata").is_some()) {
        let at = parts.iter().position(|part| part == ata)?;
        let port = parts.get(..=at)?.iter().collect::<std::path::PathBuf>();
        let number = attribute(&base.join(port).join("ata_port").join(ata).join("port_no"));
        let number = number.unwrap_or_else(|| numbered(ata, "ata").unwrap_or_default().to_owned());
        name.push_str(&format!("-ata-{number}"));
    } else if behind.contains(&"nvme") {
        let namespace = last.rsplit_once('n').map(|(_, number)| number)?;
        name.push_str(&format!("-nvme-{namespace}"));
    } else if let Some(address) = behind.iter().find(|part| part.split(':').count() == 4) {
        // the number of the host is the order of probing: counted from the first of the same controller
        let (_, rest) = address.split_once(':')?;
        name.push_str(&format!("-scsi-0:{rest}"));
    }
    short(name.as_bytes())
}

/// `0000:00:1f.2`
fn is_pci(part: &str) -> bool {
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    let fields: Vec<&str> = part.split([':', '.']).collect();
    matches!(fields.as_slice(), [domain, bus, device, function]
        if domain.len() >= 4 && hex(bus, 2) && hex(device, 2) && hex(function, 1) && part.contains('.'))
}

/// `2-1.4:1.0`
fn is_usb_interface(part: &str) -> bool {
    part.split_once('-').is_some_and(|(bus, rest)| {
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        digits(bus)
            && rest
                .split_once(':')
                .is_some_and(|(port, interface)| digits(port) && digits(interface))
    })
}

fn numbered<'a>(part: &'a str, prefix: &str) -> Option<&'a str> {
    let number = part.strip_prefix(prefix)?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_as_udev_does() {
        let none = Path::new("/nowhere");
        for (device, name) in [
            (
                "devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda",
                "pci-0000:00:1f.2-ata-3",
            ),
            ("devices/pci0000:00/0000:00:02.0/virtio1/block/vda", "pci-0000:00:02.0"),
            (
                "devices/pci0000:00/0000:00:1d.0/0000:01:00.0/nvme/nvme0/nvme0n1",
                "pci-0000:01:00.0-nvme-1",
            ),
            (
                "devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1.4/2-1.4:1.0/host6/target6:0:0/6:0:0:0/block/sdb",
                "pci-0000:00:14.0-usb-0:1.4:1.0-scsi-0:0:0:0",
            ),
            (
                "devices/pci0000:00/0000:00:05.0/virtio2/host1/target1:0:3/1:0:3:0/block/sdc",
                "pci-0000:00:05.0-scsi-0:0:3:0",
            ),
        ] {
            assert_eq!(derived(Path::new(device), none).as_deref(), Some(name), "{device}");
        }
        assert_eq!(derived(Path::new("devices/virtual/block/loop0"), none), None);
    }
}
