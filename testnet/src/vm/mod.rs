//! Machines with nothing on them: QEMU's, on the bridge of a lab, with controllers and foreign servers around them.
//!
//! A [`Segment`] is a bridge. A [`Vm`] is a machine plugged into it, switched by this program or by its controller, a [`Bmc`]
//! that speaks IPMI. [`ForeignDhcp`] is the site's DHCP server, which is not ours; [`WebServer`] hands out files. All of it
//! runs in namespaces of the lab, so that what a killed run leaves behind goes with them.
//!
//! QEMU only emulates (TCG): where these tests run, virtualisation inside of a virtual machine is broken.

mod bmc;
mod dhcp;
mod machine;
mod qemu;
mod qmp;
mod segment;
mod serial;
mod service;
mod web;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use p2pinst_types::mac::Mac;
use serde_json::Value;

pub use bmc::{Bmc, PASSWORD, USER};
pub use dhcp::{ForeignDhcp, Lease, Offer, Range};
pub use machine::{Fault, Machine, hook};
pub use qemu::{Boot, Bus, Direct, Disk, Firmware, Spec};
pub use segment::Segment;
pub use web::WebServer;

use crate::ready::why_not_installed;
use crate::wait::eventually;

/// A machine that is told to end has ended within this time.
const END: Duration = Duration::from_secs(10);

/// Why there can be no machines here; nothing if there can.
#[must_use]
pub fn why_no_machines() -> Option<String> {
    let needed = [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("dnsmasq", "dnsmasq-base"),
        ("ipmi_sim", "openipmi"),
        ("ipmitool", "ipmitool"),
        ("busybox", "busybox-static"),
    ];
    let missing = needed.into_iter().find_map(|(p, package)| why_not_installed(p, package));
    let files = [
        (qemu::CODE, "ovmf"),
        (qemu::VARS, "ovmf"),
        (qemu::BIOS_ROM, "ipxe-qemu"),
        ("/usr/lib/ipxe/ipxe.efi", "ipxe"),
    ];
    missing.or_else(|| {
        let gone = files.into_iter().find(|(file, _)| !Path::new(file).exists());
        gone.map(|(file, package)| format!("{file} is missing: apt-get install {package}"))
    })
}

/// A machine of a lab. It is off at first, and is killed when this is dropped.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    /// How far its words have been dealt with.
    heard: AtomicUsize,
}

impl Vm {
    /// Makes a machine and plugs it in.
    ///
    /// # Errors
    /// When its files or its cable cannot be made.
    pub fn new(segment: &Segment, spec: Spec) -> Result<Self> {
        let machine = Machine::create(segment, spec)?;
        Ok(Self { machine, heard: AtomicUsize::new(0) })
    }

    /// What it is made of.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        self.machine.spec()
    }

    /// Its hardware address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.spec().mac
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.machine.dir()
    }

    /// The file of a disk, by its number from 0.
    #[must_use]
    pub fn disk(&self, number: usize) -> PathBuf {
        qemu::disk(self.dir(), number)
    }

    /// Switches it on; nothing when it is on.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn power_on(&self) -> Result<()> {
        self.machine.power_on()
    }

    /// Takes its power away, as it is; nothing when it is off.
    ///
    /// # Errors
    /// When it does not end.
    pub fn power_off(&self) -> Result<()> {
        self.machine.power_off()
    }

    /// Presses its reset button.
    ///
    /// # Errors
    /// When it is off.
    pub fn reset(&self) -> Result<()> {
        self.machine.reset()
    }

    /// Presses its power button shortly: what runs on it shuts down, if it likes.
    ///
    /// # Errors
    /// When it is off.
    pub fn press_power(&self) -> Result<()> {
        self.machine.press_power()
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.machine.is_on()
    }

    /// The process of QEMU, when it is on.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.machine.pid()
    }

    /// Asks QEMU itself (its Machine Protocol).
    ///
    /// # Errors
    /// When the machine is off, or QEMU refuses.
    pub fn qmp(&self, command: &str, arguments: &Value) -> Result<Value> {
        self.machine.qmp(command, arguments)
    }

    /// All that it has said on its serial console, without what moves a cursor.
    #[must_use]
    pub fn serial(&self) -> String {
        serial::plain(&self.machine.serial())
    }

    /// The last lines of that.
    #[must_use]
    pub fn serial_tail(&self, lines: usize) -> String {
        let text = self.serial();
        let all: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Waits until it says this on its serial console, after what was waited for before.
    ///
    /// # Errors
    /// When it does not within this time, with the last that it said.
    pub fn wait_for(&self, text: &str, within: Duration) -> Result<()> {
        let what = format!("{} says {text:?}", self.spec().name);
        eventually(within, &what, || {
            let said = self.serial();
            let heard = self.heard.load(Ordering::Relaxed);
            let new = said.get(heard..).unwrap_or_default();
            let Some(at) = new.find(text) else {
                bail!("its last words are:\n{}", self.serial_tail(15));
            };
            self.heard.store(heard + at + text.len(), Ordering::Relaxed);
            Ok(())
        })
    }

    /// Lets [`Vm::wait_for`] hear only what it says from now on.
    pub fn forget(&self) {
        self.heard.store(self.serial().len(), Ordering::Relaxed);
    }

    /// Waits until it is on: a controller may take a moment between off and on.
    ///
    /// # Errors
    /// When it is still off after some seconds.
    pub fn wait_on(&self) -> Result<()> {
        eventually(END, &format!("{} is on", self.spec().name), || {
            ensure!(self.is_on(), "it is off");
            Ok(())
        })
    }

    /// Waits until it is off.
    ///
    /// # Errors
    /// When it is still on after this time.
    pub fn wait_off(&self, within: Duration) -> Result<()> {
        eventually(within, &format!("{} is off", self.spec().name), || {
            ensure!(!self.is_on(), "its last words are:\n{}", self.serial_tail(15));
            Ok(())
        })
    }

    /// Lets its controller misbehave from now on.
    ///
    /// # Errors
    /// When that cannot be noted.
    pub fn set_fault(&self, fault: Option<Fault>) -> Result<()> {
        self.machine.set_fault(fault)
    }

    /// What its controller was asked for, one line each, as `set power 1`.
    ///
    /// # Errors
    /// When the note of it cannot be read.
    pub fn asked(&self) -> Result<Vec<String>> {
        self.machine.asked()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Err(why) = self.machine.power_off().context("it may still run") {
            eprintln!("the machine {}: {why:#}", self.spec().name);
        }
    }
}
