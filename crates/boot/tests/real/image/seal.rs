//! Images without what makes one machine: looked for by grep.

use std::fs;
use std::path::{Path, PathBuf};

use p2pinst_boot::image::capture::{Options, capture};
use p2pinst_boot::image::seal::{SealError, seal};
use p2pinst_boot::image::verify::{Pieces, sample};
use p2pinst_types::PieceIndex;

use super::{attach, is_root, mount, sh, unwatched, workshop};

const MIB: u64 = 1 << 20;
const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0cafe00112233445566778899aabbccdd";

/// A machine's root filesystem, with all its secrets, captured.
fn captured(dir: &Path, make: &str, more: &str) -> PathBuf {
    sh(
        dir,
        r#"truncate -s 450M disk
           printf 'label: gpt\nstart=2048,size=655360,type=L\n' | sfdisk -q disk; ssh-keygen -q -t ed25519 -N '' -f key"#,
    );
    let device = attach(&dir.join("disk"), MIB, 320 * MIB);
    sh(dir, &format!("{make} {}", device.what.display()));
    let mounted = mount(&device.what, &dir.join("m"), "rw");
    sh(
        &mounted.what,
        &format!(
            r#"mkdir -p etc/ssh usr/bin var/lib/p2pinst/blobs var/lib/systemd root var/lib/dbus; cd etc
               echo 0123456789abcdef0123456789abcdef > machine-id; ln -s /etc/machine-id ../var/lib/dbus/machine-id
               cp ../../key ssh/ssh_host_ed25519_key; cp ../../key.pub ssh/ssh_host_ed25519_key.pub; echo ok > ssh/sshd_config
               (umask 077; printf 'p2pinst-secret-key-1 n1\n{KEY}\n' > ../var/lib/p2pinst/node.key; head -c 512 /dev/urandom > ../var/lib/systemd/random-seed)
               head -c 2M /dev/urandom > ../var/lib/p2pinst/blobs/b; ln ../var/lib/p2pinst/blobs/b ../usr/bin/tool; sha256sum ../usr/bin/tool > ../root/sum
               {more}"#
        ),
    );
    drop(mounted);
    let image = dir.join("image");
    capture(&dir.join("disk"), &image, &Options::default(), &unwatched()).unwrap();
    // an inode may hold only a part of it
    sh(dir, &format!("grep -aq {} image", &KEY[..24]));
    image
}

fn data_dirs() -> Vec<PathBuf> {
    vec!["/var/lib/p2pinst".into()]
}

#[test]
fn the_nodes_key_does_not_leave_the_machine() {
    if !is_root() {
        return;
    }
    for make in ["mkfs.ext4 -q", "mkfs.ext4 -q -O inline_data", "mkfs.xfs -q"] {
        let dir = workshop();
        let image = captured(dir.path(), make, "");
        let sealed = seal(&image, &data_dirs(), &unwatched());
        // where an inode holds the file its journal may too: then it is found, and said
        let sealed = match sealed {
            Err(SealError::Leaks { .. }) if make.contains("inline") => continue,
            sealed => sealed.unwrap(),
        };
        assert!(sealed.machine_id, "{sealed:?}");
        for path in
            ["/etc/ssh/ssh_host_ed25519_key", "/var/lib/p2pinst", "/var/lib/systemd/random-seed"]
        {
            assert!(sealed.removed.contains(&path.into()), "{sealed:?}");
        }
        let secret = sh(dir.path(), "sed -n 4p key");
        for needle in [KEY, &KEY[20..50], &secret[10..40]] {
            sh(dir.path(), &format!("! grep -aqF -e {needle} image"));
        }
        // the disk itself is as it was
        sh(dir.path(), &format!("grep -aq {KEY} disk"));
        let device = attach(&image, MIB, 320 * MIB);
        let mounted = mount(&device.what, &dir.path().join("m"), "ro");
        sh(
            &mounted.what,
            "test ! -s etc/machine-id; test -f etc/machine-id; test -f etc/ssh/sshd_config; test ! -e var/lib/p2pinst
             test -L var/lib/dbus/machine-id; test $(ls etc/ssh | wc -l) = 1; cd root; sha256sum --quiet -c sum",
        );
    }
}

#[test]
fn a_key_that_is_elsewhere_too_is_found() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    let image = captured(dir.path(), "mkfs.ext4 -q", &format!("echo copy {KEY} > ../root/backup"));
    let error = seal(&image, &data_dirs(), &unwatched()).unwrap_err();
    let SealError::Leaks { secret, offset, .. } = &error else { panic!("{error}") };
    assert_eq!(secret, Path::new("/var/lib/p2pinst/node.key"));
    let there = sh(dir.path(), &format!("dd if=image bs=1 skip={offset} count=24 status=none"));
    assert!(KEY.contains(&there), "{there}");
}

#[test]
fn links_of_an_image_lead_nowhere_else() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    // on this machine, where links of the image point to
    let here = dir.path().join("here");
    sh(
        dir.path(),
        "mkdir here; echo mine > here/ssh_host_rsa_key; echo mine > here/machine-id; mkdir here/p2pinst; echo mine > here/p2pinst/key",
    );
    let more = format!(
        "mv ssh old; ln -s {0} ssh; rm machine-id; ln -s {0}/machine-id machine-id; mv ../var/lib/p2pinst ../gone; mkdir ../var/lib/p2pinst; cp ../gone/node.key ../var/lib/p2pinst/; rm -r ../gone; ln -s {0} ../var/lib/p2pinst/l",
        here.display()
    );
    let image = captured(dir.path(), "mkfs.ext4 -q", &more);
    seal(&image, &data_dirs(), &unwatched()).unwrap();
    assert_eq!(sh(&here, "cat ssh_host_rsa_key machine-id p2pinst/key"), "mine\nmine\nmine");

    sh(
        dir.path(),
        "truncate -s 50M noroot; mkfs.ext4 -q noroot; truncate -s 120M btrfs; mkfs.btrfs -q btrfs",
    );
    for name in ["noroot", "btrfs"] {
        let error = seal(&dir.path().join(name), &data_dirs(), &unwatched()).unwrap_err();
        assert!(matches!(error, SealError::NoRoot { .. }), "{error}");
    }
}

#[test]
fn a_disk_is_read_back_past_the_cache() {
    if !is_root() {
        return;
    }
    let dir = workshop();
    sh(dir.path(), "head -c 20000333 /dev/urandom > image; truncate -s 24M disk");
    let image = fs::read(dir.path().join("image")).unwrap();
    let device = attach(&dir.path().join("disk"), 0, 24 * MIB);
    sh(
        dir.path(),
        &format!("dd if=image of={} bs=1M conv=fsync status=none", device.what.display()),
    );
    let pieces = Pieces { len: image.len() as u64, piece: 64 << 10 };
    let is_right = |index: PieceIndex, bytes: &[u8]| {
        let start = index.0 as usize * (64 << 10);
        image[start..].starts_with(bytes) && bytes.len() == (image.len() - start).min(64 << 10)
    };
    let mut state = 1_u64;
    let mut check = |count| {
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            state >> 33
        };
        let wrong = sample(&device.what, pieces, count, &mut random, &is_right).unwrap();
        wrong.iter().map(|p| p.0).collect::<Vec<_>>()
    };
    assert!(check(1000).is_empty());
    // below the device, which has it in its cache
    let place = 17 * (64 << 10) + 5;
    sh(
        dir.path(),
        &format!(
            "printf '!!!!' | dd of=disk bs=1 seek={place} conv=notrunc status=none; sync disk"
        ),
    );
    assert_eq!(check(1000), [17]);
    assert!(check(0).is_empty());
}
