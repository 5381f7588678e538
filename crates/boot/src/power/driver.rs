//! What every driver can be asked, and the way from a controller's line to its driver. Calls block, each within its time.

use std::time::Duration;

use p2pinst_types::mac::Mac;

use super::action::{Boot, BootDevice, PowerState, Switch};
use super::controller::{Controller, Fingerprint};
use super::credentials::Credentials;
use super::error::PowerError;
use super::{hook, inband, ipmi, libvirt, qmp, redfish, wol};

/// What a controller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It says whether the machine is on.
    pub reads: bool,
    /// It switches off and resets.
    pub off: bool,
    /// It asks the machine's system to shut down.
    pub soft_off: bool,
    /// It overrides the device that the machine starts from.
    pub boot: bool,
    /// It forgets an override after one start; else the override lasts until it is cleared.
    pub once: bool,
    /// It says what overrides it keeps.
    pub reads_boot: bool,
}

/// One kind of controller.
pub trait PowerDriver: Send {
    /// Whether the machine is on.
    ///
    /// # Errors
    /// When the controller does not say.
    fn query(&mut self) -> Result<PowerState, PowerError>;

    /// Asks for a change; that it has come about is for [`PowerDriver::query`] to see.
    ///
    /// # Errors
    /// When the controller refuses; of class [`super::error::Class::AlreadyThere`] when there is nothing to do.
    fn set(&mut self, switch: Switch) -> Result<(), PowerError>;

    /// Overrides the device that the machine starts from.
    ///
    /// # Errors
    /// When the controller refuses.
    fn set_boot(&mut self, boot: Boot) -> Result<(), PowerError>;

    /// The device of the override that the controller keeps; none when it cannot say.
    ///
    /// # Errors
    /// When the controller does not answer.
    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError>;

    /// Takes the override back.
    ///
    /// # Errors
    /// When the controller refuses.
    fn clear_boot(&mut self) -> Result<(), PowerError>;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// What was found out about the controller, to be given to the next driver.
    fn learnt(&self) -> Learnt {
        Learnt::default()
    }
}

/// What earlier conversations found out about a controller. Who keeps it asks faster, and knows the controller again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learnt {
    /// The certificate that a Redfish service has shown.
    pub fingerprint: Option<Fingerprint>,
    /// The cipher suite that an IPMI controller takes.
    pub cipher: Option<u8>,
}

/// The machine whose power it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its hardware addresses, the one it starts from first.
    pub macs: Vec<Mac>,
    /// Its SMBIOS UUID.
    pub uuid: Option<String>,
}

/// A driver for a controller; each of its calls takes at most `limit`, and a few seconds to end a program that hangs.
#[must_use]
pub fn open(
    controller: &Controller,
    target: &Target,
    credentials: Option<Credentials>,
    learnt: Learnt,
    limit: Duration,
) -> Box<dyn PowerDriver> {
    match controller {
        Controller::Redfish(at) => {
            Box::new(redfish::RedfishDriver::new(at.clone(), credentials, learnt, limit))
        }
        Controller::Ipmi(at) => {
            Box::new(ipmi::IpmiDriver::new(at.clone(), credentials, learnt, limit))
        }
        Controller::Wol(at) => Box::new(wol::WolDriver::new(at.clone(), target.macs.clone())),
        Controller::Libvirt(at) => Box::new(libvirt::LibvirtDriver::new(at.clone(), limit)),
        Controller::Qmp(at) => Box::new(qmp::QmpDriver::new(at.clone(), limit)),
        Controller::Command(template) => {
            Box::new(hook::HookDriver::new(template.clone(), target.clone(), credentials, limit))
        }
        Controller::InBand => Box::new(inband::InBandDriver::new(limit)),
    }
}
