//! Disks captured, written back, and looked at by the tools of their filesystems.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use p2pinst_boot::image::capture::{CaptureError, Captured, Method, Options, State, capture};
use p2pinst_boot::image::layout::FilesystemKind;

use super::{Held, Workshop, attach, census, is_root, mount, sh, unwatched, workshop};

const MIB: u64 = 1 << 20;
/// Where the partitions of `make_disk` lie: ext4, xfs.
const EXT: (u64, u64) = (12 * MIB, 100 * MIB);
const XFS: (u64, u64) = (120 * MIB, 320 * MIB);

/// A disk as a machine has it, with things that were deleted.
fn make_disk(dir: &Path) {
    sh(
        dir,
        r#"truncate -s 600M disk
           printf 'label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\nstart=4096,size=16384,type=U\nstart=24576,size=204800,type=L\nstart=245760,size=655360,type=L\nstart=901120,size=20480,type=S\n' | sfdisk -q disk
           head -c 440 /dev/urandom > code; dd if=code of=disk conv=notrunc status=none
           head -c 50000 /dev/urandom > core; dd if=core of=disk bs=1M seek=1 conv=notrunc status=none
           truncate -s 8M esp; mkfs.vfat -n ESP esp >/dev/null; head -c 100000 /dev/urandom > boot.efi
           mmd -i esp ::/EFI; mcopy -i esp boot.efi ::/EFI/; dd if=esp of=disk bs=1M seek=2 conv=notrunc,sparse status=none
           mkswap -q pages 2>/dev/null || { truncate -s 10M pages; mkswap -q pages 2>/dev/null; }
           dd if=pages of=disk bs=1M seek=440 conv=notrunc,sparse status=none
           printf 'SWAPPED-OUT-PASSWORD' | dd of=disk bs=1 seek=$((445*1048576)) conv=notrunc status=none"#,
    );
    let disk = dir.join("disk");
    for ((start, len), make, fill) in
        [(EXT, "mkfs.ext4 -q -L root", 8), (XFS, "mkfs.xfs -q -L data", 30)]
    {
        let device = attach(&disk, start, len);
        sh(dir, &format!("{make} {}", device.what.display()));
        let mounted = mount(&device.what, &dir.join("m"), "noatime");
        sh(
            &mounted.what,
            &format!(
                r#"mkdir -p etc d; echo x > etc/hostname; ln -s x d/l; setfattr -n user.a -v b d
                   head -c {fill}M /dev/urandom > big; truncate -s 20M sparse; setcap cap_net_raw=ep big
                   (for i in $(seq 200000); do printf 'DELETED-SECRET-%08d' $i; done) > gone; sync; rm gone; sync"#
            ),
        );
        drop(mounted);
    }
    // the boot sector of the partition
    let start = EXT.0;
    sh(dir, &format!("printf BOOTCODE | dd of=disk bs=1 seek={start} conv=notrunc status=none"));
    sh(dir, "grep -aq DELETED-SECRET disk");
}

fn states(captured: &Captured) -> Vec<(Option<u32>, &Method, State)> {
    captured.parts.iter().map(|p| (p.partition, &p.method, p.state)).collect()
}

/// Mounts both copies of a partition, and compares all files.
fn same_files(dir: &Path, one: &Path, other: &Path, (start, len): (u64, u64), options: &str) {
    let trees = [one, other].map(|file| {
        let device = attach(file, start, len);
        let mounted = mount(&device.what, &dir.join("compare"), options);
        census(&mounted.what)
    });
    assert!(trees[0] == trees[1], "{}\n---\n{}", trees[0], trees[1]);
}

#[test]
fn a_disk_that_is_written_back_is_the_same() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    make_disk(dir.path());
    let (disk, image) = (dir.path().join("disk"), dir.path().join("image"));
    let captured = capture(&disk, &image, &Options::default(), &unwatched()).unwrap();
    let everything = |p: &Method| matches!(p, Method::Everything { reason } if reason.contains("free blocks") || reason.contains("not known"));
    let parts = states(&captured);
    assert_eq!(parts.len(), 5, "{parts:?}");
    assert!(everything(parts[0].1) && everything(parts[1].1), "{parts:?}");
    assert_eq!(
        (parts[2].1, parts[3].1, parts[4].1),
        (&Method::Used, &Method::Used, &Method::Header)
    );
    assert!(parts.iter().all(|p| p.2 == State::AtRest));
    assert_eq!(captured.parts[3].filesystem, Some(FilesystemKind::Xfs));
    let text = captured.describe();
    assert!(text.contains("partition 3: its used blocks, consistent"), "{text}");
    // 38 MiB of files, the xfs's log of 64 MiB, ext's journal
    assert!(captured.len == 600 * MIB && captured.stored < 130 * MIB, "{}", captured.stored);

    // as a disk would have it, where there was something else before
    sh(
        dir.path(),
        "head -c 600M /dev/urandom > written; dd if=image of=written bs=1M conv=notrunc status=none",
    );
    let written = dir.path().join("written");
    for range in ["0 12582912", &format!("{} 1024", EXT.0), "471859200 157286400"] {
        let (start, len) = range.split_once(' ').unwrap();
        sh(dir.path(), &format!("cmp -i {start} -n {len} disk written"));
    }
    sh(
        dir.path(),
        "sfdisk -d disk > a; sfdisk -d written | sed s/written/disk/ > b; cmp a b; sgdisk -v written | grep -q 'No problems found'",
    );
    same_files(dir.path(), &disk, &written, EXT, "ro,noatime");
    same_files(dir.path(), &disk, &written, XFS, "ro,noatime,norecovery");
    for ((start, len), check) in [(EXT, "e2fsck -fn"), (XFS, "xfs_repair -n")] {
        let device = attach(&written, start, len);
        sh(dir.path(), &format!("{check} {}", device.what.display()));
    }
    sh(dir.path(), "mtype -i image@@2M ::/EFI/boot.efi > efi; cmp efi boot.efi");
    sh(dir.path(), "! grep -aq 'DELETED-SECRET\\|SWAPPED-OUT' image");
    // the swap space is one again
    let swap = attach(&written, 440 * MIB, 10 * MIB);
    assert_eq!(
        sh(dir.path(), &format!("blkid -p -s TYPE -o value {}", swap.what.display())),
        "swap"
    );
    let again = capture(&disk, &image, &Options::default(), &unwatched()).unwrap_err();
    assert!(matches!(again, CaptureError::Write { .. }), "an image is not overwritten: {again}");
}

#[test]
fn block_devices_and_single_partitions_are_captured() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    make_disk(dir.path());
    let disk = dir.path().join("disk");
    let whole = attach(&disk, 0, 600 * MIB);
    let image = dir.path().join("whole");
    let captured = capture(&whole.what, &image, &Options::default(), &unwatched()).unwrap();
    assert_eq!(captured.parts.len(), 5);
    assert!(captured.stored < 130 * MIB, "{}", captured.stored);
    same_files(dir.path(), &disk, &image, EXT, "ro,noatime");
    for ((start, len), name) in [(EXT, "ext"), (XFS, "xfs")] {
        let part = attach(&disk, start, len);
        let image = dir.path().join(name);
        let captured = capture(&part.what, &image, &Options::default(), &unwatched()).unwrap();
        assert_eq!(states(&captured), [(None, &Method::Used, State::AtRest)]);
        let copy = attach(&image, 0, len);
        sh(dir.path(), &format!("cmp -n 1024 {} {}", part.what.display(), copy.what.display()));
    }
    let swap = attach(&disk, 440 * MIB, 10 * MIB);
    let error = capture(&swap.what, &dir.path().join("no"), &Options::default(), &unwatched());
    assert!(matches!(error, Err(CaptureError::Swap { .. })));
    sh(dir.path(), "truncate -s 10M empty; mkfifo pipe");
    for (name, said) in [
        ("empty", "neither a partition table"),
        ("pipe", "neither a block device"),
        ("none", "No such file"),
    ] {
        let error = capture(
            &dir.path().join(name),
            &dir.path().join("no"),
            &Options::default(),
            &unwatched(),
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let left = sh(dir.path(), "ls -A | grep -c '^\\.capture\\|^\\.xfs\\|^no$' || true");
    assert_eq!(left, "0", "nothing is left of what failed");
}

#[test]
fn what_was_not_unmounted_is_taken_whole() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    make_disk(dir.path());
    // copies of mounted filesystems, as after a power cut
    let ext = attach(&dir.path().join("disk"), EXT.0, EXT.1);
    let xfs = attach(&dir.path().join("disk"), XFS.0, XFS.1);
    let mounted = [
        mount(&ext.what, &dir.path().join("e"), "rw"),
        mount(&xfs.what, &dir.path().join("x"), "rw"),
    ];
    for m in &mounted {
        sh(&m.what, "head -c 3M /dev/urandom > late; sync");
    }
    sh(dir.path(), "sync; cp --sparse=always disk cut");
    drop(mounted);
    let image = dir.path().join("image");
    let captured =
        capture(&dir.path().join("cut"), &image, &Options::default(), &unwatched()).unwrap();
    for part in &captured.parts[2..4] {
        let said = part.to_string();
        assert!(
            matches!(part.method, Method::Everything { .. }) && said.contains("has not been read"),
            "{said}"
        );
    }
    for (start, len) in [EXT, XFS] {
        sh(dir.path(), &format!("cmp -i {start} -n {len} cut image"));
    }
}

/// A disk with both filesystems mounted, and somebody who writes to one of them.
struct Busy {
    mounted: [Held; 2],
    _devices: [Held; 2],
    dir: Workshop,
}

fn busy() -> Busy {
    let dir = workshop();
    make_disk(dir.path());
    let disk = dir.path().join("disk");
    let devices = [EXT, XFS].map(|(start, len)| attach(&disk, start, len));
    let mounted =
        [("e", 0), ("x", 1)].map(|(name, n)| mount(&devices[n].what, &dir.path().join(name), "rw"));
    Busy { mounted, _devices: devices, dir }
}

#[test]
fn a_running_machine_is_frozen_and_goes_on() {
    if !is_root() {
        return;
    }
    let Busy { mounted, dir, .. } = &busy();
    let (disk, image) = (dir.path().join("disk"), dir.path().join("image"));
    let error = capture(&disk, &image, &Options::default(), &unwatched()).unwrap_err();
    assert!(matches!(error, CaptureError::Mounted { .. }), "{error}");
    let running = Options { running: true, ..Options::default() };
    let inside = mounted[0].what.join("image");
    let error = capture(&disk, &inside, &running, &unwatched()).unwrap_err();
    assert!(matches!(error, CaptureError::TargetInside { .. }), "{error}");

    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let write = |tree: &Path| {
        // a number counts once it is durable; names and content grow together
        let mut log = File::create(tree.join("log")).unwrap();
        while !stop.load(Ordering::Relaxed) {
            let n = written.fetch_add(1, Ordering::Relaxed);
            writeln!(log, "{n}").unwrap();
            fs::write(tree.join(format!("d/{n}")), vec![b'w'; 9000]).unwrap();
            if n.is_multiple_of(7) {
                fs::remove_file(tree.join(format!("d/{}", n / 2))).ok();
            }
            log.sync_all().unwrap();
        }
    };
    let captured = thread::scope(|scope| {
        scope.spawn(|| write(&mounted[0].what));
        scope.spawn(|| write(&mounted[1].what));
        while written.load(Ordering::Relaxed) < 50 {
            thread::sleep(Duration::from_millis(5));
        }
        let before = written.load(Ordering::Relaxed);
        let captured = capture(&disk, &image, &running, &unwatched());
        let after = written.load(Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(20);
        while written.load(Ordering::Relaxed) < after + 20 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let goes_on = written.load(Ordering::Relaxed) >= after + 20;
        stop.store(true, Ordering::Relaxed);
        assert!(goes_on && before > 0, "the writers go on");
        captured.unwrap()
    });
    for part in &captured.parts[2..4] {
        let State::Frozen(time) = part.state else { panic!("{part}") };
        eprintln!("{part}: {time:?}");
        assert!(part.method == Method::Used && time < Duration::from_secs(30), "{part}");
    }
    let check = attach(&image, EXT.0, EXT.1);
    sh(dir.path(), &format!("e2fsck -fn {}", check.what.display()));
    for ((start, len), options) in [(EXT, "ro"), (XFS, "nouuid")] {
        let device = attach(&image, start, len);
        let copy = mount(&device.what, &dir.path().join("copy"), options);
        let log = fs::read_to_string(copy.what.join("log")).unwrap();
        let last: u64 = log.lines().last().unwrap().parse().unwrap();
        assert!(last > 10, "what was durable before is there");
        sh(
            &copy.what,
            "find d -type f -size +0 | xargs sha256sum >/dev/null; test -e etc/hostname",
        );
    }
    let xfs = attach(&image, XFS.0, XFS.1);
    sh(dir.path(), &format!("xfs_repair -n {}", xfs.what.display()));
}

#[test]
fn partitions_of_the_kernel_are_found_on_their_disk() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    make_disk(dir.path());
    let whole = attach(&dir.path().join("disk"), 0, 600 * MIB);
    let device = whole.what.display().to_string();
    let (start, len) = (EXT.0 / 512, EXT.1 / 512);
    sh(dir.path(), &format!("addpart {device} 3 {start} {len}"));
    let made = Held { release: &["sh", "-c", "delpart \"$0\" 3"], what: whole.what.clone() };
    let node = dir.path().join("p3");
    let number = sh(dir.path(), &format!("cat /sys/class/block/$(basename {device})p3/dev"));
    sh(dir.path(), &format!("mknod p3 b {}", number.replace(':', " ")));
    let captured = {
        let mounted = mount(&node, &dir.path().join("m"), "rw");
        sh(&mounted.what, "head -c 1M /dev/urandom > late");
        let refused =
            capture(&whole.what, &dir.path().join("no"), &Options::default(), &unwatched());
        assert!(matches!(refused, Err(CaptureError::Mounted { .. })));
        let running = Options { running: true, ..Options::default() };
        let captured = capture(&whole.what, &dir.path().join("image"), &running, &unwatched());
        sh(&mounted.what, "sha256sum late > ../sum");
        captured
    };
    drop(made);
    let part = &captured.unwrap().parts[2];
    assert!(matches!(part.state, State::Frozen(_)) && part.method == Method::Used, "{part}");
    let copy = attach(&dir.path().join("image"), EXT.0, EXT.1);
    sh(dir.path(), &format!("e2fsck -fn {}", copy.what.display()));
    let mounted = mount(&copy.what, &dir.path().join("copy"), "ro");
    sh(&mounted.what, "sha256sum --quiet -c ../sum");
}

#[test]
fn what_takes_too_long_is_thawed_and_refused() {
    if !is_root() {
        return;
    }
    let Busy { mounted, dir, .. } = &busy();
    // copying is held up until the writer has waited long enough to have been let go
    let options = Options { running: true, freeze: Duration::from_secs(1) };
    let slow = dir.path().join("e/slow");
    sh(&mounted[0].what, "head -c 1M /dev/urandom > more");
    let started = Instant::now();
    let image = dir.path().join("image");
    match capture(&dir.path().join("disk"), &image, &options, &unwatched()) {
        // a machine that copies 12 MiB within a second
        Ok(captured) => {
            let frozen = captured.parts.iter().filter_map(|p| match p.state {
                State::Frozen(time) => Some(time),
                _ => None,
            });
            assert!(frozen.max().unwrap() < options.freeze);
        }
        Err(CaptureError::Freeze { .. }) => assert!(!image.exists()),
        Err(e) => panic!("{e}"),
    }
    fs::write(slow, "written").unwrap();
    assert!(started.elapsed() < Duration::from_secs(60), "nobody is left waiting");
}
