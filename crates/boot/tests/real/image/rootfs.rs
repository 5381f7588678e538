//! Archives of GNU tar and Python's tarfile, and of people who mean harm, unpacked.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use p2pinst_boot::image::Watch;
use p2pinst_boot::image::archive::{ArchiveError, Limits};
use p2pinst_boot::image::rootfs::{Devices, Extracted, Options, RootfsError, extract};

use super::{Held, attach, census, is_empty, is_root, mount, sh, unwatched, workshop};

/// A filesystem of its own in `dir`, mounted at `dir/name`.
fn target(dir: &Path, name: &str, make: &str) -> (Held, Held) {
    let image = dir.join(format!("{name}.img"));
    sh(dir, &format!("truncate -s 400M {name}.img; {make} -q {name}.img"));
    let device = attach(&image, 0, 400 << 20);
    let mounted = mount(&device.what, &dir.join(name), "nosuid,nodev");
    (mounted, device)
}

fn unpack(archive: &Path, to: &Path) -> Result<Extracted, RootfsError> {
    extract(File::open(archive).unwrap(), to, &Options::default(), &unwatched())
}

/// A tree with all that a root filesystem can have.
const TREE: &str = r#"
mkdir -p t/usr/bin t/etc t/dev t/home/u t/srv; cd t
head -c 300000 /dev/urandom > usr/bin/prog; chmod 4755 usr/bin/prog
printf x > usr/bin/capable; chown 1234:70000 usr/bin/capable; setcap cap_net_raw,cap_net_admin=ep usr/bin/capable
printf y > usr/bin/group; chgrp 3000000 usr/bin/group; chmod 2711 usr/bin/group
printf z > etc/acl; setfacl -m u:4711:rw,g:815:r,m::rw etc/acl; setfacl -d -m u:99:rx srv; setfacl -m g:5:rwx srv; chmod 1777 home
printf w > etc/xattr; setfattr -n user.note -v $'a\nb= c' etc/xattr; setfattr -n trusted.overlay.opaque -v y etc; setfattr -n user.big -v "$(head -c 2000 /dev/zero | tr '\0' b)" etc/xattr
ln etc/xattr etc/second; ln -s /etc/shadow etc/out; ln -s ../../../../up etc/dotdot; ln etc/out etc/outer 2>/dev/null || true
mknod dev/null c 1 3; mknod dev/sda b 8 0; mkfifo dev/initctl; chown 7:8 dev/sda; chmod 600 dev/sda
truncate -s 40M home/sparse; printf data | dd of=home/sparse bs=1 seek=20000000 conv=notrunc status=none; truncate -s 5M home/hole
for i in $(seq 1 60); do printf $i | dd of=home/many bs=1 seek=$((i*90000)) conv=notrunc status=none; done
n=$(head -c 200 /dev/zero | tr '\0' n); mkdir -p "home/$n/$n/$n"; printf long > "home/$n/$n/$n/$n"; ln -s "$n/$n/$n/$n" home/longlink; ln "home/$n/$n/$n/$n" "home/$n/hard"
printf odd > $'home/-rf * "\x27 \\ \n tab\t'; printf bytes > $'home/\xff\xfe'; printf u > home/wörld
touch -d '1969-12-31 12:00:01.5' home/old; touch -d '2500-01-01 00:00:00.123456789' home/new
touch -d '2001-02-03 04:05:06.789' home/u; chmod 500 home/u; touch -d 2002-02-02 etc srv .; chmod 750 .; chown 1:2 .
"#;

#[test]
fn all_that_a_system_has_is_unpacked() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    sh(dir.path(), TREE);
    let all = "--numeric-owner --xattrs --xattrs-include='*' --acls -C t .";
    sh(
        dir.path(),
        &format!(
            "for v in 0.0 0.1 1.0; do tar cf s$v --format=pax -S --sparse-version=$v {all}; done; tar cf plain {all}"
        ),
    );
    let before = census(&dir.path().join("t"));
    for (kind, archive) in [
        ("mkfs.ext4 -b 4096", "s0.0"),
        ("mkfs.ext4 -b 4096", "s0.1"),
        ("mkfs.xfs", "s1.0"),
        ("mkfs.btrfs", "plain"),
    ] {
        let held = target(dir.path(), &format!("m-{archive}"), kind);
        let to = &held.0.what;
        sh(to, "rm -rf lost+found");
        let done = unpack(&dir.path().join(archive), to).unwrap();
        let after = census(to);
        assert!(before == after, "{kind} {archive}:\n{}", difference(&before, &after));
        assert!(done.entries > 30 && done.bytes > 300_000, "{done:?}");
        assert!(to.join("dev/sda").metadata().unwrap().file_type().is_block_device());
        assert_eq!(fs::metadata(to.join("etc/second")).unwrap().nlink(), 2);
        if archive != "plain" {
            for sparse in ["home/sparse", "home/hole", "home/many"] {
                let stored = to.join(sparse).metadata().unwrap().blocks() * 512;
                // xfs takes a little more than it needs
                assert!(stored < 3 << 20, "{archive} {sparse}: {stored}");
            }
        }
        // once more over it: nothing changes
        if kind.starts_with("mkfs.ext4") {
            unpack(&dir.path().join(archive), to).unwrap();
            assert!(census(to) == before, "again");
        }
    }
}

fn difference(a: &str, b: &str) -> String {
    let not_in = |x: &str, y: &str, sign: char| {
        let there: std::collections::HashSet<_> = y.lines().collect();
        x.lines().filter(|l| !there.contains(l)).map(|l| format!("{sign}{l}\n")).collect::<String>()
    };
    not_in(a, b, '-') + &not_in(b, a, '+')
}

#[test]
fn older_formats_and_pythons_are_unpacked() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    sh(dir.path(), TREE);
    // what these formats cannot hold
    sh(
        dir.path(),
        "cd t; getfattr -R -h -d -m - --absolute-names . >/dev/null; setfacl -R -b .; setcap -r usr/bin/capable
         setfattr -x user.note etc/xattr; setfattr -x user.big etc/xattr; setfattr -x trusted.overlay.opaque etc
         rm home/old home/new etc/outer; find . ! -type l -print0 | xargs -0 touch -d '2010-10-10 10:10:10'
         find . -type l -print0 | xargs -0 touch -h -d '2010-10-10 10:10:10'",
    );
    sh(
        dir.path(),
        r#"tar cf gnu --format=gnu -S --numeric-owner -C t .
           cat > p.py <<'P'
import tarfile
for name, form in (('py-pax', tarfile.PAX_FORMAT), ('py-gnu', tarfile.GNU_FORMAT)):
    with tarfile.open(name, 'w', format=form) as t:
        t.add('t', '.')
P
           python3 p.py"#,
    );
    let before = census(&dir.path().join("t"));
    for archive in ["gnu", "py-pax", "py-gnu"] {
        let held = target(dir.path(), &format!("m-{archive}"), "mkfs.ext4 -b 4096");
        sh(&held.0.what, "rm -rf lost+found");
        unpack(&dir.path().join(archive), &held.0.what).unwrap();
        let after = census(&held.0.what);
        assert!(before == after, "{archive}:\n{}", difference(&before, &after));
    }
}

/// Writes archives as no tool would.
const HOSTILE: &str = r#"
import tarfile, io
def write(name, *entries, form=tarfile.GNU_FORMAT):
    with tarfile.open(name, 'w', format=form) as t:
        for path, kind, rest in entries:
            i = tarfile.TarInfo('x'); i.name = path; i.type = kind; data = b''
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE): i.linkname = rest
            elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE): i.devmajor, i.devminor = rest
            elif kind == tarfile.REGTYPE: data = rest; i.size = len(data)
            if kind == tarfile.DIRTYPE: i.mode = 0o755
            t.addfile(i, io.BytesIO(data))
R, D, S, L, C = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE
out = OUT
write('up', ('../evil', R, b'x'))
write('deep-up', ('a/b/../../../evil', R, b'x'))
write('absolute', (out + '/evil', R, b'x'))
write('link', ('l', S, out), ('l/evil', R, b'x'))
write('link-up', ('l', S, '../outside'), ('l/evil', R, b'x'))
write('chain', ('a', D, 0), ('a/l', S, out), ('b', L, 'a/l'), ('b/evil', R, b'x'))
write('dir-link', ('l', S, out), ('l', D, 0), ('l/evil', R, b'x'))
write('hard', ('h', L, out + '/there'), ('h', R, b'changed'))
write('hard-up', ('h', L, '../outside/there'))
write('hard-through', ('l', S, out), ('h', L, 'l/there'))
write('pax-path', ('l', S, out), ('l/' + 'y' * 120, R, b'x'), form=tarfile.PAX_FORMAT)
write('long', ('n' * 65536, R, b'x'))
write('component', ('n' * 300, R, b'x'))
write('deep', ('d/' * 3000 + 'f', R, b'x'))
write('file-over-link', ('l', S, out + '/there'), ('l', R, b'changed'))
write('node', ('dev/x', C, (1, 3)))
write('through-old', ('old/evil', R, b'x'))
write('hard-old', ('h', L, 'old'), ('h/evil', R, b'x'))
write('over-old', ('there', R, b'changed'))
"#;

#[test]
fn nothing_is_written_outside() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let script = HOSTILE.replace("OUT", &format!("{:?}", outside.to_str().unwrap()));
    fs::write(dir.path().join("h.py"), script).unwrap();
    sh(dir.path(), "python3 h.py; printf safe > outside/there");
    let (mounted, _device) = target(dir.path(), "m", "mkfs.ext4 -b 4096");
    let to = &mounted.what;
    let refused = [
        ("up", "has .. in it"),
        ("deep-up", "has .. in it"),
        ("absolute", "is absolute"),
        ("link", "is a symbolic link"),
        ("link-up", "is a symbolic link"),
        ("chain", "is a symbolic link"),
        ("dir-link", "in the place of a symbolic link"),
        ("file-over-link", "in the place of a symbolic link"),
        ("hard", "is absolute"),
        ("hard-up", "has .. in it"),
        ("hard-through", "is a symbolic link"),
        ("pax-path", "is a symbolic link"),
        ("long", "longer than 4095"),
        ("component", "longer than 255"),
        ("deep", "longer than 4095"),
    ];
    for (archive, said) in refused {
        let error = unpack(&dir.path().join(archive), to).unwrap_err().to_string();
        assert!(error.contains(said), "{archive}: {error}");
        sh(to, "rm -rf ./*");
    }
    // links that were there before
    sh(to, &format!("rm -rf ./*; ln -s {0} old; ln -s {0}/there there", outside.display()));
    for archive in ["through-old", "hard-old"] {
        let error = unpack(&dir.path().join(archive), to).unwrap_err();
        assert!(matches!(error, RootfsError::Link { .. }), "{archive}: {error}");
    }
    unpack(&dir.path().join("over-old"), to).unwrap();
    assert!(to.join("there").symlink_metadata().unwrap().is_file());

    let no_devices = Options { devices: Devices::Refuse, ..Options::default() };
    let node = File::open(dir.path().join("node")).unwrap();
    let error = extract(node, to, &no_devices, &unwatched()).unwrap_err();
    assert!(matches!(error, RootfsError::Device { .. }), "{error}");
    let root = extract(io::empty(), Path::new("/"), &no_devices, &unwatched()).unwrap_err();
    assert!(root.to_string().contains("the running system"), "{root}");

    assert_eq!(fs::read(outside.join("there")).unwrap(), b"safe");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{}", sh(&outside, "ls -la"));
}

/// A tar of so many empty files, made while it is read.
struct Many {
    left: u64,
    block: Vec<u8>,
}

impl Read for Many {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() && self.left > 0 {
            self.left -= 1;
            let mut header = tar::Header::new_ustar();
            header.set_path(format!("f{}", self.left)).unwrap();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            header.set_cksum();
            self.block = header.as_bytes().to_vec();
        }
        let n = self.block.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.block[..n]);
        self.block.drain(..n);
        Ok(n)
    }
}

#[test]
fn a_flood_of_entries_has_an_end() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    let options = Options { limits: Limits { entries: 2000, bytes: 1000 }, ..Options::default() };
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let flood = Many { left: 10_000_001, block: Vec::new() };
    let error = extract(flood, &to, &options, &unwatched()).unwrap_err();
    let is_bound = |e: &RootfsError| {
        matches!(e, RootfsError::Archive { source: ArchiveError::TooMuch { limit: 2000, .. }, .. })
    };
    assert!(is_bound(&error), "{error}");
    assert!(fs::read_dir(&to).unwrap().count() <= 2000);
    let stop = AtomicBool::new(true);
    let watch = Watch { progress: &|_, _| (), stop: &stop };
    let flood = Many { left: 10, block: Vec::new() };
    let error = extract(flood, &to, &options, &watch).unwrap_err();
    assert!(matches!(error, RootfsError::Stopped { .. }), "{error}");
}

#[test]
#[ignore = "takes a minute"]
fn ten_million_entries_are_the_bound() {
    use p2pinst_boot::image::archive::Walker;
    let mut walker = Walker::new(
        io::BufReader::new(Many { left: 10_000_001, block: Vec::new() }),
        Limits::default(),
    );
    let error = loop {
        match walker.next_entry() {
            Ok(entry) => assert!(entry.is_some(), "it ended"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ArchiveError::TooMuch { limit: 10_000_000, .. }), "{error}");
}

#[test]
fn what_the_target_cannot_hold_is_named() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    sh(
        dir.path(),
        "for n in acl user cap; do mkdir -p $n/boot/efi; printf x > $n/boot/efi/file; done
         setfacl -m u:5:r acl/boot/efi/file; setfattr -n user.a -v b user/boot/efi/file
         setcap cap_net_raw=ep cap/boot/efi/file
         for n in acl user cap; do tar cf $n.tar --xattrs --xattrs-include='*' --acls -C $n .; done
         mkdir -p to/boot/efi",
    );
    let to = dir.path().join("to");
    // in memory without attributes: as little as an EFI system partition holds
    sh(dir.path(), "mount -t ramfs none to/boot/efi");
    let _held = Held { release: &["umount"], what: to.join("boot/efi") };
    for (name, said) in [
        ("acl", "cannot hold POSIX ACLs"),
        ("user", "cannot hold extended attributes of user"),
        ("cap", "cannot hold extended attributes of security"),
    ] {
        let error = unpack(&dir.path().join(format!("{name}.tar")), &to).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(said) && text.contains("\"boot/efi/file\""), "{text}");
        assert!(is_empty(&to.join("boot/efi")), "{}", sh(&to, "find"));
    }
}

#[test]
fn an_end_of_the_stream_or_of_the_room_is_an_error() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    sh(
        dir.path(),
        "mkdir t to; head -c 3M /dev/urandom > t/f; tar cf a -C t .; head -c 1M a > cut",
    );
    let error = unpack(&dir.path().join("cut"), &dir.path().join("to")).unwrap_err();
    assert!(error.to_string().contains("ends in the middle"), "{error}");
    sh(dir.path(), "truncate -s 2M small.img; mkfs.ext4 -q small.img");
    let device = attach(&dir.path().join("small.img"), 0, 2 << 20);
    let small = mount(&device.what, &dir.path().join("small"), "nodev");
    let error = unpack(&dir.path().join("a"), &small.what).unwrap_err().to_string();
    assert!(error.contains("not all could be unpacked"), "{error}");
    let none = unpack(&dir.path().join("a"), &dir.path().join("nowhere")).unwrap_err();
    assert!(matches!(none, RootfsError::Target { .. }), "{none}");
}
