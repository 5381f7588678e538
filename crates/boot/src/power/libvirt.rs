//! Virtual machines of libvirt, through `virsh`, which is asked without a terminal and so never asks for a password.
//!
//! libvirt has no override for one start: the boot order of the domain's definition is changed, and stays so until it is cleared.

use std::time::Duration;

use p2pinst_command::{ask_within, clean, text};

use super::action::{Boot, BootDevice, PowerState, Switch};
use super::controller::{Controller, Libvirt};
use super::driver::{Capabilities, PowerDriver};
use super::error::{Class, Fault, PowerError};

const TOOL: &str = "virsh";
/// The longest definition of a domain: those with dozens of disks have 20 KiB.
const OUTPUT: u64 = 1 << 20;

/// A domain.
#[derive(Debug)]
pub struct LibvirtDriver {
    at: Libvirt,
    line: String,
    limit: Duration,
}

impl LibvirtDriver {
    /// A domain; calls take at most `limit`.
    #[must_use]
    pub fn new(at: Libvirt, limit: Duration) -> Self {
        let line = Controller::Libvirt(at.clone()).to_string();
        Self { at, line, limit }
    }

    fn ask(&self, attempt: &str, words: &[&str], input: &[u8]) -> Result<String, PowerError> {
        let mut uri = self.at.uri.clone();
        if uri.contains("+ssh:") {
            // ssh fails where it would ask a person
            uri.push_str(if uri.contains('?') { "&no_tty=1" } else { "?no_tty=1" });
        }
        let mut command = clean(TOOL);
        command.args(["-q", "-c", &uri]).args(words);
        let said = ask_within(command, input, OUTPUT, self.limit)
            .map_err(|error| Fault::running(TOOL, &error).at(attempt, &self.line))?;
        if said.success {
            return Ok(text(&said.stdout));
        }
        Err(Fault::new(class(&said.stderr), said.stderr).at(attempt, &self.line))
    }

    fn define(&self, attempt: &str, device: BootDevice) -> Result<(), PowerError> {
        let definition =
            self.ask(attempt, &["dumpxml", "--inactive", "--security-info", &self.at.domain], b"")?;
        let Some(changed) = with_boot(&definition, device) else {
            let why = "the domain's definition has no <os> element that boots by device";
            return Err(Fault::new(Class::Config, why).at(attempt, &self.line));
        };
        if changed == definition {
            return Ok(());
        }
        self.ask(attempt, &["define", "/dev/stdin"], changed.as_bytes()).map(drop)
    }
}

/// What virsh means.
fn class(said: &str) -> Class {
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["already active", "already running", "is not running"]) {
        Class::AlreadyThere
    } else if has(&["authentication", "permission denied", "access denied", "host key"]) {
        Class::Auth
    } else if has(&[
        "failed to get domain",
        "domain not found",
        "unsupported",
        "no connection driver",
    ]) {
        Class::Config
    } else if has(&["state change lock", "another operation", "timed out during operation"]) {
        Class::Busy
    } else if has(&["failed to connect", "cannot recv data", "unable to connect", "end of file"]) {
        Class::Conn
    } else {
        Class::Action
    }
}

/// The definition with a boot order that begins with the device; libvirt itself lays its elements out one on each line.
fn with_boot(definition: &str, device: BootDevice) -> Option<String> {
    let order: &[&str] = match device {
        BootDevice::Pxe | BootDevice::UefiHttp => &["network", "hd"],
        BootDevice::Disk | BootDevice::None => &["hd"],
    };
    let mut lines: Vec<String> = Vec::new();
    let mut added = false;
    for line in definition.lines() {
        let element = line.trim_start();
        if element.starts_with("<boot dev=") || element.starts_with("<boot order=") {
            continue;
        }
        if element == "</os>" && !added {
            let indent = line.get(..line.len() - element.len()).unwrap_or("");
            lines.extend(order.iter().map(|dev| format!("{indent}  <boot dev='{dev}'/>")));
            added = true;
        }
        lines.push(line.to_owned());
    }
    added.then(|| lines.join("\n"))
}

fn boot_of(definition: &str) -> BootDevice {
    let first = definition.lines().map(str::trim).find_map(|l| l.strip_prefix("<boot dev='"));
    match first {
        Some(first) if first.starts_with("network'") => BootDevice::Pxe,
        Some(first) if first.starts_with("hd'") => BootDevice::Disk,
        _ => BootDevice::None,
    }
}

impl PowerDriver for LibvirtDriver {
    fn query(&mut self) -> Result<PowerState, PowerError> {
        let said = self.ask("read the power state", &["domstate", &self.at.domain], b"")?;
        Ok(match said.as_str() {
            "running" | "idle" | "in shutdown" | "pmsuspended" => PowerState::On,
            "shut off" | "crashed" => PowerState::Off,
            _ => PowerState::Unknown,
        })
    }

    fn set(&mut self, switch: Switch) -> Result<(), PowerError> {
        let word = match switch {
            Switch::On => "start",
            Switch::Off => "destroy",
            Switch::SoftOff => "shutdown",
            Switch::Reset => "reset",
        };
        let attempt = format!("switch the machine ({switch})");
        match self.ask(&attempt, &[word, &self.at.domain], b"") {
            // a machine that is off has not been reset
            Err(error) if switch == Switch::Reset && error.class == Class::AlreadyThere => {
                Err(PowerError { class: Class::Action, ..error })
            }
            done => done.map(drop),
        }
    }

    fn set_boot(&mut self, boot: Boot) -> Result<(), PowerError> {
        self.define("set the boot device", boot.device)
    }

    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError> {
        let words = ["dumpxml", "--inactive", &self.at.domain];
        self.ask("read the boot device", &words, b"").map(|xml| Some(boot_of(&xml)))
    }

    fn clear_boot(&mut self) -> Result<(), PowerError> {
        self.define("clear the boot device", BootDevice::None)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            reads: true,
            off: true,
            soft_off: true,
            boot: true,
            once: false,
            reads_boot: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='kvm'>\n  <os>\n    <type>hvm</type>\n    <boot dev='hd'/>\n  </os>\n  <devices>\n    <disk>\n      <boot order='1'/>\n    </disk>\n  </devices>\n</domain>";

    #[test]
    fn the_boot_order_is_changed_and_changed_back() {
        let network = with_boot(XML, BootDevice::UefiHttp).unwrap();
        assert!(network.contains("    <boot dev='network'/>\n    <boot dev='hd'/>\n  </os>"));
        assert!(!network.contains("order"), "libvirt refuses both kinds at once: {network}");
        assert_eq!(boot_of(&network), BootDevice::Pxe);
        let back = with_boot(&network, BootDevice::None).unwrap();
        assert_eq!(boot_of(&back), BootDevice::Disk);
        assert!(with_boot("<domain/>", BootDevice::Pxe).is_none());
    }

    #[test]
    fn the_words_of_virsh_are_understood() {
        for (said, is) in [
            ("error: Domain is already active", Class::AlreadyThere),
            ("error: Requested operation is not valid: domain is not running", Class::AlreadyThere),
            ("error: failed to get domain 'nosuch'", Class::Config),
            ("error: failed to connect to the hypervisor", Class::Conn),
            ("error: Timed out during operation: cannot acquire state change lock", Class::Busy),
            ("error: authentication failed: no agent", Class::Auth),
            ("error: internal error", Class::Action),
        ] {
            assert_eq!(class(said), is, "{said}");
        }
    }
}
