//! A small Debian that starts from its disk, by BIOS and by UEFI: what bare machines are installed with.
//!
//! debootstrap makes its tree once for each cache; the image is made of that in a few seconds. It gets its address by DHCP,
//! speaks on the serial line, and knows nothing of p2pinst.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::exec::{Exec, run};
use crate::ready::why_not_installed;

/// Where the parts of the image begin and how long they are, in MiB: the ESP, and the root filesystem, which ends a MiB before the
/// image does.
const ESP: (u64, u64) = (1, 64);
/// The label of the root filesystem.
const LABEL: &str = "testroot";
const MIB: u64 = 1 << 20;
/// A Debian mirror may be slow.
const FETCH: Duration = Duration::from_secs(900);
/// What is in it beside the essentials.
const PACKAGES: &str =
    "systemd-sysv,linux-image-cloud-amd64,iproute2,udev,kmod,initramfs-tools,zstd";
/// What nobody reads in a test: it would be fetched and written.
const IDLE: [&str; 6] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/i18n",
    "var/cache/apt",
    "var/lib/apt/lists",
];
/// The kernel's command line.
const ARGUMENTS: &str =
    "root=LABEL=testroot rw console=ttyS0,115200 net.ifnames=0 quiet systemd.show_status=1";
/// What it says of itself once it runs; `{}` is what is different in each version.
pub const BANNER: &str = "the installed system runs, version";

/// Where trees are kept from run to run.
///
/// # Errors
/// When there is no such directory and none can be made.
pub fn cache() -> Result<PathBuf> {
    let named = std::env::var_os("P2PINST_CACHE").map(PathBuf::from);
    let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let dir =
        named.or_else(|| home.map(|h| h.join("p2pinst"))).context("no cache: set P2PINST_CACHE")?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

fn sh(script: &str, args: &[&OsStr]) -> Result<String> {
    let words = [OsStr::new("-euc"), OsStr::new(script), OsStr::new("sh")];
    run("sh", words.into_iter().chain(args.iter().copied()))
}

/// The release of Debian that this machine runs: its kernel is known to start where it is emulated.
fn suite() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let named = text.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    named.map_or_else(|| "stable".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The tree, made if the cache has none: that takes a minute and a Debian mirror.
fn tree(cache: &Path) -> Result<PathBuf> {
    let lock = File::create(cache.join("os.lock")).context("cannot write into the cache")?;
    lock.lock().context("cannot lock the cache")?;
    let suite = suite();
    let done = cache.join(format!("os-tree-3-{suite}"));
    if done.exists() {
        return Ok(done);
    }
    let begun = cache.join("os-tree.unfinished");
    if begun.exists() {
        fs::remove_dir_all(&begun).context("cannot remove what was left")?;
    }
    let include = format!("--include={PACKAGES}");
    let words = ["--variant=minbase".as_ref(), include.as_ref(), suite.as_ref(), begun.as_os_str()];
    Exec::new("debootstrap").args(words).limit(FETCH).run()?.ok()?;
    for idle in IDLE {
        let dir = begun.join(idle);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
    }
    let files = [
        ("etc/fstab", format!("LABEL={LABEL} / ext4 defaults 0 1\n")),
        ("etc/hostname", "image\n".to_owned()),
        (
            "etc/systemd/network/all.network",
            "[Match]\nName=eth*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n".to_owned(),
        ),
        (
            "etc/systemd/system/banner.service",
            format!(
                "[Unit]\nAfter=network.target\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo \"{BANNER} $(cat /etc/test-version), as $(hostname)\" >/dev/ttyS0'\n[Install]\nWantedBy=multi-user.target\n"
            ),
        ),
    ];
    for (path, text) in files {
        fs::write(begun.join(path), text).with_context(|| format!("cannot write {path}"))?;
    }
    run(
        "systemctl",
        [
            "--root".as_ref(),
            begun.as_os_str(),
            "enable".as_ref(),
            "systemd-networkd".as_ref(),
            "banner".as_ref(),
        ],
    )?;
    fs::rename(&begun, &done).context("cannot name the tree")?;
    Ok(done)
}

/// What is missing here to make one; nothing if nothing is.
#[must_use]
pub fn why_no_image() -> Option<String> {
    let needed = [
        ("debootstrap", "debootstrap"),
        ("sfdisk", "fdisk"),
        ("mkfs.vfat", "dosfstools"),
        ("mcopy", "mtools"),
        ("extlinux", "extlinux"),
    ];
    let missing = needed.into_iter().find_map(|(p, package)| why_not_installed(p, package));
    let files = [
        ("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", "systemd-boot-efi"),
        ("/usr/lib/EXTLINUX/gptmbr.bin", "extlinux"),
    ];
    missing.or_else(|| {
        let gone = files.into_iter().find(|(file, _)| !Path::new(file).exists());
        gone.map(|(file, package)| format!("{file} is missing: apt-get install {package}"))
    })
}

/// Something mounted, or a loop device: undone when this is dropped.
struct Undo(&'static str, Vec<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        run(self.0, self.1.iter().map(|p| p.as_os_str())).ok();
    }
}

/// Makes an image of so many MiB. `version` is in a file of it, which the system reads aloud.
///
/// # Errors
/// When a program is missing or fails, or the tree does not fit.
pub fn make(image: &Path, mib: u64, version: &str) -> Result<()> {
    let tree = tree(&cache()?)?;
    let file = File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
    file.set_len(mib * MIB).context("cannot make it long")?;
    drop(file);
    let (begin, len) = ESP;
    let root = begin + len;
    let table = format!(
        "label: gpt\nstart={begin}MiB, size={len}MiB, type=U, name=ESP\nstart={root}MiB, size={}MiB, type=L, name=root, attrs=LegacyBIOSBootable\n",
        mib - root - 1
    );
    sh("printf '%s' \"$2\" | sfdisk -q \"$1\"", &[image.as_os_str(), table.as_ref()])?;
    let esp = image.with_extension("esp");
    make_esp(&tree, &esp)?;
    sh(
        "dd if=\"$2\" of=\"$1\" bs=1M seek=1 conv=notrunc,sparse status=none; rm \"$2\"",
        &[image.as_os_str(), esp.as_os_str()],
    )?;
    make_root(&tree, image, root, mib - root - 1, version)?;
    sh(
        "dd if=/usr/lib/EXTLINUX/gptmbr.bin of=\"$1\" bs=440 count=1 conv=notrunc status=none",
        &[image.as_os_str()],
    )?;
    Ok(())
}

fn kernel(tree: &Path) -> Result<String> {
    let names = fs::read_dir(tree.join("boot")).context("the tree has no /boot")?;
    let mut names = names.flatten().filter_map(|e| e.file_name().into_string().ok());
    let version = names.find_map(|n| n.strip_prefix("vmlinuz-").map(str::to_owned));
    version.context("the tree has no kernel")
}

/// The EFI system partition: systemd-boot, the kernel and its initramfs.
fn make_esp(tree: &Path, esp: &Path) -> Result<()> {
    let version = kernel(tree)?;
    let entry = format!("title test\nlinux /vmlinuz\ninitrd /initrd\noptions {ARGUMENTS}\n");
    let script =
        "truncate -s \"$2\" \"$1\"; mkfs.vfat -n ESP \"$1\" >/dev/null; export MTOOLS_SKIP_CHECK=1
        mmd -i \"$1\" ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
        mcopy -i \"$1\" /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
        mcopy -i \"$1\" \"$3\" ::/vmlinuz; mcopy -i \"$1\" \"$4\" ::/initrd
        printf 'timeout 0\\n' | mcopy -i \"$1\" - ::/loader/loader.conf
        printf '%s' \"$5\" | mcopy -i \"$1\" - ::/loader/entries/test.conf";
    let boot = |name: &str| tree.join("boot").join(format!("{name}-{version}"));
    let size = format!("{}M", ESP.1);
    let args: [&OsStr; 5] = [
        esp.as_os_str(),
        size.as_ref(),
        &boot("vmlinuz").into_os_string(),
        &boot("initrd.img").into_os_string(),
        entry.as_ref(),
    ];
    sh(script, &args).map(drop)
}

/// The root filesystem, with what BIOS starts.
fn make_root(tree: &Path, image: &Path, begin: u64, len: u64, version: &str) -> Result<()> {
    let kernel = kernel(tree)?;
    let (offset, limit) = ((begin * MIB).to_string(), (len * MIB).to_string());
    let words = ["--show", "--find", "--offset", &offset, "--sizelimit", &limit].map(OsStr::new);
    let device =
        PathBuf::from(run("losetup", words.into_iter().chain([image.as_os_str()]))?.trim());
    let _loop = Undo("losetup", vec!["--detach".into(), device.clone()]);
    let features = ["-q", "-O", "^64bit,^metadata_csum", "-L", LABEL].map(OsStr::new);
    run("mkfs.ext4", features.into_iter().chain([device.as_os_str()]))?;
    let dir = tempfile::tempdir().context("no temporary directory")?;
    run("mount", [device.as_os_str(), dir.path().as_os_str()])?;
    let _mount = Undo("umount", vec![dir.path().to_path_buf()]);
    sh("cp -a \"$1\"/. \"$2\"/", &[tree.as_os_str(), dir.path().as_os_str()])?;
    fs::write(dir.path().join("etc/test-version"), version).context("cannot write the version")?;
    let boot = dir.path().join("boot/extlinux");
    fs::create_dir_all(&boot).context("cannot make a directory")?;
    let config = format!(
        "serial 0 115200\ndefault test\nprompt 0\nlabel test\n kernel /boot/vmlinuz-{kernel}\n initrd /boot/initrd.img-{kernel}\n append {ARGUMENTS}\n"
    );
    fs::write(boot.join("extlinux.conf"), config).context("cannot write the loader's file")?;
    let done = run("extlinux", ["--install".as_ref(), boot.as_os_str()]);
    ensure!(boot.join("ldlinux.sys").exists(), "extlinux: {done:?}");
    Ok(())
}
