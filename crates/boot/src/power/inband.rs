//! The machine itself, while its own system runs and it has no controller: `systemctl` and `efibootmgr`, run on that machine.
//!
//! Never asks another machine. Who wants a machine to restart that way asks the node on it.

use std::time::Duration;

use p2pinst_command::{ask_within, clean, text};

use super::action::{Boot, BootDevice, PowerState, Span, Switch};
use super::driver::{Capabilities, PowerDriver};
use super::error::{Class, Fault, PowerError};

const LINE: &str = "inband:";
/// What efibootmgr may say: a hundred entries.
const OUTPUT: u64 = 64 * 1024;
const EFI: &str = "/sys/firmware/efi/efivars";

/// The machine on which this runs.
#[derive(Debug)]
pub struct InBandDriver {
    limit: Duration,
}

impl InBandDriver {
    /// This machine; calls take at most `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }

    fn call(&self, program: &str, words: &[&str]) -> Result<String, Fault> {
        let mut command = clean(program);
        command.args(words);
        let said = ask_within(command, b"", OUTPUT, self.limit)
            .map_err(|error| Fault::running(program, &error))?;
        if said.success {
            return Ok(text(&said.stdout));
        }
        let why = format!("{program} {}: {}", words.join(" "), said.stderr);
        Err(Fault::new(Class::Action, why))
    }

    fn entries(&self) -> Result<Entries, Fault> {
        if !std::path::Path::new(EFI).is_dir() {
            let why = "this machine was not started by UEFI, or its variables are not mounted";
            return Err(Fault::new(Class::Config, why));
        }
        self.call("efibootmgr", &["-v"]).map(|said| Entries::read(&said))
    }

    fn arm(&self, device: BootDevice) -> Result<(), Fault> {
        let entries = self.entries()?;
        match (device, entries.find(device), entries.next) {
            (BootDevice::None, _, None) => Ok(()),
            (BootDevice::None, _, Some(_)) => {
                self.call("efibootmgr", &["-q", "--delete-bootnext"]).map(drop)
            }
            (_, Some(number), _) => {
                let number = format!("{number:04X}");
                self.call("efibootmgr", &["-q", "--bootnext", &number]).map(drop)
            }
            (_, None, _) => {
                let why = format!("the firmware has no boot entry for {device}");
                Err(Fault::new(Class::Config, why))
            }
        }
    }
}

/// Boot entries of the firmware, as `efibootmgr -v` shows them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entries {
    entries: Vec<(u16, BootDevice)>,
    current: Option<u16>,
    next: Option<u16>,
    order: Vec<u16>,
}

impl Entries {
    fn read(said: &str) -> Self {
        let number = |text: &str| u16::from_str_radix(text.trim(), 16).ok();
        let mut read = Self::default();
        for line in said.lines() {
            if let Some(rest) = line.strip_prefix("BootNext:") {
                read.next = number(rest);
            } else if let Some(rest) = line.strip_prefix("BootCurrent:") {
                read.current = number(rest);
            } else if let Some(rest) = line.strip_prefix("BootOrder:") {
                read.order = rest.split(',').filter_map(number).collect();
            } else if let Some(rest) = line.strip_prefix("Boot")
                && let Some(entry) = rest.get(..4).and_then(number)
                && let Some(device) = rest.get(4..).and_then(device_of)
            {
                read.entries.push((entry, device));
            }
        }
        read
    }

    /// The first of the boot order for the device. For a disk, the entry that the running system came from.
    fn find(&self, device: BootDevice) -> Option<u16> {
        let is = |number: &u16| self.entries.contains(&(*number, device));
        let current = self.current.filter(|c| device == BootDevice::Disk && is(c));
        let ordered = self.order.iter().copied().find(is);
        let any = || self.entries.iter().find(|(_, d)| *d == device).map(|(n, _)| *n);
        let other = || match device {
            BootDevice::UefiHttp => self.find(BootDevice::Pxe),
            _ => None,
        };
        current.or(ordered).or_else(any).or_else(other)
    }
}

/// What an entry starts from, by its device path (UEFI 2.10, section 10); IPv4 before IPv6.
fn device_of(entry: &str) -> Option<BootDevice> {
    if entry.contains("/Uri(") {
        Some(BootDevice::UefiHttp)
    } else if entry.contains("/MAC(") {
        Some(BootDevice::Pxe)
    } else if entry.contains("HD(") {
        Some(BootDevice::Disk)
    } else {
        None
    }
}

impl PowerDriver for InBandDriver {
    fn query(&mut self) -> Result<PowerState, PowerError> {
        Ok(PowerState::On)
    }

    fn set(&mut self, switch: Switch) -> Result<(), PowerError> {
        let attempt = format!("switch the machine ({switch})");
        let word = match switch {
            Switch::On => {
                let fault = Fault::new(Class::AlreadyThere, "this is the machine, and it runs");
                return Err(fault.at(attempt, LINE));
            }
            Switch::Off | Switch::SoftOff => "poweroff",
            Switch::Reset => "reboot",
        };
        let done = self.call("systemctl", &["--no-block", word]);
        done.map(drop).map_err(|fault| fault.at(attempt, LINE))
    }

    fn set_boot(&mut self, boot: Boot) -> Result<(), PowerError> {
        let attempt = "set the boot device";
        if boot.span == Span::Lasting {
            let why = "the firmware takes an override for one start only";
            return Err(Fault::new(Class::Config, why).at(attempt, LINE));
        }
        self.arm(boot.device).map_err(|fault| fault.at(attempt, LINE))
    }

    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError> {
        let entries = self.entries().map_err(|fault| fault.at("read the boot device", LINE))?;
        Ok(Some(match entries.next {
            None => BootDevice::None,
            Some(next) => {
                let found = entries.entries.iter().find(|(number, _)| *number == next);
                found.map_or(BootDevice::None, |(_, device)| *device)
            }
        }))
    }

    fn clear_boot(&mut self) -> Result<(), PowerError> {
        self.arm(BootDevice::None).map_err(|fault| fault.at("clear the boot device", LINE))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            reads: true,
            off: true,
            soft_off: true,
            boot: true,
            once: true,
            reads_boot: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As efibootmgr 17 prints what OVMF has.
    const SAID: &str = "BootCurrent: 0006
Timeout: 3 seconds
BootOrder: 0000,0003,0004,0006,0005
Boot0000* UiApp\tFvVol(7cb8bdc9)/FvFile(462caa21)
Boot0003* UEFI PXEv4 (MAC:525400123456)\tPciRoot(0x0)/Pci(0x2,0x0)/MAC(525400123456,1)/IPv4(0.0.0.00.0.0.0,0,0)N.....YM....R,Y.
Boot0004* UEFI HTTPv4 (MAC:525400123456)\tPciRoot(0x0)/Pci(0x2,0x0)/MAC(525400123456,1)/IPv4(0.0.0.00.0.0.0,0,0)/Uri()N.....YM....R,Y.
Boot0005* UEFI Misc Device\tPciRoot(0x0)/Pci(0x3,0x0)N.....YM....R,Y.
Boot0006* debian\tHD(1,GPT,2ff28a3b,0x800,0x4000)/File(\\EFI\\debian\\shimx64.efi)
";

    #[test]
    fn boot_entries_are_found() {
        let entries = Entries::read(SAID);
        assert_eq!(entries.find(BootDevice::Pxe), Some(3));
        assert_eq!(entries.find(BootDevice::UefiHttp), Some(4));
        assert_eq!(entries.find(BootDevice::Disk), Some(6));
        assert_eq!(entries.next, None);
        let armed = Entries::read(&format!("BootNext: 0003\n{SAID}"));
        assert_eq!(armed.next, Some(3));
        let without = SAID.replace("/Uri()", "");
        assert_eq!(Entries::read(&without).find(BootDevice::UefiHttp), Some(3));
        assert_eq!(Entries::read("garbage\nBootüü* x").find(BootDevice::Disk), None);
    }
}
