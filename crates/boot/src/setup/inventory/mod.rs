//! Reads what a machine is made of, from sysfs and procfs; what is on its disks from blkid.
//!
//! Blocks. Reads the kernel's files and never writes. What cannot be read is left out: a machine with a broken
//! part still has an inventory.

mod disk;
mod net;
mod path;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_types::record::{Firmware, Inventory};
use p2pinst_types::{Mac, limits};

pub use disk::disks;
pub(super) use disk::sector;

/// How long a tool may take to look at a disk; a failing one answers slowly.
pub(super) const LOOK: Duration = Duration::from_secs(30);
/// What a tool may say about a disk.
pub(super) const SAID_MAX: u64 = 64 << 10;
/// The longest file of sysfs.
const FILE_MAX: u64 = 4096;
/// The processors' file: 1.5 KiB for each of some thousands.
const CPUS_MAX: u64 = 8 << 20;

/// Where the kernel shows what there is.
#[derive(Debug, Clone)]
pub struct Roots {
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// Where the devices are.
    pub dev: PathBuf,
    /// Disks that count although they are of a kind that does not: loop devices, say.
    pub also: Vec<String>,
    /// Interfaces that count although they are no devices: those of a namespace, say.
    pub nics: Vec<String>,
}

impl Default for Roots {
    /// Those of the machine that this runs on.
    fn default() -> Self {
        let (sys, proc, dev) = ("/sys".into(), "/proc".into(), "/dev".into());
        Self { sys, proc, dev, also: Vec::new(), nics: Vec::new() }
    }
}

/// What the machine is made of. It keeps the bounds of [`Inventory::is_bounded`].
#[must_use]
pub fn read(roots: &Roots) -> Inventory {
    let dmi = |name: &str| dmi(&roots.sys.join("class/dmi/id").join(name));
    let (cpu, cpus) = processors(&roots.proc.join("cpuinfo"));
    let uefi = roots.sys.join("firmware/efi").is_dir();
    let arch = rustix::system::uname().machine().to_string_lossy().into_owned();
    Inventory {
        uuid: dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        serial: dmi("product_serial"),
        firmware: if uefi { Firmware::Uefi } else { Firmware::Bios },
        arch: short(arch.as_bytes()).unwrap_or_default(),
        cpu,
        cpus,
        memory: memory(&roots.proc.join("meminfo")),
        disks: disks(roots),
        nics: net::nics(roots),
        controller: controller(&roots.dev),
    }
}

/// The addresses of the machine's network interfaces; at most [`limits::HARDWARE_NICS`]. Runs no tool.
#[must_use]
pub fn macs(roots: &Roots) -> Vec<Mac> {
    net::nics(roots).into_iter().map(|nic| nic.mac).collect()
}

/// The beginning of a file.
fn begin(path: &Path, max: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(max).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A text for an inventory: clean, not empty, and short enough.
fn short(bytes: &[u8]) -> Option<String> {
    let mut text = p2pinst_command::text(bytes.split(|b| *b == 0).next().unwrap_or_default());
    text.retain(|c| c != '\n' && c != '\t');
    let end = (0..=limits::HARDWARE_TEXT.min(text.len())).rev().find(|i| text.is_char_boundary(*i));
    text.truncate(end.unwrap_or(0));
    text.truncate(text.trim_end().len());
    (!text.is_empty()).then_some(text)
}

/// A value of sysfs.
fn attribute(path: &Path) -> Option<String> {
    short(&begin(path, FILE_MAX)?)
}

/// What makers leave in where they have nothing to say.
const PLACEHOLDERS: [&str; 10] = [
    "to be filled by o.e.m.",
    "default string",
    "not specified",
    "not applicable",
    "system serial number",
    "system manufacturer",
    "system product name",
    "none",
    "unknown",
    "0123456789",
];

fn dmi(path: &Path) -> Option<String> {
    let text = attribute(path)?;
    let lower = text.to_ascii_lowercase();
    let nothing = PLACEHOLDERS.contains(&lower.as_str())
        || text.chars().all(|c| matches!(c, '0' | '-' | '.' | ' '));
    (!nothing).then_some(text)
}

fn processors(path: &Path) -> (Option<String>, u32) {
    let bytes = begin(path, CPUS_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let pairs = || text.lines().filter_map(|line| line.split_once(':'));
    let count = pairs().filter(|(key, _)| key.trim() == "processor").count();
    let model = pairs().find(|(key, _)| matches!(key.trim(), "model name" | "cpu model" | "cpu"));
    (
        model.and_then(|(_, model)| short(model.trim().as_bytes())),
        u32::try_from(count).unwrap_or(u32::MAX),
    )
}

fn memory(path: &Path) -> u64 {
    let bytes = begin(path, FILE_MAX).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The controller's address, asked of the controller itself; only where the kernel has a device for it, because the
/// tool takes long to find out that there is none.
fn controller(dev: &Path) -> Option<String> {
    if !dev.join("ipmi0").exists() {
        return None;
    }
    let mut command = p2pinst_command::clean("ipmitool");
    command.args(["-I", "open", "lan", "print"]);
    let said = p2pinst_command::ask_within(command, b"", SAID_MAX, LOOK).ok()?;
    address(&String::from_utf8_lossy(&said.stdout))
}

fn address(said: &str) -> Option<String> {
    let pairs = said.lines().filter_map(|line| line.split_once(':'));
    let text = pairs.into_iter().find(|(key, _)| key.trim() == "IP Address")?.1.trim();
    let address: std::net::Ipv4Addr = text.parse().ok()?;
    (!address.is_unspecified()).then(|| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_clean_and_short() {
        assert_eq!(short(b" Samsung \x1b[31mSSD\n\0rest"), Some("Samsung [31mSSD".into()));
        assert_eq!(short("é".repeat(100).as_bytes()).map(|t| t.len()), Some(limits::HARDWARE_TEXT));
        assert_eq!(short(b" \n"), None);
    }

    #[test]
    fn the_controller_says_its_address() {
        let said = "Set in Progress         : Set Complete\nIP Address Source       : Static Address\nIP Address              : 10.1.2.3\n";
        assert_eq!(address(said), Some("10.1.2.3".into()));
        assert_eq!(address("IP Address              : 0.0.0.0\n"), None);
        assert_eq!(address("IP Address : $(reboot)\n"), None);
    }

    #[test]
    fn this_machine_has_an_inventory() {
        let inventory = read(&Roots::default());
        assert!(inventory.is_bounded());
        assert!(inventory.cpus > 0 && inventory.memory > 1 << 20, "{inventory:?}");
        assert!(!inventory.disks.iter().any(|d| d.name.starts_with("loop")), "{inventory:?}");
    }
}
