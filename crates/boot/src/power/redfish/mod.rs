//! Redfish (DMTF DSP0266), over HTTPS with the certificate pinned by its fingerprint, or over plain HTTP.
//!
//! What controllers do beside the standard is met here: paths with and without a slash at their end, redirects of a POST, changes
//! that need the ETag of what they change, settings that lie in an object of their own, refusals of fields that the standard has.
//! A session is opened once per driver and closed with it, because controllers have few; where there are none, basic authentication
//! (RFC 7617) takes its place. Nothing but power and boot device is ever asked for.

mod boot;
mod http;
mod tls;

use std::time::Duration;

use serde_json::{Value, json};

use super::action::{Boot, BootDevice, PowerState, Switch};
use super::controller::{Controller, Redfish};
use super::credentials::Credentials;
use super::driver::{Capabilities, Learnt, PowerDriver};
use super::error::{Class, Fault, PowerError};
use http::{Http, Method, Reply};

/// Systems that are named when the line names none of several.
const NAMED: usize = 8;

/// A Redfish service's system.
#[derive(Debug)]
pub struct RedfishDriver {
    http: Http,
    line: String,
    system: Option<String>,
}

impl RedfishDriver {
    /// A system whose service may take `limit` for each answer.
    #[must_use]
    pub fn new(
        at: Redfish,
        credentials: Option<Credentials>,
        learnt: Learnt,
        limit: Duration,
    ) -> Self {
        let line = Controller::Redfish(at.clone()).to_string();
        let pin = at.fingerprint.or(learnt.fingerprint);
        let http = Http::new(at.tls, &at.host, pin, credentials, limit);
        Self { http, line, system: at.system }
    }

    /// The path of the system: the line's, or that of the only one there is.
    fn path(&mut self) -> Result<String, Fault> {
        if let Some(path) = &self.system {
            return Ok(path.clone());
        }
        let root = self.http.get("/redfish/v1/")?.well()?;
        let systems = link(&root.body, &["Systems"]).unwrap_or("/redfish/v1/Systems").to_owned();
        let listed = self.http.get(&systems)?.well()?;
        let members = listed.body.get("Members").and_then(Value::as_array);
        let paths: Vec<&str> =
            members.into_iter().flatten().filter_map(|member| link(member, &[])).collect();
        match paths.as_slice() {
            [only] => {
                self.system = Some((*only).to_owned());
                Ok((*only).to_owned())
            }
            [] => Err(Fault::new(Class::Config, "the service has no systems")),
            several => {
                let named: Vec<&str> = several.iter().copied().take(NAMED).collect();
                let why = format!("the service has several systems: {}", named.join(", "));
                let advice = "name one of them: redfish://HOST/redfish/v1/Systems/ID";
                Err(Fault::new(Class::Config, why).advising(advice))
            }
        }
    }

    fn system(&mut self) -> Result<(String, Reply), Fault> {
        let path = self.path()?;
        let reply = self.http.get(&path)?.well()?;
        Ok((path, reply))
    }

    fn state(&mut self) -> Result<PowerState, Fault> {
        let (_, system) = self.system()?;
        Ok(power_of(&system.body))
    }

    fn reset(&mut self, switch: Switch) -> Result<(), Fault> {
        let (path, system) = self.system()?;
        let action = system.body.pointer("/Actions/#ComputerSystem.Reset");
        let target = action.and_then(|a| a.get("target")).and_then(Value::as_str);
        let usual = format!("{}/Actions/ComputerSystem.Reset", path.trim_end_matches('/'));
        let target = target.unwrap_or(&usual).to_owned();
        let allowed = action.map(|a| strings(a, "ResetType@Redfish.AllowableValues"));
        let kind = reset_type(switch, allowed.as_deref().unwrap_or(&[]))?;
        let reply = self.http.send(Method::Post, &target, &json!({ "ResetType": kind }), None)?;
        let Err(fault) = reply.well() else { return Ok(()) };
        let wanted = match switch {
            Switch::On => PowerState::On,
            Switch::Off | Switch::SoftOff => PowerState::Off,
            Switch::Reset => return Err(fault),
        };
        // a refusal because it is so already, in whatever words
        if matches!(fault.class, Class::Busy | Class::Action) && self.state()? == wanted {
            return Err(Fault { class: Class::AlreadyThere, ..fault });
        }
        Err(fault)
    }
}

impl Drop for RedfishDriver {
    fn drop(&mut self) {
        self.http.leave();
    }
}

/// The `@odata.id` of an object, or of one inside it.
fn link<'a>(body: &'a Value, path: &[&str]) -> Option<&'a str> {
    let inner = path.iter().try_fold(body, |value, key| value.get(key))?;
    inner.get("@odata.id")?.as_str()
}

fn strings<'a>(body: &'a Value, key: &str) -> Vec<&'a str> {
    let list = body.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn power_of(system: &Value) -> PowerState {
    match system.get("PowerState").and_then(Value::as_str) {
        Some("On" | "Paused") => PowerState::On,
        Some("Off") => PowerState::Off,
        _ => PowerState::Unknown,
    }
}

/// The best of what the controller allows; when it does not say, what the standard names first.
fn reset_type(switch: Switch, allowed: &[&str]) -> Result<&'static str, Fault> {
    let wanted: &[&'static str] = match switch {
        Switch::On => &["On", "ForceOn"],
        Switch::Off => &["ForceOff"],
        Switch::SoftOff => &["GracefulShutdown"],
        Switch::Reset => &["ForceRestart", "PowerCycle"],
    };
    let found = wanted.iter().copied().find(|word| allowed.is_empty() || allowed.contains(word));
    found.ok_or_else(|| {
        let why = format!("it allows only {}", allowed.join(", "));
        Fault::new(Class::Config, why).advising("choose another action")
    })
}

impl PowerDriver for RedfishDriver {
    fn query(&mut self) -> Result<PowerState, PowerError> {
        self.state().map_err(|fault| fault.at("read the power state", &self.line))
    }

    fn set(&mut self, switch: Switch) -> Result<(), PowerError> {
        let attempt = format!("switch the machine ({switch})");
        self.reset(switch).map_err(|fault| fault.at(attempt, &self.line))
    }

    fn set_boot(&mut self, boot: Boot) -> Result<(), PowerError> {
        self.arm(boot).map_err(|fault| fault.at("set the boot device", &self.line))
    }

    fn boot(&mut self) -> Result<Option<BootDevice>, PowerError> {
        self.armed().map_err(|fault| fault.at("read the boot device", &self.line))
    }

    fn clear_boot(&mut self) -> Result<(), PowerError> {
        self.disarm().map_err(|fault| fault.at("clear the boot device", &self.line))
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
        Learnt { fingerprint: self.http.fingerprint(), cipher: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_is_one_that_is_allowed() {
        assert_eq!(reset_type(Switch::Reset, &["On", "PowerCycle"]).unwrap(), "PowerCycle");
        assert_eq!(reset_type(Switch::Off, &[]).unwrap(), "ForceOff");
        let fault = reset_type(Switch::SoftOff, &["On", "ForceOff"]).unwrap_err();
        assert_eq!(
            (fault.class, fault.why.as_str()),
            (Class::Config, "it allows only On, ForceOff")
        );
    }

    #[test]
    fn states_are_read() {
        for (said, is) in [
            (json!({ "PowerState": "On" }), PowerState::On),
            (json!({ "PowerState": "PoweringOff" }), PowerState::Unknown),
            (json!({ "PowerState": 7 }), PowerState::Unknown),
            (json!([]), PowerState::Unknown),
        ] {
            assert_eq!(power_of(&said), is);
        }
        assert_eq!(link(&json!({ "Systems": { "@odata.id": "/x" } }), &["Systems"]), Some("/x"));
    }
}
