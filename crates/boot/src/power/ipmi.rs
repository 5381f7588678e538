//! IPMI 2.0 over a network, through `ipmitool`. The password goes through its standard input: no argument, environment or file has it.
//!
//! No raw command is ever sent. Boot flags hold for 60 s by the specification, so they are set immediately before a start.

use std::time::Duration;

use p2pinst_command::{Said, ask_within, clean, text};
use p2pinst_types::record::hardware::Firmware;

use super::action::{Boot, BootDevice, PowerState, Span, Switch};
use super::controller::{Controller, Ipmi, Level};
use super::credentials::Credentials;
use super::driver::{Capabilities, Learnt, PowerDriver};
use super::error::{Class, Fault, PowerError};

const TOOL: &str = "ipmitool";
/// What it may say: a page.
const OUTPUT: u64 = 16 * 1024;
/// The longest password of IPMI 2.0.
const PASSWORD: usize = 20;
/// Seconds that a packet is waited for, and how often it is sent again: what ipmitool does for 4 s in all.
const PACKET: [&str; 4] = ["-N", "1", "-R", "3"];

/// An IPMI controller.
#[derive(Debug)]
pub struct IpmiDriver {
    at: Ipmi,
    line: String,
    credentials: Option<Credentials>,
    cipher: Option<u8>,
    limit: Duration,
}

impl IpmiDriver {
    /// A controller whose calls take at most `limit`.
    #[must_use]
    pub fn new(
        at: Ipmi,
        credentials: Option<Credentials>,
        learnt: Learnt,
        limit: Duration,
    ) -> Self {
        let line = Controller::Ipmi(at.clone()).to_string();
        let cipher = learnt.cipher.filter(|cipher| at.ciphers.contains(cipher));
        Self { at, line, credentials, cipher, limit }
    }

    /// Asks with the suite that is known to work, or with one after the other.
    fn ask(&mut self, attempt: &str, words: &[&str]) -> Result<String, PowerError> {
        let known = self.cipher.into_iter();
        let others = self.at.ciphers.iter().copied().filter(|c| Some(*c) != self.cipher);
        let ciphers: Vec<u8> = known.chain(others).collect();
        let share = self.limit / u32::try_from(ciphers.len().max(1)).unwrap_or(1);
        let mut fault = Fault::new(Class::Config, "there is no cipher suite to try");
        for cipher in ciphers {
            match self.ask_with(cipher, words, share) {
                Ok(said) => {
                    self.cipher = Some(cipher);
                    return Ok(said);
                }
                Err((again, new)) => {
                    fault = new;
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(fault.at(attempt, &self.line))
    }

    /// Asks with one suite; whether another may do better, when it fails.
    fn ask_with(
        &self,
        cipher: u8,
        words: &[&str],
        limit: Duration,
    ) -> Result<String, (bool, Fault)> {
        let (user, password) = match &self.credentials {
            Some(both) => (both.user(), both.password()),
            None => ("", ""),
        };
        if password.len() > PASSWORD {
            let why = format!("IPMI passwords have at most {PASSWORD} bytes");
            return Err((false, Fault::new(Class::Auth, why)));
        }
        let (port, cipher) = (self.at.port().to_string(), cipher.to_string());
        let level = match self.at.level {
            Level::Operator => "OPERATOR",
            Level::Administrator => "ADMINISTRATOR",
        };
        let mut command = clean(TOOL);
        // verbose, because else a wrong password is not to be told from no answer
        command.args(["-v", "-I", "lanplus", "-H", &self.at.host.name, "-p", &port]);
        command.args(["-U", user, "-f", "/dev/stdin", "-C", &cipher, "-L", level]);
        command.args(PACKET).args(words);
        let said = ask_within(command, password.as_bytes(), OUTPUT, limit)
            .map_err(|error| (true, Fault::running(TOOL, &error)))?;
        if said.success { Ok(text(&said.stdout)) } else { Err(judge(&said)) }
    }
}

/// What a failure means, by ipmitool's words and the completion codes of the specification (table 5-2); and whether another cipher
/// suite may do better.
fn judge(said: &Said) -> (bool, Fault) {
    let all = format!("{} {}", said.stderr, text(&said.stdout));
    let reason: String = all
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !is_chatter(line))
        .collect::<Vec<_>>()
        .join("; ");
    let lower = reason.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["hmac is invalid", "unauthorized name", "unauthorized role", "invalid role"])
        || has(&["privilege level", "password", "invalid user name"])
    {
        return (false, Fault::new(Class::Auth, reason));
    }
    if has(&["algorithm", "cipher suite", "no matching"]) {
        let advice = "name the suites that the controller takes: ipmi://…?cipher=3";
        return (true, Fault::new(Class::Config, reason).advising(advice));
    }
    if has(&["address lookup"]) {
        return (false, Fault::new(Class::Conn, reason));
    }
    if has(&["node busy", "insufficient resources", "out of space", "initialization in progress"])
        || has(&["sdr repository in update", "firmware update", "timeout"])
    {
        return (false, Fault::new(Class::Busy, reason));
    }
    if has(&["unable to establish", "get auth capabilities", "close session", "no response"]) {
        return (true, Fault::new(Class::Conn, reason));
    }
    let why = if reason.is_empty() { "it failed and said nothing".to_owned() } else { reason };
    (false, Fault::new(Class::Action, why))
}

/// What ipmitool says whenever it is verbose.
fn is_chatter(line: &str) -> bool {
    ["Loading IANA", "Running Get", "Discovered IPMB", "Get HPM.x", "Invalid completion code"]
        .iter()
        .any(|words| line.starts_with(words))
}

/// The device of `chassis bootparam get 5`. Whether the flags are marked as valid is not looked at: simulators never mark them,
/// and they are read at once after they were set.
fn boot_device(said: &str) -> Option<BootDevice> {
    let selector = said.lines().find_map(|line| line.split_once("Boot Device Selector :"))?;
    match selector.1.trim() {
        words if words.starts_with("No override") => Some(BootDevice::None),
        "Force PXE" => Some(BootDevice::Pxe),
        words if words.starts_with("Force Boot from default Hard-Drive") => Some(BootDevice::Disk),
        _ => None,
    }
}

impl PowerDriver for IpmiDriver {
    fn query(&mut self) -> Result<PowerState, PowerError> {
        let said = self.ask("read the power state", &["chassis", "power", "status"])?;
        Ok(match said.lines().last().map(str::trim) {
            Some("Chassis Power is on") => PowerState::On,
            Some("Chassis Power is off") => PowerState::Off,
            _ => PowerState::Unknown,
        })
    }

    fn set(&mut self, switch: Switch) -> Result<(), PowerError> {
        let word = match switch {
            Switch::On => "on",
            Switch::Off => "off",
            Switch::SoftOff => "soft",
            Switch::Reset => "reset",
        };
        let attempt = format!("switch the machine ({switch})");
        self.ask(&attempt, &["chassis", "power", word]).map(drop)
    }

    fn set_boot(&mut self, boot: Boot) -> Result<(), PowerError> {
        let device = match boot.device {
            BootDevice::Pxe | BootDevice::UefiHttp => "pxe",
            BootDevice::Disk => "disk",
            BootDevice::None => "none",
        };
        let efi = boot.firmware == Firmware::Uefi && boot.device != BootDevice::None;
        let options = match (efi, boot.span) {
            (true, Span::Once) => Some("options=efiboot"),
            (false, Span::Lasting) => Some("options=persistent"),
            (true, Span::Lasting) => Some("options=persistent,efiboot"),
            (false, Span::Once) => None,
        };
        let mut words = vec!["chassis", "bootdev", device];
        words.extend(options);
        self.ask("set the boot device", &words).map(drop)
    }

    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError> {
        let words = ["chassis", "bootparam", "get", "5"];
        match self.ask("read the boot device", &words) {
            Ok(said) => Ok(boot_device(&said)),
            // not every controller has the parameter to be read
            Err(error) if error.class == Class::Action => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn clear_boot(&mut self) -> Result<(), PowerError> {
        self.ask("clear the boot device", &["chassis", "bootdev", "none"]).map(drop)
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

    fn learnt(&self) -> Learnt {
        Learnt { cipher: self.cipher, fingerprint: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(stderr: &str) -> (bool, Class) {
        let said =
            Said { success: false, code: Some(1), stdout: Vec::new(), stderr: stderr.to_owned() };
        let (again, fault) = judge(&said);
        (again, fault.class)
    }

    #[test]
    fn the_words_of_ipmitool_are_understood() {
        let session = "Error: Unable to establish IPMI v2 / RMCP+ session";
        let wrong = format!("Loading IANA PEN Registry...\n> RAKP 2 HMAC is invalid\n{session}");
        assert_eq!(failed(&wrong), (false, Class::Auth));
        let user = format!("RAKP 2 message indicates an error : unauthorized name\n{session}");
        assert_eq!(failed(&user), (false, Class::Auth));
        let cipher = format!(
            "Error in open session response message : invalid authentication algorithm\n\n{session}"
        );
        assert_eq!(failed(&cipher), (true, Class::Config));
        assert_eq!(failed(session), (true, Class::Conn));
        // before every command it asks for what operators may not have
        let busy = "Running Get VSO Capabilities my_addr 0x20, transit 0, target 0x20\n\
                    Invalid completion code received: Insufficient privilege level\n\
                    Set Chassis Power Control to Up/On failed: Node busy";
        assert_eq!(failed(busy), (false, Class::Busy));
        assert_eq!(failed(""), (false, Class::Action));
    }

    #[test]
    fn boot_flags_are_read() {
        let said = |valid: &str, device: &str| {
            format!(" Boot Flags :\n   - Boot Flag {valid}\n   - Boot Device Selector : {device}\n")
        };
        assert_eq!(boot_device(&said("Valid", "Force PXE")), Some(BootDevice::Pxe));
        assert_eq!(
            boot_device(&said("Valid", "Force Boot from default Hard-Drive")),
            Some(BootDevice::Disk)
        );
        assert_eq!(boot_device(&said("Valid", "No override")), Some(BootDevice::None));
        assert_eq!(boot_device(&said("Invalid", "Force PXE")), Some(BootDevice::Pxe));
        assert_eq!(boot_device("nonsense"), None);
    }
}
