//! What is in a scout: Debian's packages, the programs taken from them, the kernel modules, the small files of its own.

/// Packages whose libraries and programs every scout has.
pub(crate) const PACKAGES: &[&str] = &[
    "btrfs-progs",
    "busybox-static",
    "dosfstools",
    "e2fsprogs",
    "efibootmgr",
    "fdisk",
    "kexec-tools",
    "mount",
    "tar",
    "util-linux",
    "xfsprogs",
    "zstd",
];

/// What starts a machine, taken as it is.
pub(crate) const BOOT_PACKAGES: &[&str] = &["ipxe", "systemd-boot-efi"];

/// Packages for logical volumes, and what is taken from them.
pub(crate) const LVM: (&[&str], &[&str]) = (&["lvm2", "dmsetup"], &["lvm", "dmsetup"]);

/// The names by which `lvm` is called.
pub(crate) const LVM_NAMES: &[&str] = &[
    "lvchange",
    "lvcreate",
    "lvremove",
    "lvresize",
    "lvs",
    "pvcreate",
    "pvremove",
    "pvs",
    "vgchange",
    "vgcreate",
    "vgmknodes",
    "vgremove",
    "vgs",
];

/// The package that talks to the machine's controller, and what is taken from it.
pub(crate) const IPMITOOL: (&[&str], &[&str]) = (&["ipmitool"], &["ipmitool"]);

/// Programs of [`PACKAGES`]. What is a link brings what it points to.
pub(crate) const PROGRAMS: &[&str] = &[
    "addpart",
    "blkdiscard",
    "blkid",
    "blockdev",
    "btrfs",
    "busybox",
    "delpart",
    "dumpe2fs",
    "e2fsck",
    "e2label",
    "efibootmgr",
    "fatlabel",
    "fsck.ext4",
    "fsck.fat",
    "fsck.vfat",
    "kexec",
    "losetup",
    "lsblk",
    "mkfs.btrfs",
    "mkfs.ext4",
    "mkfs.fat",
    "mkfs.vfat",
    "mkfs.xfs",
    "mkswap",
    "mount",
    "partx",
    "resize2fs",
    "sfdisk",
    "swaplabel",
    "tar",
    "tune2fs",
    "umount",
    "wipefs",
    "xfs_db",
    "xfs_growfs",
    "xfs_repair",
    "zstd",
];

/// What programs read.
pub(crate) const DATA: &[&str] = &["/etc/mke2fs.conf"];

/// What busybox is called by where no program of its own is in the scout: its names in `/usr/bin`.
pub(crate) const APPLETS: &[&str] = &[
    "[",
    "acpid",
    "arping",
    "ash",
    "awk",
    "basename",
    "blkdiscard",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "chroot",
    "clear",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "depmod",
    "df",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "fstrim",
    "grep",
    "gunzip",
    "gzip",
    "halt",
    "head",
    "hexdump",
    "hostname",
    "hwclock",
    "id",
    "insmod",
    "ip",
    "kill",
    "killall",
    "less",
    "ln",
    "ls",
    "lsmod",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "modinfo",
    "modprobe",
    "more",
    "mv",
    "nc",
    "netstat",
    "nproc",
    "nslookup",
    "od",
    "pidof",
    "ping",
    "poweroff",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "reboot",
    "rm",
    "rmdir",
    "rmmod",
    "route",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "swapoff",
    "swapon",
    "switch_root",
    "sync",
    "sysctl",
    "tail",
    "tee",
    "test",
    "tftp",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "truncate",
    "udhcpc",
    "uname",
    "uniq",
    "unxz",
    "uptime",
    "usleep",
    "vi",
    "wc",
    "wget",
    "which",
    "xargs",
    "xxd",
    "xz",
    "zcat",
];

/// Kernel modules by what they are for. A kernel that lacks one, or has it built in, is no error.
pub(crate) const MODULES: &[(&str, &[&str])] = &[
    (
        "virtual machines",
        &[
            "hv_netvsc",
            "hv_storvsc",
            "hv_vmbus",
            "hyperv_keyboard",
            "hid_hyperv",
            "virtio_blk",
            "virtio_console",
            "virtio_mmio",
            "virtio_net",
            "virtio_pci",
            "virtio_rng",
            "virtio_scsi",
            "vmw_pvscsi",
            "vmxnet3",
            "xen_blkfront",
            "xen_netfront",
        ],
    ),
    (
        "disks",
        &[
            "3w_9xxx",
            "3w_sas",
            "aacraid",
            "ahci",
            "arcmsr",
            "ata_piix",
            "hpsa",
            "isci",
            "megaraid_mbox",
            "megaraid_sas",
            "mmc_block",
            "mpi3mr",
            "mpt3sas",
            "mptsas",
            "mptspi",
            "nvme",
            "sata_nv",
            "sata_sil24",
            "sd_mod",
            "sdhci_pci",
            "smartpqi",
            "uas",
            "usb_storage",
            "vmd",
        ],
    ),
    (
        "network cards",
        &[
            "8139cp",
            "8139too",
            "alx",
            "atlantic",
            "be2net",
            "bna",
            "bnx2",
            "bnx2x",
            "bnxt_en",
            "cxgb4",
            "e1000",
            "e1000e",
            "ena",
            "enic",
            "forcedeth",
            "gve",
            "hinic",
            "i40e",
            "iavf",
            "ice",
            "igb",
            "igc",
            "ionic",
            "ixgbe",
            "ixgbevf",
            "mlx4_en",
            "mlx5_core",
            "ne2k_pci",
            "nfp",
            "pcnet32",
            "qede",
            "r8169",
            "sfc",
            "sky2",
            "tg3",
            "tulip",
        ],
    ),
    ("network cards at USB", &["asix", "ax88179_178a", "cdc_ether", "cdc_ncm", "r8152"]),
    ("parts of network cards", &["broadcom", "marvell", "realtek", "smsc"]),
    (
        "filesystems",
        &[
            "btrfs",
            "ext4",
            "nls_ascii",
            "nls_cp437",
            "nls_iso8859_1",
            "nls_utf8",
            "overlay",
            "vfat",
            "xfs",
        ],
    ),
    (
        "checksums, in software and by the processor",
        &[
            "blake2b_generic",
            "crc32c_generic",
            "crc32c_intel",
            "sha256_generic",
            "sha256_ssse3",
            "xxhash_generic",
        ],
    ),
    ("block devices", &["dm_mod", "loop"]),
    (
        "keyboards and buttons",
        &[
            "button",
            "ehci_pci",
            "evdev",
            "hid_generic",
            "ohci_pci",
            "uhci_hcd",
            "usbhid",
            "xhci_pci",
        ],
    ),
    ("firmware and the controller", &["efivarfs", "ipmi_devintf", "ipmi_si", "ipmi_ssif"]),
];

/// Loaded at once, as nothing in the machine asks for them by its name.
const LOADED: &str = "efivarfs loop button evdev sd_mod ipmi_devintf";

/// Directories and links that programs expect.
pub(crate) const DIRECTORIES: &[&str] = &[
    "dev",
    "etc/p2pinst",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/lib/modules",
    "var/lib",
    "var/log",
];
/// The links of a merged `/usr`, and two more.
pub(crate) const LINKS: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("etc/mtab", "/proc/self/mounts"),
    ("etc/resolv.conf", "/run/scout/resolv.conf"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("sbin", "usr/sbin"),
    ("var/run", "/run"),
];

/// The scout's own files: path, whether it is a program, content.
pub(crate) const OWN: &[(&str, bool, &str)] = &[
    ("init", true, include_str!("init.sh")),
    ("etc/acpi/PWRF/00000080", true, include_str!("power.sh")),
    ("usr/lib/scout/dhcp", true, include_str!("dhcp.sh")),
    ("usr/lib/scout/modules", false, LOADED),
    ("etc/group", false, "root:x:0:\ntty:x:5:\ndisk:x:6:\n"),
    ("etc/hosts", false, "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/lvm/lvm.conf", false, LVM_CONF),
    ("etc/nsswitch.conf", false, "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("etc/os-release", false, OS_RELEASE),
    ("etc/passwd", false, "root:x:0:0:root:/root:/bin/sh\n"),
];

/// What the scout says that it is.
pub(crate) const OS_RELEASE: &str =
    "ID=p2pinst-scout\nNAME=\"p2pinst scout\"\nPRETTY_NAME=\"p2pinst scout\"\n";

/// There is no udev in the scout: LVM makes the names in `/dev` itself.
const LVM_CONF: &str = "\
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
devices { obtain_device_list_from_udev = 0 external_device_info_source = \"none\" use_devicesfile = 0 }
global { event_activation = 0 use_lvmpolld = 0 }
backup { backup = 0 archive = 0 }
";

/// The command line of the image for UEFI. The last console is the one that programs write to; a console that the machine
/// lacks is ignored.
pub(crate) const COMMAND_LINE: &str =
    "console=ttyS0,115200n8 console=tty0 loglevel=4 panic=60 net.ifnames=0";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push(path);
            }
        }
    }

    /// The programs that a source names where it starts some.
    fn started(text: &str) -> Vec<String> {
        let code = text.split("#[cfg(test)]").next().unwrap();
        let calls = ["Tool::new(", "clean("].into_iter().flat_map(|call| code.split(call).skip(1));
        let names = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
        names.map(str::to_owned).collect()
    }

    #[test]
    fn a_scout_has_every_program_that_a_setup_starts() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = vec![src.join("image/rootfs.rs"), src.join("image/verify.rs")];
        sources(&src.join("setup"), &mut files);
        let read = |path: &PathBuf| started(&fs::read_to_string(path).unwrap());
        let named: BTreeSet<String> = files.iter().flat_map(read).collect();
        for known in ["addpart", "blkid", "mkfs.xfs", "pvcreate", "tar", "xfs_growfs"] {
            assert!(named.contains(known), "{known} is not among {named:?}");
        }
        let lists = [PROGRAMS, APPLETS, LVM.1, LVM_NAMES, IPMITOOL.1];
        let has = |name: &str| lists.iter().any(|list| list.contains(&name));
        // there is no udev in it, and nobody needs it
        let lacks: Vec<&String> =
            named.iter().filter(|name| !has(name) && *name != "udevadm").collect();
        assert_eq!(lacks, [""; 0], "the scout lacks them");
    }
}
