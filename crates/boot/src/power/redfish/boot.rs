//! The override of the boot device: where a controller keeps it, and what it takes of the fields that the standard has.

use p2pinst_types::record::hardware::Firmware;
use serde_json::{Value, json};

use super::http::Method;
use super::{Boot, BootDevice, Class, Fault, RedfishDriver, link, strings};
use crate::power::action::Span;

/// How often a change is tried whose ETag is stale.
const STALE: usize = 3;

impl RedfishDriver {
    /// The system, and where its settings for the next start lie, which may be the system itself.
    fn settings(&mut self) -> Result<(String, Value, String), Fault> {
        let (path, system) = self.system()?;
        let own = link(&system.body, &["@Redfish.Settings", "SettingsObject"]);
        let settings = own.unwrap_or(&path).to_owned();
        Ok((path, system.body, settings))
    }

    pub(super) fn arm(&mut self, boot: Boot) -> Result<(), Fault> {
        let (path, system, settings) = self.settings()?;
        let old = system.get("Boot").unwrap_or(&Value::Null);
        let target = target_of(boot.device, old)?;
        let enabled = match (boot.device, boot.span) {
            (BootDevice::None, _) => "Disabled",
            (_, Span::Once) => "Once",
            (_, Span::Lasting) => "Continuous",
        };
        let short = json!({
            "BootSourceOverrideTarget": target,
            "BootSourceOverrideEnabled": enabled,
        });
        let mut full = short.clone();
        let mode = match boot.firmware {
            Firmware::Uefi => "UEFI",
            Firmware::Bios => "Legacy",
        };
        // said only to controllers that have it, and have it otherwise
        let has = old.get("BootSourceOverrideMode").and_then(Value::as_str);
        if boot.device != BootDevice::None
            && has.is_some_and(|has| has != mode)
            && let Some(full) = full.as_object_mut()
        {
            full.insert("BootSourceOverrideMode".to_owned(), mode.into());
        }
        let mut fault = match self.patch(&settings, &full) {
            Ok(()) => return Ok(()),
            Err(fault) => fault,
        };
        if fault.class == Class::Action && full != short {
            match self.patch(&settings, &short) {
                Ok(()) => return Ok(()),
                Err(again) => fault = again,
            }
        }
        // a settings object that is there, but not for this
        if matches!(fault.class, Class::Action | Class::Config) && settings != path {
            return self.patch(&path, &short);
        }
        Err(fault)
    }

    pub(super) fn disarm(&mut self) -> Result<(), Fault> {
        let none = Boot { device: BootDevice::None, firmware: Firmware::Uefi, span: Span::Once };
        self.arm(none)
    }

    pub(super) fn armed(&mut self) -> Result<Option<BootDevice>, Fault> {
        let (path, system, settings) = self.settings()?;
        if settings != path {
            let pending = self.http.get(&settings)?;
            let body = pending.well().map(|reply| reply.body).unwrap_or_default();
            if let Some(device) = device_of(&body) {
                return Ok(Some(device));
            }
        }
        Ok(device_of(&system))
    }

    /// Changes the boot settings, if nobody else changes them meanwhile (RFC 9110, If-Match).
    fn patch(&mut self, path: &str, boot: &Value) -> Result<(), Fault> {
        let body = json!({ "Boot": boot });
        let mut last = Fault::new(Class::Busy, "it changes all the time");
        for _ in 0..STALE {
            let etag = self.http.get(path)?.well()?.etag();
            let reply = self.http.send(Method::Patch, path, &body, etag.as_deref())?;
            let stale = matches!(reply.status, 412 | 428);
            match reply.well() {
                Ok(_) => return Ok(()),
                Err(fault) if stale => last = fault,
                Err(fault) => return Err(fault),
            }
        }
        Err(last)
    }
}

fn target_of(device: BootDevice, boot: &Value) -> Result<&'static str, Fault> {
    let allowed = strings(boot, "BootSourceOverrideTarget@Redfish.AllowableValues");
    let wanted: &[&'static str] = match device {
        BootDevice::Pxe => &["Pxe", "UefiHttp"],
        BootDevice::UefiHttp => &["UefiHttp", "Pxe"],
        BootDevice::Disk => &["Hdd"],
        BootDevice::None => return Ok("None"),
    };
    let found = wanted.iter().copied().find(|word| allowed.is_empty() || allowed.contains(word));
    found.ok_or_else(|| {
        let why = format!("it cannot be started from {device}, only from {}", allowed.join(", "));
        Fault::new(Class::Config, why).advising("set the boot order in the machine's firmware")
    })
}

fn device_of(body: &Value) -> Option<BootDevice> {
    let boot = body.get("Boot")?;
    let text = |key: &str| boot.get(key).and_then(Value::as_str);
    match (text("BootSourceOverrideEnabled"), text("BootSourceOverrideTarget")?) {
        (Some("Disabled"), _) | (_, "None") => Some(BootDevice::None),
        (_, "Pxe") => Some(BootDevice::Pxe),
        (_, "UefiHttp") => Some(BootDevice::UefiHttp),
        (_, "Hdd") => Some(BootDevice::Disk),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_read_and_chosen() {
        let boot = |enabled: &str, target: &str| json!({ "Boot": { "BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": target } });
        assert_eq!(device_of(&boot("Once", "Pxe")), Some(BootDevice::Pxe));
        assert_eq!(device_of(&boot("Disabled", "Pxe")), Some(BootDevice::None));
        assert_eq!(device_of(&boot("Once", "Floppy")), None);
        assert_eq!(device_of(&json!({})), None);
        let only = json!({ "BootSourceOverrideTarget@Redfish.AllowableValues": ["Pxe", "Cd"] });
        assert_eq!(target_of(BootDevice::UefiHttp, &only).unwrap(), "Pxe");
        let why = target_of(BootDevice::Disk, &only).unwrap_err().why;
        assert_eq!(why, "it cannot be started from disk, only from Pxe, Cd");
    }
}
