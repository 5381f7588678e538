//! A QEMU as a machine: its monitor (QMP, JSON lines over a Unix socket) as the controller.
//!
//! QEMU has no power switch. For one that is started with `-no-shutdown` (and `-S`, so that it begins switched off):
//!
//! | power | what QEMU is |
//! |---|---|
//! | on | `running`, and what passes by itself |
//! | off | `prelaunch` (never started, or reset while stopped), `shutdown` (its system has shut down), `paused`, `guest-panicked` |
//!
//! Switching off stops and resets it; switching on resets what is not at its beginning, and lets it run. With `off=quit` switching off
//! ends QEMU, and no QEMU is a machine that is off, which whoever started it has to start again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::action::{Boot, BootDevice, PowerState, Switch};
use super::controller::{Controller, Qmp};
use super::driver::{Capabilities, PowerDriver};
use super::error::{Class, Fault, PowerError};

/// The longest line of the monitor that is read.
const LINE: u64 = 256 * 1024;
/// Events that may come between a command and its answer.
const EVENTS: usize = 1000;
/// A reset of a stopped machine is done by QEMU's main loop, in a moment.
const MOMENT: Duration = Duration::from_millis(20);

/// A QEMU.
#[derive(Debug)]
pub struct QmpDriver {
    at: Qmp,
    line: String,
    limit: Duration,
}

impl QmpDriver {
    /// A QEMU whose answers may take `limit`.
    #[must_use]
    pub fn new(at: Qmp, limit: Duration) -> Self {
        let line = Controller::Qmp(at.clone()).to_string();
        Self { at, line, limit }
    }

    fn connect(&self) -> Result<Monitor, Fault> {
        Monitor::connect(&self.at.socket, Instant::now() + self.limit)
    }

    fn switch(&self, switch: Switch) -> Result<(), Fault> {
        if self.at.quits && switch == Switch::On {
            let state = self.state()?;
            return match state {
                PowerState::On => Err(Fault::new(Class::AlreadyThere, "it runs")),
                _ => Err(Fault::new(Class::Config, "a QEMU with off=quit is started by others")),
            };
        }
        let mut monitor = self.connect()?;
        match switch {
            Switch::On => {
                let status = monitor.status()?;
                if status == "running" {
                    return Err(Fault::new(Class::AlreadyThere, "it runs"));
                }
                if status != "prelaunch" {
                    monitor.rewind()?;
                }
                monitor.ask("cont", Value::Null).map(drop)
            }
            // the answer may be lost with the process
            Switch::Off if self.at.quits => match monitor.ask("quit", Value::Null) {
                Err(fault) if fault.class != Class::Conn => Err(fault),
                _ => Ok(()),
            },
            Switch::Off => {
                monitor.ask("stop", Value::Null)?;
                monitor.rewind()
            }
            Switch::SoftOff => monitor.ask("system_powerdown", Value::Null).map(drop),
            Switch::Reset => monitor.ask("system_reset", Value::Null).map(drop),
        }
    }

    fn state(&self) -> Result<PowerState, Fault> {
        let mut monitor = match self.connect() {
            Err(fault) if self.at.quits && fault.why == GONE => return Ok(PowerState::Off),
            other => other?,
        };
        Ok(match monitor.status()?.as_str() {
            "running" | "debug" | "suspended" | "watchdog" => PowerState::On,
            "prelaunch" | "shutdown" | "paused" | "guest-panicked" => PowerState::Off,
            _ => PowerState::Unknown,
        })
    }

    /// The network card and the disk that the machine may start from, as paths of QEMU's objects.
    fn devices(&self) -> Result<(String, String), Fault> {
        match (&self.at.nic, &self.at.disk) {
            (Some(nic), Some(disk)) => {
                Ok((format!("/machine/peripheral/{nic}"), format!("/machine/peripheral/{disk}")))
            }
            _ => Err(Fault::new(Class::Config, "the line does not name its devices")
                .advising("name them: qmp:///run/vm.qmp?nic=ID&disk=ID")),
        }
    }

    fn order(&self, device: BootDevice) -> Result<(), Fault> {
        let (nic, disk) = self.devices()?;
        let mut monitor = self.connect()?;
        let (first, second) = match device {
            BootDevice::Pxe | BootDevice::UefiHttp => (nic, disk),
            BootDevice::Disk | BootDevice::None => (disk, nic),
        };
        // an index can be given to one device at a time
        monitor.set_index(&first, -1)?;
        monitor.set_index(&second, 2)?;
        monitor.set_index(&first, 1)
    }

    fn first(&self) -> Result<BootDevice, Fault> {
        let (nic, disk) = self.devices()?;
        let mut monitor = self.connect()?;
        let (nic, disk) = (monitor.index(&nic)?, monitor.index(&disk)?);
        Ok(match (nic, disk) {
            (Some(nic), Some(disk)) if nic < disk => BootDevice::Pxe,
            (Some(_), None) => BootDevice::Pxe,
            (_, Some(_)) => BootDevice::Disk,
            (None, None) => BootDevice::None,
        })
    }
}

const GONE: &str = "no QEMU listens at the socket";

/// A conversation with the monitor, which takes one at a time.
struct Monitor {
    stream: BufReader<UnixStream>,
    until: Instant,
}

impl Monitor {
    fn connect(socket: &Path, until: Instant) -> Result<Self, Fault> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Fault::new(Class::Conn, GONE)
            }
            _ => Fault::new(Class::Conn, error.to_string()),
        })?;
        let mut monitor = Self { stream: BufReader::new(stream), until };
        let greeting = monitor.read().map_err(|fault| {
            Fault::new(fault.class, format!("no greeting ({}): another may use it", fault.why))
        })?;
        if greeting.get("QMP").is_none() {
            return Err(Fault::new(Class::Config, "what listens there is no monitor of QEMU"));
        }
        monitor.ask("qmp_capabilities", Value::Null)?;
        Ok(monitor)
    }

    fn read(&mut self) -> Result<Value, Fault> {
        let io = |error: io::Error| Fault::new(Class::Conn, error.to_string());
        let mut line = Vec::new();
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::new(Class::Conn, "no answer in time"));
            }
            self.stream.get_ref().set_read_timeout(Some(left)).map_err(io)?;
            let room = LINE.saturating_sub(line.len() as u64);
            match (&mut self.stream).take(room).read_until(b'\n', &mut line) {
                Ok(0) => return Err(Fault::new(Class::Conn, "the connection was closed")),
                Ok(_) if line.ends_with(b"\n") => break,
                Ok(_) if line.len() as u64 >= LINE => {
                    return Err(Fault::new(Class::Config, "a line is too long"));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Fault::new(Class::Conn, "no answer in time"));
                }
                Err(error) => return Err(io(error)),
            }
        }
        serde_json::from_slice(&line)
            .map_err(|error| Fault::new(Class::Config, format!("what it says is no JSON: {error}")))
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Fault> {
        let mut order = json!({ "execute": command });
        if let (Some(order), false) = (order.as_object_mut(), arguments.is_null()) {
            order.insert("arguments".to_owned(), arguments);
        }
        let line = format!("{order}\n");
        let stream = self.stream.get_mut();
        let left = self.until.saturating_duration_since(Instant::now()).max(MOMENT);
        stream
            .set_write_timeout(Some(left))
            .and_then(|()| stream.write_all(line.as_bytes()))
            .map_err(|error| Fault::new(Class::Conn, error.to_string()))?;
        for _ in 0..EVENTS {
            let mut said = self.read()?;
            if let Some(answer) = said.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = said.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("it fails");
                return Err(Fault::new(Class::Action, format!("{command}: {why}")));
            }
        }
        Err(Fault::new(Class::Busy, "it says too much else"))
    }

    fn status(&mut self) -> Result<String, Fault> {
        let said = self.ask("query-status", Value::Null)?;
        let status = said.get("status").and_then(Value::as_str).unwrap_or("");
        Ok(status.to_owned())
    }

    /// Resets a machine that does not run, and waits until it is at its beginning.
    fn rewind(&mut self) -> Result<(), Fault> {
        self.ask("system_reset", Value::Null)?;
        while self.status()? != "prelaunch" {
            std::thread::sleep(MOMENT);
        }
        Ok(())
    }

    fn set_index(&mut self, device: &str, index: i32) -> Result<(), Fault> {
        let arguments = json!({ "path": device, "property": "bootindex", "value": index });
        self.ask("qom-set", arguments).map(drop)
    }

    fn index(&mut self, device: &str) -> Result<Option<i64>, Fault> {
        let said = self.ask("qom-get", json!({ "path": device, "property": "bootindex" }))?;
        Ok(said.as_i64().filter(|index| *index >= 0))
    }
}

impl PowerDriver for QmpDriver {
    fn query(&mut self) -> Result<PowerState, PowerError> {
        self.state().map_err(|fault| fault.at("read the power state", &self.line))
    }

    fn set(&mut self, switch: Switch) -> Result<(), PowerError> {
        let attempt = format!("switch the machine ({switch})");
        self.switch(switch).map_err(|fault| fault.at(attempt, &self.line))
    }

    fn set_boot(&mut self, boot: Boot) -> Result<(), PowerError> {
        self.order(boot.device).map_err(|fault| fault.at("set the boot device", &self.line))
    }

    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError> {
        self.first().map(Some).map_err(|fault| fault.at("read the boot device", &self.line))
    }

    fn clear_boot(&mut self) -> Result<(), PowerError> {
        self.order(BootDevice::Disk).map_err(|fault| fault.at("clear the boot device", &self.line))
    }

    fn capabilities(&self) -> Capabilities {
        let boot = self.devices().is_ok();
        Capabilities { reads: true, off: true, soft_off: true, boot, once: false, reads_boot: boot }
    }
}
