//! What starts the new system: GRUB where it brings it, or systemd-boot at the path that UEFI falls back to.

use std::path::Path;

use p2pinst_types::record::Firmware;

use super::ApplyError;
use super::error::IoContext;
use super::mount::Mounts;
use super::rootfs::{Rights, Root};
use super::tool::Tool;
use crate::setup::document::{NextBoot, PartitionType};
use crate::setup::found::FoundDisk;
use crate::setup::plan::{Goal, MountGoal, Place, RootGoal};

/// Where firmware looks without being told (UEFI specification, 3.5.1.1), and systemd-boot's name, by architecture.
const NAMES: [(&str, &str, &str); 2] = [
    ("x86_64", "BOOTX64.EFI", "systemd-bootx64.efi"),
    ("aarch64", "BOOTAA64.EFI", "systemd-bootaa64.efi"),
];
/// Where distributions keep systemd-boot.
const SYSTEMD_BOOT: &str = "/usr/lib/systemd/boot/efi";
/// What our entry in the firmware's list is called.
const ENTRY: &str = "p2pinst";

fn names() -> Result<(&'static str, &'static str), ApplyError> {
    let arch = rustix::system::uname().machine().to_string_lossy().into_owned();
    let found = NAMES.into_iter().find(|(name, ..)| *name == arch);
    found.map(|(_, efi, boot)| (efi, boot)).ok_or(ApplyError::NoLoader(
        "there is none for this architecture; say bootloader = \"none\"",
    ))
}

/// Installs a boot loader into the new system, which is mounted.
pub(super) fn install(goal: &Goal, mounts: &mut Mounts, disk: &Path) -> Result<(), ApplyError> {
    let root = Root::open(mounts.target())?;
    let grub = root.has("/usr/sbin/grub-install") || root.has("/usr/sbin/grub2-install");
    match goal.firmware {
        Firmware::Bios if grub && root.has("/usr/lib/grub/i386-pc") => {
            let disk = std::fs::canonicalize(disk).on("find", disk)?;
            grub_install(&root, mounts, &["--target=i386-pc"], Some(&disk))
        }
        Firmware::Bios => Err(ApplyError::NoLoader(
            "the image has no GRUB for BIOS; install grub-pc in it, or say bootloader = \"none\"",
        )),
        Firmware::Uefi => {
            let esp =
                esp(goal).ok_or(ApplyError::NoLoader("no EFI system partition is mounted"))?;
            let (target, directory) = ("--target=x86_64-efi", format!("--efi-directory={esp}"));
            if grub && root.has("/usr/lib/grub/x86_64-efi") {
                // at the fallback path, which no lost list of the firmware can hide
                return grub_install(
                    &root,
                    mounts,
                    &[target, &directory, "--removable", "--no-nvram"],
                    None,
                );
            }
            systemd_boot(goal, &root, &esp)
        }
    }
}

/// Where the EFI system partition is mounted.
fn esp(goal: &Goal) -> Option<String> {
    let is_esp = |mount: &&MountGoal| match mount.place {
        Place::Partition(d, p) => {
            goal.partition(d, p).is_some_and(|part| part.kind == PartitionType::Esp)
        }
        Place::Volume(_) => false,
    };
    goal.mounts.iter().find(is_esp)?.path.clone()
}

fn grub_install(
    root: &Root,
    mounts: &mut Mounts,
    options: &[&str],
    disk: Option<&Path>,
) -> Result<(), ApplyError> {
    mounts.add_system()?;
    let (install, config, at) = if root.has("/usr/sbin/grub-install") {
        ("/usr/sbin/grub-install", "/usr/sbin/grub-mkconfig", "/boot/grub/grub.cfg")
    } else {
        ("/usr/sbin/grub2-install", "/usr/sbin/grub2-mkconfig", "/boot/grub2/grub.cfg")
    };
    let tool = Tool::new("chroot", "install GRUB").arg(root.path()).arg(install).args(options);
    let tool = match disk {
        Some(disk) => tool.arg(disk),
        None => tool,
    };
    tool.run()?;
    Tool::new("chroot", "configure GRUB").arg(root.path()).args([config, "-o", at]).run()?;
    Ok(())
}

fn systemd_boot(goal: &Goal, root: &Root, esp: &str) -> Result<(), ApplyError> {
    let (fallback, name) = names()?;
    let source = format!("{SYSTEMD_BOOT}/{name}");
    let missing = "neither the image nor this system has GRUB for UEFI or systemd-boot; install one in the image, or say bootloader = \"none\"";
    let open = || {
        root.file(&source).or_else(|_| {
            Root::open(Path::new("/")).map_err(|_| rustix::io::Errno::NOENT)?.file(&source)
        })
    };
    drop(open().map_err(|_| ApplyError::NoLoader(missing))?);
    let kernel = root
        .list("/boot")
        .into_iter()
        .filter(|name| name.starts_with("vmlinuz-"))
        .max_by_key(|name| version(name));
    let kernel = kernel.ok_or(ApplyError::NoLoader("the image has no kernel (/boot/vmlinuz-…)"))?;
    let release = kernel.trim_start_matches("vmlinuz-").to_owned();
    let initrds = [format!("initrd.img-{release}"), format!("initramfs-{release}.img")];
    let initrd = initrds.into_iter().find(|name| root.has(&format!("/boot/{name}")));
    // where the partition is /boot itself, they are there already
    let dir = if esp == "/boot" { "" } else { "/p2pinst" };
    if esp != "/boot" {
        for name in [Some(&kernel), initrd.as_ref()].into_iter().flatten() {
            let from = format!("/boot/{name}");
            let file =
                root.file(&from).on("read", root.path().join(from.trim_start_matches('/')))?;
            root.write(&format!("{esp}{dir}/{name}"), file, Rights::PUBLIC)?;
        }
    }
    let Some(RootGoal::Mounted(place)) = goal.root else {
        return Err(ApplyError::Plan("there is no root"));
    };
    let spec = goal.spec(place).ok_or(ApplyError::Plan("there is no root"))?;
    let more = root
        .read("/etc/kernel/cmdline")?
        .map(|text| p2pinst_command::text(&text).replace('\n', " "));
    let more = more.filter(|more| !more.is_empty()).unwrap_or_else(|| "rw".to_owned());
    let initrd = initrd.map_or(String::new(), |name| format!("initrd {dir}/{name}\n"));
    let entry = format!(
        "title {} ({release})\nlinux {dir}/{kernel}\n{initrd}options root={spec} {more}\n",
        goal.setup_name
    );
    root.write(&format!("{esp}/loader/entries/p2pinst.conf"), entry.as_bytes(), Rights::PUBLIC)?;
    root.write(
        &format!("{esp}/loader/loader.conf"),
        &b"default p2pinst.conf\ntimeout 0\n"[..],
        Rights::PUBLIC,
    )?;
    // what firmware starts comes last, when all that it needs is there
    for to in [format!("{esp}/EFI/systemd/{name}"), format!("{esp}/EFI/BOOT/{fallback}")] {
        let file = open().map_err(|_| ApplyError::NoLoader(missing))?;
        root.write(&to, file, Rights::PUBLIC)?;
    }
    Ok(())
}

/// Numbers in a name of a kernel, so that 6.10 comes after 6.9.
fn version(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Sets what the firmware starts from. Firmware that lets nobody set it is no error: the disk has the path that it falls back to.
pub(super) fn set_order(
    goal: &Goal,
    disk: &Path,
    found: &FoundDisk,
) -> Result<Option<String>, ApplyError> {
    if !Path::new("/sys/firmware/efi/efivars").exists() {
        return Ok(Some("the firmware's boot order cannot be set from here".to_owned()));
    }
    let ask = || Tool::new("efibootmgr", "read the firmware's boot order").run();
    let entries = match ask() {
        Ok(said) => entries(&said),
        Err(error) => return Ok(Some(error.to_string())),
    };
    if goal.boot.next == NextBoot::Pxe {
        let network = |name: &str| {
            ["pxe", "http", "network", "ipv4", "ipv6"]
                .iter()
                .any(|word| name.to_lowercase().contains(word))
        };
        let (mut order, rest): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(_, name)| network(name));
        if order.is_empty() {
            return Ok(Some("the firmware lists nothing to start from the network".to_owned()));
        }
        order.extend(rest);
        let order: Vec<String> = order.into_iter().map(|(number, _)| number).collect();
        let set = Tool::new("efibootmgr", "set the firmware's boot order").args([
            "-q",
            "-o",
            &order.join(","),
        ]);
        return Ok(set.run().err().map(|error| error.to_string()));
    }
    let esp = PartitionType::Esp.guid().to_string();
    let parts = found.table.iter().flat_map(|table| &table.partitions);
    let Some(part) = parts.into_iter().find(|part| part.kind == esp || part.kind == "ef") else {
        return Ok(Some("the disk has no EFI system partition".to_owned()));
    };
    for (number, _) in entries.iter().filter(|(_, name)| name == ENTRY) {
        let _gone =
            Tool::new("efibootmgr", "replace an entry").args(["-q", "-B", "-b", number]).succeeds();
    }
    let (fallback, _) = names()?;
    // a new entry comes first
    let make =
        Tool::new("efibootmgr", "set the firmware's boot order").args(["-q", "-c", "-d"]).arg(disk);
    let make = make.args([
        "-p",
        &part.number.to_string(),
        "-L",
        ENTRY,
        "-l",
        &format!("\\EFI\\BOOT\\{fallback}"),
    ]);
    Ok(make.run().err().map(|error| error.to_string()))
}

/// Numbers and names out of what efibootmgr says: `Boot0003* UEFI PXEv4 (MAC:…)<tab>PciRoot(0x0)/…`.
fn entries(said: &str) -> Vec<(String, String)> {
    let entry = |line: &str| {
        let (number, rest) = line.strip_prefix("Boot")?.split_at_checked(4)?;
        let name = rest.trim_start_matches('*').split('\t').next()?.trim();
        let hex = number.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| (number.to_owned(), name.to_owned()))
    };
    said.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::document::Setup;
    use crate::setup::plan::tests::{blank, planned};

    #[test]
    fn systemd_boot_lies_where_firmware_falls_back_to() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let text = "name = \"compute\"\n[[disk]]\nmatch = { serial = \"S0\" }\n\
            [[disk.partition]]\nlabel = \"esp\"\ntype = \"esp\"\nsize = \"100MiB\"\nmount = \"/boot/efi\"\n\
            [[disk.partition]]\nlabel = \"root\"\nfilesystem = \"ext4\"\nsize = \"rest\"\nmount = \"/\"\nimage = \"tree\"\n";
        let plan = planned(&Setup::parse(text).unwrap(), &blank(1), 1).unwrap();
        assert_eq!(esp(&plan.goal).as_deref(), Some("/boot/efi"));
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (fallback, name) = names().unwrap();
        let put = |path: &str, content: &str| {
            root.write(path, content.as_bytes(), Rights::PUBLIC).unwrap()
        };
        let none = systemd_boot(&plan.goal, &root, "/boot/efi");
        assert!(matches!(none, Err(ApplyError::NoLoader(_))), "{none:?}");
        put(&format!("{SYSTEMD_BOOT}/{name}"), "loader");
        for release in ["6.9.0-1-amd64", "6.10.0-1-amd64"] {
            put(&format!("/boot/vmlinuz-{release}"), release);
            put(&format!("/boot/initrd.img-{release}"), release);
        }
        put("/etc/kernel/cmdline", "rw quiet\n");
        systemd_boot(&plan.goal, &root, "/boot/efi").unwrap();
        let read = |path: &str| String::from_utf8(root.read(path).unwrap().unwrap()).unwrap();
        assert_eq!(read(&format!("/boot/efi/EFI/BOOT/{fallback}")), "loader");
        assert_eq!(read("/boot/efi/p2pinst/vmlinuz-6.10.0-1-amd64"), "6.10.0-1-amd64");
        let uuid = &plan.goal.disks[0].partitions[1].uuid;
        let entry = read("/boot/efi/loader/entries/p2pinst.conf");
        assert!(entry.contains("initrd /p2pinst/initrd.img-6.10.0-1-amd64\n"), "{entry}");
        assert!(entry.ends_with(&format!("options root=PARTUUID={uuid} rw quiet\n")), "{entry}");
    }

    #[test]
    fn what_firmware_lists() {
        let said = "BootCurrent: 0001\nTimeout: 3 seconds\nBootOrder: 0001,0003\nBoot0001* p2pinst\tHD(1,GPT)\nBoot0003* UEFI PXEv4 (MAC:525400123456)\nBootx\n";
        let expected = [("0001", "p2pinst"), ("0003", "UEFI PXEv4 (MAC:525400123456)")];
        assert_eq!(entries(said), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(version("vmlinuz-6.10.1-1-amd64") > version("vmlinuz-6.9.12-3-amd64"));
    }
}
