//! Inventories of recorded machines, and of this one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use p2pinst_boot::setup::{Roots, inventory};
use p2pinst_types::limits;
use p2pinst_types::record::{Firmware, Inventory};

/// A machine by what its kernel shows: files with their content, and links (`->`).
fn recorded(tree: &[(&str, &str)]) -> Inventory {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in tree {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("-> ") {
            Some(to) => symlink(to, path).unwrap(),
            None if *content == "/" => fs::create_dir_all(path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
    }
    read(dir.path())
}

fn read(dir: &Path) -> Inventory {
    let sub = |name: &str| dir.join(name);
    let roots = Roots {
        sys: sub("sys"),
        proc: sub("proc"),
        dev: sub("dev"),
        also: Vec::new(),
        nics: Vec::new(),
    };
    let inventory = inventory::read(&roots);
    assert!(inventory.is_bounded());
    inventory
}

/// A QEMU guest: q35 with OVMF, a virtio disk with a serial, one on AHCI, one on NVMe, a USB stick, an empty DVD drive.
const GUEST: &[(&str, &str)] = &[
    ("sys/class/dmi/id/product_uuid", "7FB2AC2E-6A5F-4B6C-9A0B-0D53D6CF2D1C\n"),
    ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
    ("sys/class/dmi/id/product_name", "Standard PC (Q35 + ICH9, 2009)\n"),
    ("sys/class/dmi/id/product_serial", "Not Specified\n"),
    ("sys/firmware/efi", "/"),
    (
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: QEMU Virtual CPU version 2.5+\n\nprocessor\t: 1\nmodel name\t: QEMU Virtual CPU version 2.5+\n",
    ),
    ("proc/meminfo", "MemTotal:         487924 kB\nMemFree:          400000 kB\n"),
    ("sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/size", "16777216\n"),
    ("sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/serial", "root-disk"),
    ("sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/removable", "0\n"),
    ("sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vda/queue/rotational", "1\n"),
    ("sys/block/vda", "-> ../devices/pci0000:00/0000:00:03.0/virtio1/block/vda"),
    ("sys/devices/pci0000:00/0000:00:1f.2/ata1/ata_port/ata1/port_no", "1\n"),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/wwid",
        "t10.ATA     QEMU HARDDISK                           QM00001             \n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/model",
        "QEMU HARDDISK   \n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/vpd_pg80",
        "\0\0\0\u{14}             QM00001rest",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/device",
        "-> ../../../0:0:0:0",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/size",
        "2097152\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/queue/rotational",
        "1\n",
    ),
    (
        "sys/block/sda",
        "-> ../devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
    ),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/serial", "NV1                 \n"),
    (
        "sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/model",
        "QEMU NVMe Ctrl                          \n",
    ),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/device", "-> ../../nvme0"),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/size", "4194304\n"),
    (
        "sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/wwid",
        "nvme.1b36-4e5631-51454d55204e564d65204374726c-00000001\n",
    ),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/queue/rotational", "0\n"),
    ("sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1/queue/logical_block_size", "4096\n"),
    ("sys/block/nvme0n1", "-> ../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1"),
    (
        "sys/devices/pci0000:00/0000:00:05.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb/size",
        "1024\n",
    ),
    (
        "sys/devices/pci0000:00/0000:00:05.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb/removable",
        "1\n",
    ),
    (
        "sys/block/sdb",
        "-> ../devices/pci0000:00/0000:00:05.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb",
    ),
    ("sys/block/sdc/size", "0\n"),
    ("sys/block/sr0/size", "2097151\n"),
    ("sys/block/loop0/size", "2048\n"),
    ("sys/block/dm-0/size", "2048\n"),
    (
        "sys/devices/pci0000:00/0000:00:02.0/virtio0/driver",
        "-> ../../../../bus/virtio/drivers/virtio_net",
    ),
    ("sys/devices/pci0000:00/0000:00:02.0/virtio0/net/enp0s2/device", "-> ../../../virtio0"),
    ("sys/devices/pci0000:00/0000:00:02.0/virtio0/net/enp0s2/type", "1\n"),
    ("sys/devices/pci0000:00/0000:00:02.0/virtio0/net/enp0s2/address", "52:54:00:12:34:56\n"),
    ("sys/devices/pci0000:00/0000:00:02.0/virtio0/net/enp0s2/carrier", "1\n"),
    ("sys/devices/pci0000:00/0000:00:02.0/virtio0/net/enp0s2/speed", "-1\n"),
    ("sys/class/net/enp0s2", "-> ../../devices/pci0000:00/0000:00:02.0/virtio0/net/enp0s2"),
    ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
    ("sys/class/net/lo/type", "772\n"),
];

#[test]
fn a_guest() {
    let guest = recorded(GUEST);
    assert_eq!(guest.uuid.as_deref(), Some("7fb2ac2e-6a5f-4b6c-9a0b-0d53d6cf2d1c"));
    assert_eq!((guest.vendor.as_deref(), guest.serial.as_deref()), (Some("QEMU"), None));
    assert_eq!((guest.firmware, guest.cpus, guest.memory), (Firmware::Uefi, 2, 487_924 * 1024));
    assert_eq!(guest.cpu.as_deref(), Some("QEMU Virtual CPU version 2.5+"));
    let names: Vec<&str> = guest.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["nvme0n1", "sda", "sdb", "vda"], "neither empty nor virtual ones");
    let [nvme, ata, usb, virtio] = guest.disks.as_slice() else { panic!() };
    assert_eq!(
        (nvme.path.as_deref(), nvme.serial.as_deref()),
        (Some("pci-0000:00:04.0-nvme-1"), Some("NV1"))
    );
    assert_eq!(nvme.wwn.as_deref(), Some("nvme.1b36-4e5631-51454d55204e564d65204374726c-00000001"));
    assert_eq!((nvme.model.as_deref(), nvme.rotational), (Some("QEMU NVMe Ctrl"), false));
    assert_eq!(
        (ata.path.as_deref(), ata.model.as_deref()),
        (Some("pci-0000:00:1f.2-ata-1"), Some("QEMU HARDDISK"))
    );
    assert_eq!((ata.size, ata.rotational, ata.serial.as_deref()), (1 << 30, true, Some("QM00001")));
    assert_eq!((nvme.sector, nvme.size, ata.sector), (4096, 2 << 30, 512));
    assert_eq!(usb.path.as_deref(), Some("pci-0000:00:05.0-usb-0:1:1.0-scsi-0:0:0:0"));
    assert!(usb.removable && !virtio.removable);
    assert_eq!(
        (virtio.path.as_deref(), virtio.serial.as_deref()),
        (Some("pci-0000:00:03.0"), Some("root-disk"))
    );
    let [nic] = guest.nics.as_slice() else { panic!("{:?}", guest.nics) };
    assert_eq!((nic.name.as_str(), nic.driver.as_deref()), ("enp0s2", Some("virtio_net")));
    assert_eq!(
        (nic.mac.to_string().as_str(), nic.link, nic.mbit),
        ("52:54:00:12:34:56", true, None)
    );
}

#[test]
fn a_part_of_a_bond_has_its_own_address() {
    let mut tree = GUEST.to_vec();
    tree.push((
        "sys/devices/pci0000:00/0000:00:02.0/virtio0/net/enp0s2/bonding_slave/perm_hwaddr",
        "52:54:00:12:34:99\n",
    ));
    assert_eq!(recorded(&tree).nics[0].mac.to_string(), "52:54:00:12:34:99");
}

#[test]
fn an_interface_that_is_named_counts_though_it_is_no_device() {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in [
        ("sys/class/net/eth0/address", "52:54:00:12:34:56\n"),
        ("sys/class/net/eth0/type", "1\n"),
        ("sys/class/net/eth1/address", "52:54:00:12:34:57\n"),
        ("sys/class/net/eth1/type", "1\n"),
        ("sys/class/net/tun0/type", "65534\n"),
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let sub = |name: &str| dir.path().join(name);
    let nics = vec!["eth0".to_owned(), "tun0".to_owned()];
    let roots =
        Roots { sys: sub("sys"), proc: sub("proc"), dev: sub("dev"), nics, ..Roots::default() };
    let names: Vec<String> = inventory::read(&roots).nics.into_iter().map(|n| n.name).collect();
    assert_eq!(names, ["eth0"], "only what is named, and only Ethernet");
}

#[test]
fn udevs_names_come_before_our_own() {
    let mut tree = GUEST.to_vec();
    tree.push(("dev/disk/by-path/pci-0000:00:1f.2-ata-1.0", "-> ../../sda"));
    tree.push(("dev/disk/by-path/pci-0000:00:1f.2-ata-9", "-> ../../sda"));
    tree.push(("dev/disk/by-path/pci-0000:00:1f.2-ata-9-part1", "-> ../../sda1"));
    let disks = recorded(&tree).disks;
    assert_eq!(disks[1].path.as_deref(), Some("pci-0000:00:1f.2-ata-9"));
}

#[test]
fn a_machine_that_says_nonsense() {
    let long = "x".repeat(10_000);
    let mut tree = vec![
        ("sys/class/dmi/id/product_name", long.as_str()),
        ("sys/class/dmi/id/sys_vendor", "\u{1b}[31mEvil\u{0}rest"),
        ("sys/class/dmi/id/product_serial", "To Be Filled By O.E.M."),
        ("sys/class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000"),
        ("proc/meminfo", "MemTotal: 99999999999999999999 kB\n"),
        ("sys/block/sda/size", "18446744073709551615\n"),
        ("sys/block/sda/device/model", long.as_str()),
        ("sys/block/sdb/size", "-1\n"),
        ("sys/block/sdc/size", ""),
        ("sys/block/sdd/size", "8"),
        ("sys/block/sdd/queue/logical_block_size", "0"),
        ("sys/class/net/eth0/device", "/"),
        ("sys/class/net/eth0/type", "1"),
        ("sys/class/net/eth0/address", "no address"),
    ];
    let names: Vec<(String, String)> =
        (0..100).map(|i| (format!("sys/block/sd{i:03}/size"), "8".to_owned())).collect();
    tree.extend(names.iter().map(|(path, size)| (path.as_str(), size.as_str())));
    let odd = recorded(&tree);
    assert_eq!(odd.product.map(|text| text.len()), Some(limits::HARDWARE_TEXT));
    assert_eq!((odd.vendor.as_deref(), odd.serial, odd.uuid), (Some("[31mEvil"), None, None));
    assert_eq!((odd.memory, odd.disks.len(), odd.nics.len()), (0, limits::HARDWARE_DISKS, 0));
    assert!(odd.disks.iter().all(|disk| disk.sector == 512));
    assert!(recorded(&[]).disks.is_empty());
}

/// This machine as it is, beside what other tools say of it.
#[test]
fn this_machine() {
    let inventory = inventory::read(&Roots::default());
    let count = fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t").count();
    assert_eq!(inventory.cpus as usize, count);
    let lsblk =
        std::process::Command::new("lsblk").args(["-dbnro", "NAME,SIZE,TYPE"]).output().unwrap();
    let lsblk = String::from_utf8_lossy(&lsblk.stdout).into_owned();
    for disk in &inventory.disks {
        assert!(lsblk.contains(&format!("{} {} disk", disk.name, disk.size)), "{disk:?} {lsblk}");
        assert!(disk.path.is_some(), "{disk:?}");
    }
    assert!(!inventory.disks.is_empty() && !inventory.nics.is_empty(), "{inventory:?}");
}
