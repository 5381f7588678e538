//! A program of the site that switches power: a socket strip, a cloud, anything. Started with an argument vector, never by a shell.
//!
//! Its exit code is its answer, by the words of `sysexits.h`: 0 done, 64 (usage) not something it can do, 69 (unavailable) no answer,
//! 75 (temporary failure) busy, 77 (no permission) and 78 (configuration) as they say; others are failures that may pass.
//! `status` prints `on` or `off`. A user and a password, where the controller has them, are two lines of its standard input.

use std::fs::File;
use std::io::{Seek, Write};
use std::time::Duration;

use p2pinst_command::{Exit, Finished, clean, run};

use super::action::{Boot, BootDevice, PowerState, Switch};
use super::controller::{Controller, Filling, Template};
use super::credentials::Credentials;
use super::driver::{Capabilities, PowerDriver, Target};
use super::error::{Class, Fault, PowerError};

/// A program and the machine that it is asked about.
#[derive(Debug)]
pub struct HookDriver {
    template: Template,
    line: String,
    target: Target,
    credentials: Option<Credentials>,
    limit: Duration,
}

impl HookDriver {
    /// A program that may take `limit`, and 5 s to end itself after that.
    #[must_use]
    pub fn new(
        template: Template,
        target: Target,
        credentials: Option<Credentials>,
        limit: Duration,
    ) -> Self {
        let line = Controller::Command(template.clone()).to_string();
        Self { template, line, target, credentials, limit }
    }

    fn call(&self, action: &str) -> Result<Finished, Fault> {
        let program = self.template.program();
        let failed = |error: std::io::Error| Fault::running(program, &error);
        let mac = self.target.macs.first().map(ToString::to_string).unwrap_or_default();
        let uuid = self.target.uuid.clone().unwrap_or_default();
        let filling = Filling { action, mac: &mac, uuid: &uuid, name: &self.target.name };
        let mut command = clean(program);
        command.args(self.template.arguments(&filling));
        if let Some(both) = &self.credentials {
            command.stdin(secret(both).map_err(failed)?);
        }
        let dir = tempfile::tempdir().map_err(failed)?;
        let finished = run(command, &dir.path().join("said"), Some(self.limit)).map_err(failed)?;
        match class(finished.exit) {
            None => Ok(finished),
            Some(class) => {
                let why = format!("{program} {} {}", finished.exit, finished.tail);
                Err(Fault::new(class, why))
            }
        }
    }

    fn ask(&self, attempt: &str, action: &str) -> Result<Finished, PowerError> {
        self.call(action).map_err(|fault| fault.at(attempt, &self.line))
    }
}

/// A file without a name that only this process and the program have.
fn secret(both: &Credentials) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(both.user().as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(both.password().as_bytes())?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file)
}

fn class(exit: Exit) -> Option<Class> {
    match exit {
        Exit::Code(0) => None,
        Exit::Code(64 | 78) => Some(Class::Config),
        Exit::Code(69) | Exit::TimedOut => Some(Class::Conn),
        Exit::Code(75) => Some(Class::Busy),
        Exit::Code(77) => Some(Class::Auth),
        Exit::Code(_) | Exit::Signal(_) => Some(Class::Action),
    }
}

impl PowerDriver for HookDriver {
    fn query(&mut self) -> Result<PowerState, PowerError> {
        let said = self.ask("read the power state", "status")?;
        // the last line that is one of the words: warnings of its tools may be around it
        let word = |line: &str| match line.trim().to_ascii_lowercase().as_str() {
            "on" => Some(PowerState::On),
            "off" => Some(PowerState::Off),
            _ => None,
        };
        Ok(said.tail.lines().rev().find_map(word).unwrap_or(PowerState::Unknown))
    }

    fn set(&mut self, switch: Switch) -> Result<(), PowerError> {
        let attempt = format!("switch the machine ({switch})");
        self.ask(&attempt, &switch.to_string()).map(drop)
    }

    fn set_boot(&mut self, boot: Boot) -> Result<(), PowerError> {
        self.ask("set the boot device", &format!("boot-{}", boot.device)).map(drop)
    }

    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError> {
        Ok(None)
    }

    fn clear_boot(&mut self) -> Result<(), PowerError> {
        self.ask("clear the boot device", "boot-none").map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            reads: true,
            off: true,
            soft_off: true,
            boot: true,
            once: true,
            reads_boot: false,
        }
    }
}
