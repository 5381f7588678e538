//! What a machine is made of, and QEMU's words for it.

use std::path::{Path, PathBuf};

use p2pinst_types::mac::Mac;
use serde::{Deserialize, Serialize};

/// UEFI's code, and the template of its variables.
pub(super) const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
pub(super) const VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// iPXE on the network card, as cards have it for BIOS.
pub(super) const BIOS_ROM: &str = "/usr/lib/ipxe/qemu/efi-virtio.rom";

/// A processor that can be emulated, with the instructions for AES: without them encrypted bytes come at a MB a second.
const CPU: &str = "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq";

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// SeaBIOS, with iPXE on the network card.
    Bios,
    /// OVMF (EDK2), with its own network stack.
    Uefi {
        /// Whether it boots by HTTP; by PXE otherwise.
        http: bool,
    },
}

/// Where a machine looks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boot {
    /// On the network, then on its disks.
    Network,
    /// On its disks, then on the network.
    Disk,
}

/// What a disk is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bus {
    /// virtio: `/dev/vda`.
    Virtio,
    /// NVMe: `/dev/nvme0n1`.
    Nvme,
    /// SCSI (behind virtio): `/dev/sda`, with a world-wide name.
    Scsi {
        /// The name.
        wwn: u64,
    },
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its size in bytes; it takes no room until it is written.
    pub size: u64,
    /// Its serial number: at most 20 letters and digits.
    pub serial: String,
    /// What it is plugged into.
    pub bus: Bus,
}

/// A kernel that QEMU itself loads, in place of the firmware's choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direct {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: String,
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name: up to 12 small letters and digits. Also its serial number.
    pub name: String,
    /// Its memory in MiB.
    pub memory: u32,
    /// Its processors.
    pub cpus: u32,
    /// How it starts.
    pub firmware: Firmware,
    /// Where it looks first, unless its controller was told otherwise.
    pub boot: Boot,
    /// The address of its network card.
    pub mac: Mac,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// A kernel to load at once.
    pub direct: Option<Direct>,
}

impl Spec {
    /// A machine with 512 MiB, one processor, and no disk, which looks on the network first.
    #[must_use]
    pub fn new(name: &str, firmware: Firmware, mac: Mac) -> Self {
        Self {
            name: name.to_owned(),
            memory: 512,
            cpus: 1,
            firmware,
            boot: Boot::Network,
            mac,
            disks: Vec::new(),
            direct: None,
        }
    }

    /// The same with one more disk.
    #[must_use]
    pub fn disk(mut self, size: u64, serial: &str, bus: Bus) -> Self {
        self.disks.push(Disk { size, serial: serial.to_owned(), bus });
        self
    }

    /// The same with so much memory, in MiB.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// The same, looking there first.
    #[must_use]
    pub fn boot(mut self, boot: Boot) -> Self {
        self.boot = boot;
        self
    }

    /// The name of the end of its cable: the kernel's limit is 15 characters.
    pub(super) fn tap(&self) -> String {
        format!("t-{}", self.name)
    }
}

/// The file of a disk.
pub(super) fn disk(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("disk{number}.raw"))
}

/// The arguments of QEMU for a machine whose files are in a directory.
pub(super) fn arguments(spec: &Spec, dir: &Path, boot: Boot) -> Vec<String> {
    let at = |file: &str| dir.join(file).display().to_string();
    let mut args = Args(Vec::new());
    args.two("-name", &spec.name);
    // only with its graphics off does the firmware of a PC speak on the serial line
    let graphics = if spec.firmware == Firmware::Bios { ",graphics=off" } else { "" };
    args.two("-machine", &format!("q35,accel=tcg{graphics}"));
    args.two("-cpu", CPU);
    args.two("-m", &format!("{}M", spec.memory));
    args.two("-smp", &spec.cpus.to_string());
    args.one("-nodefaults");
    args.one("-no-user-config");
    args.two("-display", "none");
    args.two("-chardev", &format!("file,id=serial,path={},append=on", at("serial")));
    args.two("-serial", "chardev:serial");
    args.two("-qmp", &format!("unix:{},server=on,wait=off", at("qmp")));
    args.two("-pidfile", &at("pid"));
    args.two("-uuid", &uuid(spec.mac));
    args.two(
        "-smbios",
        &format!("type=1,manufacturer=p2pinst,product=testnet,serial={}", spec.name),
    );
    firmware(&mut args, spec.firmware, &at("vars"));
    let (network, disks) = match boot {
        Boot::Network => (1, 2),
        Boot::Disk => (1 + spec.disks.len(), 1),
    };
    // with BIOS the card's own iPXE, which QEMU finds; with UEFI its own network stack, and no iPXE
    let rom = if spec.firmware == Firmware::Bios { "" } else { ",romfile=" };
    args.two("-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", spec.tap()));
    args.two(
        "-device",
        &format!("virtio-net-pci,netdev=net,mac={},bootindex={network}{rom}", spec.mac),
    );
    if spec.disks.iter().any(|d| matches!(d.bus, Bus::Scsi { .. })) {
        args.two("-device", "virtio-scsi-pci,id=scsi");
    }
    for (i, d) in spec.disks.iter().enumerate() {
        let file = disk(dir, i).display().to_string();
        args.two("-drive", &format!("if=none,id=d{i},format=raw,file={file},discard=unmap"));
        let device = match d.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Nvme => "nvme".to_owned(),
            Bus::Scsi { wwn } => format!("scsi-hd,bus=scsi.0,wwn={wwn:#x}"),
        };
        let order = disks + i;
        args.two("-device", &format!("{device},drive=d{i},serial={},bootindex={order}", d.serial));
    }
    if let Some(direct) = &spec.direct {
        args.two("-kernel", &direct.kernel.display().to_string());
        if let Some(initrd) = &direct.initrd {
            args.two("-initrd", &initrd.display().to_string());
        }
        args.two("-append", &direct.append);
    }
    args.one("-daemonize");
    args.0
}

fn firmware(args: &mut Args, firmware: Firmware, vars: &str) {
    let Firmware::Uefi { http } = firmware else { return };
    args.two("-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={CODE}"));
    args.two("-drive", &format!("if=pflash,unit=1,format=raw,file={vars}"));
    // each attempt by IPv6 would cost a minute
    let mut off = vec!["IPv6Support", "IPv6PXESupport"];
    if http {
        off.push("IPv4PXESupport");
    }
    for what in off {
        args.two("-fw_cfg", &format!("name=opt/org.tianocore/{what},string=no"));
    }
}

struct Args(Vec<String>);

impl Args {
    fn one(&mut self, arg: &str) {
        self.0.push(arg.to_owned());
    }

    fn two(&mut self, option: &str, value: &str) {
        self.one(option);
        self.one(value);
    }
}

/// An identity that follows from the address, so that it stays.
fn uuid(mac: Mac) -> String {
    let digits = mac.to_string().replace(':', "");
    format!("70327069-6e73-4000-8000-{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(firmware: Firmware) -> Spec {
        Spec::new("m1", firmware, "52:54:00:77:00:01".parse().unwrap())
            .disk(1 << 30, "S1", Bus::Virtio)
            .disk(1 << 30, "S2", Bus::Scsi { wwn: 0x5000_0000_0000_0001 })
    }

    #[test]
    fn the_order_of_boot() {
        let order = |boot| {
            let args = arguments(&spec(Firmware::Bios), Path::new("/x"), boot);
            let index = |a: &String| a.split_once("bootindex=").map(|(_, n)| n[..1].to_owned());
            args.iter().filter_map(index).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(Boot::Network), "1 2 3");
        assert_eq!(order(Boot::Disk), "3 1 2");
    }

    #[test]
    fn firmware_is_told_what_not_to_try() {
        let args = |firmware| arguments(&spec(firmware), Path::new("/x"), Boot::Network).join(" ");
        let pxe = args(Firmware::Uefi { http: false });
        assert!(pxe.contains("IPv6PXESupport,string=no") && !pxe.contains("IPv4PXESupport"));
        assert!(args(Firmware::Uefi { http: true }).contains("IPv4PXESupport,string=no"));
        let bios = args(Firmware::Bios);
        assert!(!bios.contains("tianocore") && !bios.contains("romfile"));
        assert!(bios.contains("wwn=0x5000000000000001") && bios.contains("-uuid 70327069-"));
    }
}
