//! The words of power control: what people want, what a driver does, what a controller says. Pure data.

use std::fmt;
use std::str::FromStr;

use p2pinst_types::record::hardware::Firmware;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A word that names nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no {what}: write one of {known}")]
pub struct WordError {
    what: &'static str,
    text: String,
    known: &'static str,
}

impl WordError {
    fn new(what: &'static str, text: &str, known: &'static str) -> Self {
        Self { what, text: text.chars().filter(|c| !c.is_control()).take(40).collect(), known }
    }
}

/// What people want of a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// It runs.
    On,
    /// It is off, at once.
    Off,
    /// It is off, after its system has shut down.
    SoftOff,
    /// It is off, and then on; a machine that is off is switched on.
    Cycle,
    /// It starts anew without losing power; a machine that is off is switched on.
    Reset,
}

impl fmt::Display for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::SoftOff => "soft-off",
            Self::Cycle => "cycle",
            Self::Reset => "reset",
        })
    }
}

impl FromStr for Desired {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let all = [Self::On, Self::Off, Self::SoftOff, Self::Cycle, Self::Reset];
        let known = "on, off, soft-off, cycle, reset";
        let found = all.into_iter().find(|d| d.to_string() == text);
        found.ok_or_else(|| WordError::new("power action", text, known))
    }
}

/// What a controller says of a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// It is between the two, or nobody can tell.
    Unknown,
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
    }
}

/// Where a machine starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootDevice {
    /// The network, by PXE.
    Pxe,
    /// The network, by UEFI HTTP Boot. Controllers that know only one way over the network take that.
    UefiHttp,
    /// Its disk.
    Disk,
    /// What its firmware chooses: no override.
    None,
}

impl BootDevice {
    /// Whether an order for one device is kept by an override that names the other: many controllers know only one network.
    #[must_use]
    pub fn is_like(self, other: Self) -> bool {
        let network = |device| matches!(device, Self::Pxe | Self::UefiHttp);
        self == other || (network(self) && network(other))
    }
}

impl fmt::Display for BootDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pxe => "pxe",
            Self::UefiHttp => "uefi-http",
            Self::Disk => "disk",
            Self::None => "none",
        })
    }
}

impl FromStr for BootDevice {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        let all = [Self::Pxe, Self::UefiHttp, Self::Disk, Self::None];
        let found = all.into_iter().find(|d| d.to_string() == text);
        found.ok_or_else(|| WordError::new("boot device", text, "pxe, uefi-http, disk, none"))
    }
}

/// For how many starts an override holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Span {
    /// The next one.
    Once,
    /// All, until it is cleared.
    Lasting,
}

/// An override of the device that a machine starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The device.
    pub device: BootDevice,
    /// How the machine's firmware starts; some controllers must be told.
    pub firmware: Firmware,
    /// For how many starts.
    pub span: Span,
}

/// What a driver does to the power, in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Switch {
    /// Switches on.
    On,
    /// Switches off at once.
    Off,
    /// Asks the machine's system to shut down (ACPI).
    SoftOff,
    /// Starts anew.
    Reset,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::SoftOff => "soft-off",
            Self::Reset => "reset",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for word in ["on", "off", "soft-off", "cycle", "reset"] {
            assert_eq!(word.parse::<Desired>().unwrap().to_string(), word);
        }
        for word in ["pxe", "uefi-http", "disk", "none"] {
            assert_eq!(word.parse::<BootDevice>().unwrap().to_string(), word);
        }
        let error = "explode\u{1b}[31m".parse::<Desired>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"explode[31m\" is no power action: write one of on, off, soft-off, cycle, reset"
        );
        assert!(BootDevice::Pxe.is_like(BootDevice::UefiHttp));
        assert!(!BootDevice::Pxe.is_like(BootDevice::Disk));
    }
}
