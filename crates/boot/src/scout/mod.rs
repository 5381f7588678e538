//! The scout: the small system that installs a bare machine. A Debian kernel, an archive of programs that the kernel unpacks into memory, and
//! the daemon.
//!
//! [`build()`] makes one of Debian's packages, as any user: for UEFI one file (`scout.efi`, a unified kernel image), for BIOS a kernel and an
//! initrd that iPXE loads. It has no secret and nothing of any machine; what a cluster adds ([`Extra`]) is public. Firmware for
//! devices is not in it.
//!
//! In the running scout `init.sh` is the first process: it loads modules by what the hardware says of itself, brings up every Ethernet
//! link, asks for an address on each by DHCP, and keeps `p2pinstd scout` running. What it found out is in `/run/scout`:
//! `boot` (`key=value`), `net/LINK.lease` ([`Lease`]), `loader` ([`loader_peer`]), `pid`. [`gather`] makes of that, and
//! of the kernel's arguments ([`BootArgs`]), whom to ask first. `p2pinstd` reboots or halts the machine itself; when it ends, it is started
//! again after 1 to 30 s. The power button sends it SIGTERM and gives it ten seconds.
//! Programs are to be started by their paths: for a bare name busybox's shell takes its own `tar`, `mount` or `losetup`. There is no udev:
//! `/dev` has the kernel's names only, links are `eth0` and so on.

mod ask;
mod boot_args;
mod build;
mod contents;
mod elf;
mod field;
mod hints;
mod manifest;
mod modules;
mod packages;
mod tree;
mod uki;

pub use crate::cpio::CpioError;
pub use ask::{ask, text};
pub use boot_args::{BootArgs, HTTP_PORT};
pub use build::{BuildError, Built, Extra, Level, Options, Profile, build};
pub use elf::ElfError;
pub use hints::{BEACON_PORT, Hint, Lease, RUN_DIR, Source, gather, loader_peer};
pub use manifest::{File, Manifest};
pub use modules::ModuleError;
pub use packages::PackageError;
pub use tree::TreeError;
pub use uki::UkiError;
