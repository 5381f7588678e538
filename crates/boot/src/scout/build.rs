//! Making a scout: packages in, boot files out. The same packages, programs and options give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use p2pinst_files::{Access, FileError};
use p2pinst_types::Hash;
use thiserror::Error;

use super::contents::{self, DATA, PACKAGES, PROGRAMS};
use super::manifest::{File, Manifest};
use super::modules::{self, ModuleError, Taken};
use super::packages::{Apt, Package, PackageError};
use super::tree::{self, Tree, TreeError};
use super::uki::{self, UkiError};
use crate::cpio::{self, Archive, CpioError};

/// Where the daemon is in the scout; `init` starts it there, with the argument `scout`.
const DAEMON: &str = "/usr/sbin/p2pinstd";
const CLI: &str = "/usr/bin/p2pinst";
/// Larger than any kernel or boot loader.
const BOOT_FILE_MAX: u64 = 256 << 20;
/// Data of a cluster: some public keys and addresses.
const EXTRA_MAX: u64 = 16 << 20;
/// Boot loaders of the package `ipxe`, and by which name they are given out.
const IPXE: &[&str] = &["ipxe.efi", "snponly.efi", "undionly.kpxe"];
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Which kernel a scout has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Small, for virtual machines (`linux-image-cloud-amd64`).
    Cloud,
    /// With the drivers of real machines (`linux-image-amd64`).
    Full,
}

impl Profile {
    /// Its name for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Full => "full",
        }
    }

    fn metapackage(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Full => "linux-image-amd64",
        }
    }
}

/// A file that a cluster adds: its root's public data, hints where its peers are. Everybody on the segment can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    path: String,
    content: Vec<u8>,
}

impl Extra {
    /// The file `path` in the scout with this content, which is no secret.
    #[must_use]
    pub fn new(path: impl Into<String>, content: Vec<u8>) -> Self {
        Self { path: path.into(), content }
    }

    /// The file `path` in the scout with the content of the file `from`.
    ///
    /// # Errors
    /// When it cannot be read, has more than 16 MiB, or is one that not everybody may read: then it may be a secret.
    pub fn from_file(path: impl Into<String>, from: &Path) -> Result<Self, BuildError> {
        let mode = fs::metadata(from).map(|meta| meta.permissions().mode());
        let mode = mode.map_err(|source| BuildError::read(from, source))?;
        if mode & 0o004 == 0 {
            return Err(BuildError::Secret(from.to_owned()));
        }
        Ok(Self::new(path, p2pinst_files::read(from, EXTRA_MAX)?))
    }
}

/// What a scout is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its kernel.
    pub profile: Profile,
    /// The program `p2pinstd` for it.
    pub daemon: PathBuf,
    /// The program `p2pinst` for it.
    pub cli: Option<PathBuf>,
    /// Files of the cluster, in an archive of their own behind the others.
    pub extras: Vec<Extra>,
    /// With LVM's programs.
    pub lvm: bool,
    /// With `ipmitool`, to learn the controller's address.
    pub ipmitool: bool,
    /// The time that all files bear, in seconds since 1970 (as `SOURCE_DATE_EPOCH`).
    pub epoch: u32,
    /// How hard zstd works, 1 to 19.
    pub level: Level,
    /// Where packages are kept from build to build.
    pub cache: PathBuf,
}

/// How hard zstd works at the initrd: 1 to 19.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(i32);

impl Level {
    /// For use: the smallest to send.
    pub const BEST: Self = Self(19);
    /// For trials: quick to make.
    pub const QUICK: Self = Self(3);
}

/// A scout that was made.
#[derive(Debug, Clone)]
pub struct Built {
    /// Where its files are.
    pub dir: PathBuf,
    /// What they are.
    pub manifest: Manifest,
}

/// Why there is no scout.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The packages.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The kernel's modules.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The programs and their libraries.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The image for UEFI.
    #[error(transparent)]
    Uki(#[from] UkiError),
    /// Writing the result.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that a build needs.
    #[error("cannot read {} for the scout: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the cluster that is private on this machine.
    #[error(
        "{} is private here, and everybody can read the scout: give only public files (or chmod o+r it)",
        .0.display()
    )]
    Secret(PathBuf),
    /// zstd.
    #[error("cannot compress the initrd: {0}")]
    Compress(#[source] io::Error),
    /// The kernel package has no kernel.
    #[error("the package {0} has no kernel with modules")]
    NoKernel(String),
}

impl BuildError {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// Makes a scout in the directory `out`: `scout.efi`, `vmlinuz`, `initrd`, boot loaders, and at last `manifest.json`.
///
/// # Errors
/// When packages cannot be had, a program lacks a library, or a file cannot be read or written.
pub fn build(options: &Options, out: &Path) -> Result<Built, BuildError> {
    let mut extras = Archive::default();
    for extra in &options.extras {
        extras.file(&extra.path, false, extra.content.clone())?;
    }
    let apt = Apt::open(&options.cache)?;
    let scratch = tempfile::tempdir_in(&options.cache)
        .map_err(|source| PackageError::Cache { path: options.cache.clone(), source })?;
    let unpacked = unpack(options, &apt, scratch.path())?;
    let mut archive = Archive::default();
    let taken = fill(options, &unpacked, &mut archive)?;
    let initrd = compress(&archive, &extras, options)?;
    let files = boot_files(&unpacked, initrd)?;

    let mut manifest = Manifest {
        format: Manifest::FORMAT,
        profile: options.profile.as_str().to_owned(),
        kernel: unpacked.version,
        epoch: options.epoch,
        command_line: contents::COMMAND_LINE.to_owned(),
        files: BTreeMap::new(),
        packages: unpacked.packages.into_iter().map(|p| (p.name, p.version)).collect(),
        modules: taken.count,
        absent: taken.absent,
        firmware: Vec::new(),
    };
    fs::create_dir_all(out).map_err(|source| BuildError::read(out, source))?;
    for (name, content) in files {
        p2pinst_files::write(&out.join(name), &content, Access::Public)?;
        let file = File { size: content.len() as u64, blake3: Hash::of(&content) };
        manifest.files.insert(name.to_owned(), file);
    }
    let mut text = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| BuildError::Compress(io::Error::other(error)))?;
    text.push(b'\n');
    p2pinst_files::write(&out.join("manifest.json"), &text, Access::Public)?;
    Ok(Built { dir: out.to_owned(), manifest })
}

/// The packages, as files.
struct Unpacked {
    root: PathBuf,
    /// The kernel's version, as `uname -r` says.
    version: String,
    packages: Vec<Package>,
}

fn unpack(options: &Options, apt: &Apt, scratch: &Path) -> Result<Unpacked, BuildError> {
    let kernel = apt.kernel(options.profile.metapackage())?;
    let mut tools = PACKAGES.to_vec();
    for (wanted, (packages, _)) in optional(options) {
        tools.extend(packages.iter().filter(|_| wanted));
    }
    let mut names = apt.with_libraries(&tools)?;
    names.push(kernel.clone());
    names.extend(contents::BOOT_PACKAGES.iter().map(|name| (*name).to_owned()));
    let packages = apt.fetch(&names)?;
    let root = scratch.join("root");
    fs::create_dir(&root).map_err(|source| BuildError::read(&root, source))?;
    for package in &packages {
        apt.unpack(package, &root)?;
    }
    let version = kernel.strip_prefix("linux-image-").unwrap_or(&kernel).to_owned();
    if !tree::place(&root, &format!("usr/lib/modules/{version}")).is_dir() {
        return Err(BuildError::NoKernel(kernel));
    }
    Ok(Unpacked { root, version, packages })
}

type Part = (&'static [&'static str], &'static [&'static str]);

fn optional(options: &Options) -> [(bool, Part); 2] {
    [(options.lvm, contents::LVM), (options.ipmitool, contents::IPMITOOL)]
}

fn fill(
    options: &Options,
    unpacked: &Unpacked,
    archive: &mut Archive,
) -> Result<Taken, BuildError> {
    for dir in contents::DIRECTORIES {
        archive.directory(dir)?;
    }
    for (path, target) in contents::LINKS {
        archive.link(path, target)?;
    }
    for (path, executable, content) in contents::OWN {
        archive.file(path, *executable, content.as_bytes().to_vec())?;
    }
    let mut tree = Tree::new(&unpacked.root, archive);
    for name in PROGRAMS {
        tree.program(name)?;
    }
    for (wanted, (_, names)) in optional(options) {
        for name in names.iter().filter(|_| wanted) {
            tree.program(name)?;
        }
    }
    for path in DATA {
        tree.take(path)?;
    }
    tree.bring(&options.daemon, DAEMON)?;
    if let Some(cli) = &options.cli {
        tree.bring(cli, CLI)?;
    }
    tree.complete()?;
    for name in contents::LVM_NAMES.iter().filter(|_| options.lvm) {
        archive.link(&format!("/usr/sbin/{name}"), "lvm")?;
    }
    for name in contents::APPLETS {
        let there = ["usr/bin", "usr/sbin"].iter().any(|dir| archive.has(&format!("{dir}/{name}")));
        if !there {
            archive.link(&format!("usr/bin/{name}"), "busybox")?;
        }
    }
    // the kernel asks here for modules
    archive.link("usr/sbin/modprobe", "../bin/busybox")?;
    let dir = tree::place(&unpacked.root, &format!("usr/lib/modules/{}", unpacked.version));
    let wished = contents::MODULES.iter().flat_map(|(_, names)| names.iter().copied());
    Ok(modules::take(&dir, wished, archive)?)
}

/// The archive compressed, then that of the cluster as it is, so that a reader sees what is in it.
fn compress(archive: &Archive, extras: &Archive, options: &Options) -> Result<Vec<u8>, BuildError> {
    let mut initrd = zstd::bulk::compress(&archive.write(options.epoch), options.level.0)
        .map_err(BuildError::Compress)?;
    if !options.extras.is_empty() {
        cpio::pad(&mut initrd);
        initrd.extend_from_slice(&extras.write(options.epoch));
    }
    Ok(initrd)
}

fn boot_files(
    unpacked: &Unpacked,
    initrd: Vec<u8>,
) -> Result<Vec<(&'static str, Vec<u8>)>, BuildError> {
    let read =
        |path: String| p2pinst_files::read(&tree::place(&unpacked.root, &path), BOOT_FILE_MAX);
    let vmlinuz = read(format!("boot/vmlinuz-{}", unpacked.version))?;
    let release = contents::OS_RELEASE;
    let sections = [
        (".osrel", release.as_bytes()),
        (".uname", unpacked.version.as_bytes()),
        (".cmdline", contents::COMMAND_LINE.as_bytes()),
        (".initrd", &initrd),
        // the last: the kernel unpacks itself behind its end
        (".linux", &vmlinuz),
    ];
    let uki = uki::assemble(&read(STUB.to_owned())?, &sections)?;
    let mut files = vec![("scout.efi", uki), ("vmlinuz", vmlinuz), ("initrd", initrd)];
    for name in IPXE {
        files.push((name, read(format!("usr/lib/ipxe/{name}"))?));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_files_do_not_go_into_a_scout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        fs::write(&path, "public").unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        let error = Extra::from_file("/etc/p2pinst/cluster.cbor", &path).unwrap_err().to_string();
        assert!(error.contains("private"), "{error}");
        mode(0o644);
        let extra = Extra::from_file("/etc/p2pinst/cluster.cbor", &path).unwrap();
        assert_eq!(extra.content, b"public");
    }
}
