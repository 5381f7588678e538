//! New systems out of images: archives, partitions, whole disks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use p2pinst_boot::setup::Inject;
use p2pinst_boot::setup::apply::{ApplyError, Source};
use p2pinst_types::record::Firmware;

use super::lab::{Lab, LabDisk, MIB, has_filesystem, root, said};

/// What every image of a system has here: identifiers that may not stay.
fn system(dir: &Path) {
    for sub in ["etc/ssh", "usr/lib/systemd", "usr/bin", "var/lib/dbus", "home", "var/lib/data"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::write(dir.join("etc/os-release"), "ID=lab\n").unwrap();
    fs::write(dir.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(dir.join("etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 image\n").unwrap();
    fs::write(
        dir.join("etc/fstab"),
        "LABEL=image / ext4 defaults 0 1\n/dev/old /data ext4 defaults 0 0\n",
    )
    .unwrap();
    fs::write(dir.join("etc/ssh/ssh_host_rsa_key"), "everybody's").unwrap();
    fs::write(dir.join("etc/ssh/sshd_config"), "kept").unwrap();
    fs::write(dir.join("usr/bin/ssh-keygen"), "").unwrap();
    symlink("/etc/machine-id", dir.join("var/lib/dbus/machine-id")).unwrap();
    fs::write(dir.join("var/lib/data/file"), "from the archive").unwrap();
}

fn read(dir: &Path, path: &str) -> String {
    fs::read_to_string(dir.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const TREE: &str = r#"
hostname = "{{name}}.lab"
agent = true
[[disk]]
match = { serial = "A1" }
wipe = "once"
[[disk.partition]]
label = "root"
size = "200MiB"
filesystem = "ext4"
mount = "/"
image = "tree"
[[disk.partition]]
label = "data"
size = "rest"
filesystem = "ext4"
mount = "/var/lib/data"
options = "noatime"
[[disk.partition]]
label = "swap"
size = "16MiB"
filesystem = "swap"
[[file]]
path = "/root/.ssh/authorized_keys"
mode = "0600"
owner = 7
group = 8
content = "ssh-ed25519 AAAA lab\n"
[[file]]
path = "/etc/motd"
template = "motd"
format = "user-data"
[boot]
bootloader = "none"
"#;

#[test]
fn a_system_from_an_archive() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 300)]) };
    let inject = |path: &str, source| Inject { path: path.into(), source, mode: 0o755 };
    let agent = vec![
        inject("/usr/local/bin/p2pinstd", Source::File("/proc/version".into())),
        inject("/etc/p2pinst/cert", Source::Bytes(b"certificate".to_vec())),
        inject(
            "/etc/systemd/system/multi-user.target.wants/p2pinstd.service",
            Source::Link("/lib/x".into()),
        ),
    ];
    let lab = Lab { agent, ..lab };
    lab.tar("tree", system);
    let plan = lab.set_up(TREE);
    let parts = &plan.goal.disks[0].partitions;
    lab.inside("sda", 1, |dir| {
        let fstab = read(dir, "etc/fstab");
        for (part, rest) in [
            (0, "/ ext4 defaults 0 1"),
            (1, "/var/lib/data ext4 noatime 0 2"),
            (2, "none swap sw 0 0"),
        ] {
            assert!(fstab.contains(&format!("PARTUUID={} {rest}\n", parts[part].uuid)), "{fstab}");
        }
        assert!(!fstab.contains("LABEL=image"), "{fstab}");
        assert_eq!(read(dir, "etc/hostname"), "node01.lab\n");
        assert_eq!(read(dir, "etc/hosts"), "127.0.0.1 localhost\n127.0.1.1\tnode01.lab node01\n");
        assert_eq!(read(dir, "etc/machine-id"), "");
        assert!(fs::symlink_metadata(dir.join("var/lib/dbus/machine-id")).is_err());
        assert!(
            !dir.join("etc/ssh/ssh_host_rsa_key").exists()
                && dir.join("etc/ssh/sshd_config").exists()
        );
        let unit = dir.join("etc/systemd/system/multi-user.target.wants/p2pinst-ssh-keys.service");
        assert!(fs::read_link(unit).unwrap().ends_with("p2pinst-ssh-keys.service"));
        let keys = dir.join("root/.ssh/authorized_keys");
        let meta = fs::metadata(&keys).unwrap();
        assert_eq!((meta.permissions().mode() & 0o777, meta.uid(), meta.gid()), (0o600, 7, 8));
        assert_eq!(read(dir, "etc/motd"), "rendered motd as user-data\n");
        assert_eq!(read(dir, "etc/p2pinst/cert"), "certificate");
        assert_eq!(
            fs::read(dir.join("usr/local/bin/p2pinstd")).unwrap(),
            fs::read("/proc/version").unwrap()
        );
        // what was extracted below a mount is on what is mounted there
        assert_eq!(fs::read_dir(dir.join("var/lib/data")).unwrap().count(), 0);
    });
    lab.inside("sda", 2, |dir| assert_eq!(read(dir, "file"), "from the archive"));
}

#[test]
fn an_archive_that_leads_out_is_kept_in() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 300)]) };
    let outside = tempfile::tempdir().unwrap();
    lab.tar("tree", |dir| {
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::create_dir_all(dir.join("var/lib/data")).unwrap();
        symlink(outside.path(), dir.join("root")).unwrap();
        symlink(outside.path().join("motd"), dir.join("etc/motd")).unwrap();
        symlink("../../../../../../../../../../etc", dir.join("up")).unwrap();
    });
    let document = TREE.replace("/etc/motd", "/up/motd");
    let plan = lab.plan(&document).unwrap();
    // either the file is made inside, or it is refused; never outside
    let _either = lab.apply(&plan);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!fs::read_to_string("/etc/motd").unwrap_or_default().contains("rendered"));
}

#[test]
fn images_that_do_not_fit_are_refused() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 300)]) };
    let text = |document: &str| lab.plan(document).unwrap_err().to_string();
    assert!(text(TREE).contains("tree, which is not known"), "{}", text(TREE));
    let image = |file: &str, mib: u64| {
        fs::File::create(lab.dir.join("images").join(file)).unwrap().set_len(mib * MIB).unwrap();
    };
    image("tree.disk", 1);
    assert!(text(TREE).contains("of a whole disk, not of"), "{}", text(TREE));
    image("big.disk", 301);
    let whole = "[[disk]]\nmatch = {}\nimage = \"big\"\n";
    assert!(text(whole).contains("big needs 301 MiB, there are 300 MiB"), "{}", text(whole));
    image("part.part", 201);
    let raw = TREE.replace("image = \"tree\"", "image = \"part\"");
    assert!(text(&raw).contains("root needs 201 MiB, there are 200 MiB"), "{}", text(&raw));
    let bare =
        TREE.replace("bootloader = \"none\"", "").replace("image = \"tree\"", "image = \"small\"");
    image("small.part", 100);
    assert!(text(&bare).contains("bios-boot"), "{}", text(&bare));
    let uefi = Lab { firmware: Firmware::Uefi, ..lab };
    let refused = uefi
        .plan(&bare.replace("template = \"motd\"", "template = \"none\""))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("type esp") && refused.contains("template none"), "{refused}");
}

/// An image of a disk with one system, smaller than the disk.
fn disk_image(lab: &Lab, filesystem: &str, mib: u64) {
    let make = Lab::new(&[LabDisk::new("sda", "M", mib)]);
    make.tar("tree", system);
    let document = format!(
        "[[disk]]\nmatch = {{}}\nwipe = \"once\"\n[[disk.partition]]\nlabel = \"boot\"\nfilesystem = \"ext4\"\nsize = \"8MiB\"\n\
         [[disk.partition]]\nlabel = \"system\"\nfilesystem = \"{filesystem}\"\nsize = \"rest\"\nmount = \"/\"\nimage = \"tree\"\n[boot]\nbootloader = \"none\"\n"
    );
    make.set_up(&document);
    said(
        "cp",
        &[
            "--sparse=always",
            make.file("sda").to_str().unwrap(),
            lab.dir.join("images/lab.disk").to_str().unwrap(),
        ],
    );
}

fn grown(filesystem: &str, mib: u64) {
    if !root() {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 2 * mib), LabDisk::new("sdb", "B1", 64)]);
    disk_image(&lab, filesystem, mib);
    let document = "hostname = \"{{name}}\"\n[[disk]]\nmatch = { serial = \"A1\" }\nwipe = \"once\"\nimage = \"lab\"\ngrow = true\n\
        [[disk]]\nmatch = { serial = \"B1\" }\n[[disk.partition]]\nlabel = \"data\"\nfilesystem = \"ext4\"\nsize = \"rest\"\nmount = \"/data\"\n";
    let plan = lab.set_up(document);
    let found = lab.found();
    let last = &found.disks["sda"].table.as_ref().unwrap().partitions[1];
    assert_eq!(last.start + last.size, (2 * mib - 1) * MIB, "up to the stamp");
    let checked = said("sfdisk", &["--verify", lab.dev("sda").to_str().unwrap()]);
    assert!(!checked.to_lowercase().contains("corrupt"), "{checked}");
    lab.inside("sda", 2, |dir| {
        let size = said("df", &["--output=size", "-B1M", dir.to_str().unwrap()]);
        let size: u64 = size.lines().last().unwrap().trim().parse().unwrap();
        assert!(size > mib + mib / 2, "{filesystem} has {size} of {} MiB", 2 * mib);
        assert_eq!(read(dir, "etc/hostname"), "node01\n");
        let fstab = read(dir, "etc/fstab");
        let data = &plan.goal.disks[1].partitions[0].uuid;
        assert!(
            fstab.contains("p2pinst setup")
                && fstab.contains(&format!("PARTUUID={data} /data ext4")),
            "{fstab}"
        );
        assert_eq!(read(dir, "var/lib/data/file"), "from the archive");
    });
}

#[test]
fn a_whole_disk_grows_with_ext4() {
    grown("ext4", 100);
}

#[test]
fn a_whole_disk_grows_with_xfs() {
    grown("xfs", 400);
}

#[test]
fn a_whole_disk_grows_with_btrfs() {
    grown("btrfs", 200);
}

#[test]
fn a_disk_without_a_system_is_written_as_it_is() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 32)]) };
    // a partition of the PC's old table, with nothing that anybody knows in it
    let mut image = vec![0xa5; usize::try_from(16 * MIB).unwrap()];
    image[..512].fill(0);
    image[440..444].copy_from_slice(b"data");
    image[450] = 0x83;
    image[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    image[458..462].copy_from_slice(&30_720_u32.to_le_bytes());
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(lab.dir.join("images/data.disk"), &image).unwrap();
    let document = "[[disk]]\nmatch = {}\nwipe = \"once\"\nimage = \"data\"\n";
    let plan = lab.plan(document).unwrap();
    let applied = lab.apply(&plan).unwrap();
    assert!(applied.remarks.iter().any(|r| r.contains("/etc/os-release")), "{applied:?}");
    assert!(fs::read(lab.file("sda")).unwrap()[..image.len()] == image);
    lab.settled(document, &plan);
    // what is to be put into a system needs one, and who says where it is knows that there is one
    for more in ["hostname = \"x\"\n", ""] {
        let root = if more.is_empty() { "root = 1\n" } else { "" };
        let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 32)]) };
        fs::write(lab.dir.join("images/data.disk"), &image).unwrap();
        let plan = lab.plan(&format!("{more}{document}{root}")).unwrap();
        let error = lab.apply(&plan).unwrap_err();
        assert!(matches!(error, ApplyError::NoRoot { .. }), "{error}");
    }
}

#[test]
fn the_image_of_a_partition_fills_it() {
    if !root() {
        return;
    }
    let lab = Lab { firmware: Firmware::Bios, ..Lab::new(&[LabDisk::new("sda", "A1", 300)]) };
    let tree = tempfile::tempdir().unwrap();
    system(tree.path());
    let image = lab.dir.join("images/tree.part");
    fs::File::create(&image).unwrap().set_len(64 * MIB).unwrap();
    said("mkfs.ext4", &["-q", "-F", "-d", tree.path().to_str().unwrap(), image.to_str().unwrap()]);
    lab.set_up(TREE);
    lab.inside("sda", 1, |dir| {
        let size = said("df", &["--output=size", "-B1M", dir.to_str().unwrap()]);
        assert!(size.lines().last().unwrap().trim().parse::<u64>().unwrap() > 150, "{size}");
        assert_eq!(read(dir, "etc/hostname"), "node01.lab\n");
    });
}

#[test]
fn a_system_of_uefi_has_its_boot_loader() {
    if !root() || !has_filesystem("vfat") {
        return;
    }
    let lab = Lab::new(&[LabDisk::new("sda", "A1", 400)]);
    lab.tar("tree", |dir| {
        system(dir);
        fs::create_dir_all(dir.join("usr/lib/systemd/boot/efi")).unwrap();
        fs::write(dir.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi"), "loader").unwrap();
        fs::create_dir_all(dir.join("boot")).unwrap();
        fs::write(dir.join("boot/vmlinuz-6.1.0-1-amd64"), "kernel").unwrap();
    });
    let esp = "[[disk.partition]]\nlabel = \"esp\"\ntype = \"esp\"\nsize = \"70MiB\"\nmount = \"/boot/efi\"\n[[disk.partition]]\nlabel = \"root\"";
    let document = TREE
        .replace("[[disk.partition]]\nlabel = \"root\"", esp)
        .replace("bootloader = \"none\"", "");
    let plan = lab.set_up(&document);
    lab.inside("sda", 1, |dir| {
        assert_eq!(read(dir, "EFI/BOOT/BOOTX64.EFI"), "loader");
        assert_eq!(read(dir, "p2pinst/vmlinuz-6.1.0-1-amd64"), "kernel");
        let root = &plan.goal.disks[0].partitions[1].uuid;
        assert!(
            read(dir, "loader/entries/p2pinst.conf").contains(&format!("root=PARTUUID={root} rw"))
        );
    });
    lab.inside("sda", 2, |dir| {
        assert!(read(dir, "etc/fstab").contains(" /boot/efi vfat umask=0077 0 2\n"))
    });
}
