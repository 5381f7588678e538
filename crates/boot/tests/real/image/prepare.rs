//! What is published, and what is said of it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use p2pinst_boot::image::layout::{Content, Kind, Layout, Warning};
use p2pinst_boot::image::prepare::{Options, PrepareError};
use p2pinst_boot::image::{Prepared, Watch, inspect, prepare};

use super::{is_root, sh, unwatched, workshop};

fn options(dir: &Path) -> Options {
    Options { work_dir: dir.to_owned(), max_len: 1 << 30, limits: Default::default() }
}

fn prepared(dir: &Path, name: &str) -> Result<Prepared, PrepareError> {
    prepare(&dir.join(name), &options(dir), &unwatched())
}

fn refusal(dir: &Path, name: &str) -> String {
    let before = fs::read_dir(dir).unwrap().count();
    let error = prepared(dir, name).unwrap_err().to_string();
    assert_eq!(fs::read_dir(dir).unwrap().count(), before, "nothing is left");
    error
}

fn allocated(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

/// A disk with what the tools of others put on it.
fn make_disk(dir: &Path) {
    sh(
        dir,
        r#"truncate -s 64M disk
           printf 'label: gpt\nstart=2048,size=20480,type=U,name=ESP\nstart=24576,size=65536,type=L,name=root\nstart=98304,size=8192,type=S\n' | sfdisk -q disk
           truncate -s 10M esp; mkfs.vfat -n BOOT esp >/dev/null; dd if=esp of=disk bs=512 seek=2048 conv=notrunc,sparse status=none
           truncate -s 32M root; mkfs.ext4 -q -L system root; dd if=root of=disk bs=512 seek=24576 conv=notrunc,sparse status=none
           truncate -s 4M swap; mkswap -q -L pages swap 2>/dev/null; dd if=swap of=disk bs=512 seek=98304 conv=notrunc,sparse status=none"#,
    );
}

#[test]
fn disks_are_read_as_sfdisk_and_blkid_read_them() {
    let dir = workshop();
    make_disk(dir.path());
    let found = prepared(dir.path(), "disk").unwrap();
    assert!(found.made.is_none() && found.path == dir.path().join("disk"));
    assert_eq!((found.kind, found.len), (Kind::Disk, 64 << 20));
    let Content::Disk(disk) = &found.description.content else { panic!() };
    let said: serde_json::Value =
        serde_json::from_str(&sh(dir.path(), "sfdisk --json disk")).unwrap();
    let table = &said["partitiontable"];
    assert_eq!(table["id"], disk.id.as_str());
    let theirs = table["partitions"].as_array().unwrap();
    assert_eq!(theirs.len(), disk.partitions.len());
    for (ours, theirs) in disk.partitions.iter().zip(theirs) {
        assert_eq!(theirs["start"], ours.start / 512);
        assert_eq!(theirs["size"], ours.len / 512);
        assert_eq!(theirs["type"], ours.type_id.as_str());
        assert_eq!(theirs["uuid"].as_str().unwrap().to_lowercase(), ours.uuid);
        assert_eq!(theirs["name"].as_str(), ours.name.as_deref());
        let at = format!("blkid -p -o export -O {} -S {} disk", ours.start, ours.len);
        let blkid = sh(dir.path(), &at);
        let f = ours.filesystem.as_ref().unwrap();
        for (key, value) in [
            ("TYPE", f.kind.name()),
            ("UUID", f.uuid.as_deref().unwrap()),
            ("LABEL", f.label.as_deref().unwrap()),
        ] {
            assert!(blkid.lines().any(|l| l == format!("{key}={value}")), "{key} {value}\n{blkid}");
        }
    }
    assert_eq!(found.description.warnings, [Warning::Swap { partition: 3 }]);
    let text = found.description.describe();
    assert!(text.contains("\"root\", ext4 \"system\"") && text.contains("secrets"), "{text}");

    sh(dir.path(), "cp --sparse=always disk longer; truncate -s 70M longer");
    let longer = inspect(&dir.path().join("longer"), &unwatched()).unwrap();
    assert!(longer.warnings.contains(&Warning::GptBackupNotAtEnd), "{longer:?}");
    sh(dir.path(), "sgdisk -e longer >/dev/null");
    let mended = inspect(&dir.path().join("longer"), &unwatched()).unwrap();
    assert!(!mended.warnings.contains(&Warning::GptBackupNotAtEnd), "{mended:?}");
    sh(dir.path(), "dd if=/dev/zero of=longer bs=512 seek=1 count=1 conv=notrunc status=none");
    let damaged = inspect(&dir.path().join("longer"), &unwatched()).unwrap();
    assert!(damaged.warnings.contains(&Warning::GptPrimaryBad), "{damaged:?}");
    assert_eq!(damaged.kind(), Kind::Disk);
}

#[test]
fn old_tables_are_read_as_sfdisk_reads_them() {
    let dir = workshop();
    sh(
        dir.path(),
        r#"truncate -s 64M disk
           printf 'label: dos\nstart=2048,size=20480,type=83,bootable\nstart=24576,type=5\nstart=26624,size=10000,type=83\nstart=40960,size=10000,type=82\n' | sfdisk -q disk"#,
    );
    let found = inspect(&dir.path().join("disk"), &unwatched()).unwrap();
    let Content::Disk(disk) = &found.content else { panic!("{found:?}") };
    let theirs: serde_json::Value =
        serde_json::from_str(&sh(dir.path(), "sfdisk --json disk")).unwrap();
    let theirs: Vec<_> = theirs["partitiontable"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["start"].as_u64().unwrap() * 512, p["size"].as_u64().unwrap() * 512))
        .collect();
    let ours: Vec<_> = disk.partitions.iter().map(|p| (p.start, p.len)).collect();
    assert_eq!(ours, theirs);
    assert!(disk.partitions[0].bootable && disk.partitions[2].number == 5);
    assert_eq!(found.warnings, [Warning::NoBootloader]);
}

#[test]
fn filesystems_are_told_apart() {
    let dir = workshop();
    sh(
        dir.path(),
        "for k in ext2 ext3 ext4; do truncate -s 20M $k; mkfs.$k -q -L l-$k $k; done
         truncate -s 320M xfs; mkfs.xfs -q -L l-xfs xfs
         truncate -s 120M btrfs; mkfs.btrfs -q -L l-btrfs btrfs
         for b in 12 16 32; do truncate -s 40M vfat; mkfs.vfat -F $b -s 1 -n LVFAT vfat >/dev/null 2>&1 || mkfs.vfat -F $b -n LVFAT vfat >/dev/null; mv vfat vfat$b; done
         truncate -s 20M swap; mkswap -q -L l-swap swap 2>/dev/null",
    );
    for name in ["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat12", "vfat16", "vfat32", "swap"] {
        let found = inspect(&dir.path().join(name), &unwatched()).unwrap();
        let Content::Partition(f) = &found.content else { panic!("{name}: {found:?}") };
        let value = |key| sh(dir.path(), &format!("blkid -p -s {key} -o value {name}"));
        assert_eq!((f.kind.name(), f.label.clone()), (&*value("TYPE"), Some(value("LABEL"))));
        assert_eq!(f.uuid, Some(value("UUID")));
        assert!(f.len.is_some_and(|len| len <= found.len && len > found.len - (4 << 20)), "{f:?}");
        assert!(found.warnings.is_empty(), "{found:?}");
    }
    sh(dir.path(), "truncate -s 10M ext4");
    let cut = inspect(&dir.path().join("ext4"), &unwatched()).unwrap();
    assert_eq!(cut.warnings, [Warning::Cut { partition: None }]);
}

#[test]
fn disks_of_virtual_machines_become_raw() {
    let dir = workshop();
    make_disk(dir.path());
    sh(
        dir.path(),
        r#"qemu-img convert -f raw -O qcow2 disk a.img
           qemu-img convert -f raw -O qcow2 -c -o compat=0.10 disk b.raw
           qemu-img convert -f raw -O vmdk disk c
           qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk d
           qemu-img convert -f raw -O vdi disk e
           zstd -q a.img -o f; xz -k -T1 a.img -c > g
           qemu-img create -q -f qcow2 -o size=2G h"#,
    );
    for name in ["a.img", "b.raw", "c", "d", "e", "f", "g"] {
        let made = prepared(dir.path(), name).unwrap();
        assert_eq!(made.kind, Kind::Disk);
        sh(dir.path(), &format!("cmp disk {}", made.path.display()));
        assert!(allocated(&made.path) < 8 << 20, "{name}: {}", allocated(&made.path));
        let path = made.path.clone();
        drop(made);
        assert!(!path.exists(), "what was made is removed");
    }
    assert!(refusal(dir.path(), "h").contains("longer than 1 GiB"));
}

#[test]
fn an_image_reads_no_other_file() {
    let dir = workshop();
    make_disk(dir.path());
    sh(
        dir.path(),
        r#"qemu-img create -q -f qcow2 -b disk -F raw backed
           qemu-img create -q -f qcow2 -b json:'{"driver":"raw","file.filename":"/etc/passwd"}' -F raw -u strange 10M
           qemu-img create -q -f qcow2 --object secret,id=s,data=pass -o encrypt.format=luks,encrypt.key-secret=s locked 10M
           qemu-img create -q -f qcow2 -o data_file=outside,data_file_raw=on elsewhere 10M
           qemu-img convert -f raw -O vmdk -o subformat=monolithicFlat disk flat
           qemu-img convert -f raw -O vmdk disk base.vmdk
           qemu-img create -q -f vmdk -b base.vmdk -F vmdk child
           qemu-img convert -f raw -O vdi disk difference; printf '\004' | dd of=difference bs=1 seek=76 conv=notrunc status=none
           cp base.vmdk hollow; head -c 8 /dev/zero | dd of=hollow bs=1 seek=12 conv=notrunc status=none"#,
    );
    for (name, said) in [
        ("backed", "backing file"),
        ("strange", "backing file"),
        ("locked", "encrypted"),
        ("elsewhere", "another file"),
        ("flat", "other files"),
        ("child", "difference"),
        ("difference", "difference"),
        ("hollow", "other files"),
    ] {
        let error = refusal(dir.path(), name);
        assert!(error.contains(said), "{name}: {error}");
    }
}

#[test]
fn what_is_compressed_is_unpacked_and_bounded() {
    let dir = workshop();
    make_disk(dir.path());
    sh(
        dir.path(),
        r#"zstd -q disk -o a; gzip -c disk > b; xz -c disk > c
           (head -c 32M disk | zstd -q; tail -c +33554433 disk | zstd -q --long=27) > d
           (head -c 1000 disk | gzip; tail -c +1001 disk | gzip) > e
           for f in a b c; do head -c 5000 $f > cut-$f; done
           head -c 3G /dev/zero | zstd -q > bomb; head -c 1100M /dev/zero | xz -0 > bomb-xz
           bzip2 -c a > f; zstd -q a -o g; zstd -q g -o h; zstd -q h -o i
           head -c 100000 /dev/urandom > noise; zstd -q noise -o j; : > empty; mkfifo pipe"#,
    );
    for name in ["a", "b", "c", "d", "e", "g"] {
        let made = prepared(dir.path(), name).unwrap();
        sh(dir.path(), &format!("cmp disk {}", made.path.display()));
        assert!(allocated(&made.path) < 8 << 20, "{name}");
    }
    for (name, said) in [
        ("cut-a", "cannot unpack"),
        ("cut-b", "cannot unpack"),
        ("cut-c", "cannot unpack"),
        ("bomb", "longer than 1 GiB"),
        ("bomb-xz", "longer than 1 GiB"),
        ("f", "compressed with bzip2"),
        ("i", "packed more than"),
        ("j", "no partition table"),
        ("noise", "no partition table"),
        ("empty", "no partition table"),
        ("pipe", "not a regular file"),
        ("none", "No such file"),
    ] {
        let error = refusal(dir.path(), name);
        assert!(error.contains(said), "{name}: {error}");
    }
    let stop = AtomicBool::new(false);
    let until = |done: u64, _| stop.store(done > 8 << 20, Ordering::Relaxed);
    let watch = Watch { progress: &until, stop: &stop };
    let error = prepare(&dir.path().join("bomb"), &options(dir.path()), &watch).unwrap_err();
    assert!(matches!(error, PrepareError::Stopped { .. }), "{error}");
}

fn of_tar(dir: &Path, name: &str) -> Layout {
    let made = prepared(dir, name).unwrap();
    assert_eq!(made.kind, Kind::Rootfs);
    made.description
}

#[test]
fn tars_are_published_plain_and_described() {
    let dir = workshop();
    sh(
        dir.path(),
        r#"mkdir -p t/etc/ssh t/usr/bin t/boot/grub t/usr/lib; cd t
           printf 'NAME=x\nPRETTY_NAME="Debian GNU/Linux 12 \033[1m(bookworm)"\n' > usr/lib/os-release
           ln -s ../usr/lib/os-release etc/os-release; touch boot/vmlinuz-6.1 boot/grub/grub.cfg etc/machine-id
           tar cf ../whole . ; cd ..; zstd -q whole -o a; gzip -c whole > b; xz -c whole > c
           echo 0123456789abcdef0123456789abcdef > t/etc/machine-id; touch t/etc/ssh/ssh_host_rsa_key; rm -r t/boot
           tar cf spoiled -C t etc usr; mkdir u; touch u/x; tar cf poor -C u .
           tar cPf absolute /etc/hostname; printf x > y; tar cf up --transform s,^,../, y"#,
    );
    let whole = of_tar(dir.path(), "whole");
    assert!(whole.warnings.is_empty(), "{whole:?}");
    let text = whole.describe();
    assert!(text.contains("Debian GNU/Linux 12 [1m(bookworm), 13 entries"), "{text}");
    for name in ["a", "b", "c"] {
        let made = prepared(dir.path(), name).unwrap();
        sh(dir.path(), &format!("cmp whole {}", made.path.display()));
        assert_eq!(made.description, whole);
    }
    let spoiled = of_tar(dir.path(), "spoiled");
    for warning in [Warning::NoKernel, Warning::NoBootloader, Warning::MachineId, Warning::HostKeys]
    {
        assert!(spoiled.warnings.contains(&warning), "{spoiled:?}");
    }
    let poor = of_tar(dir.path(), "poor");
    assert!(poor.describe().contains("there is no /etc, no /bin or /usr/bin"), "{poor:?}");
    assert!(refusal(dir.path(), "absolute").contains("\"/etc/hostname\" is absolute"));
    assert!(refusal(dir.path(), "up").contains("has .. in it"));
}

#[test]
fn without_qemu_img_it_says_what_to_install() {
    if !is_root() {
        return;
    }
    // in a root of its own, where there is this program and nothing else
    let dir = workshop();
    let exe = std::env::current_exe().unwrap();
    let exe = exe.display();
    sh(
        dir.path(),
        &format!(
            "mkdir -p root/var/tmp; cp {exe} root/test
             ldd {exe} | grep -o '/[^ ]*' | xargs -I@ install -D @ root@"
        ),
    );
    let mut command = Command::new("chroot");
    command.arg(dir.path().join("root")).args(["/test", "--exact", "--ignored", "--nocapture"]);
    let output = command.arg("image::prepare::where_qemu_img_is_missing").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by another test"]
fn where_qemu_img_is_missing() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(dir.path().join("x"), [b"QFI\xfb\0\0\0\x02".as_slice(), &[0; 200]].concat()).unwrap();
    let error = refusal(dir.path(), "x");
    assert!(error.contains("install Debian's package qemu-utils"), "{error}");
}
