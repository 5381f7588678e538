//! A machine's controller: OpenIPMI's simulator, whose power button is a real machine's.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Vm;
use super::segment::Segment;
use super::service::Service;
use crate::bins;
use crate::exec::Exec;
use crate::net::Host;

/// The controller's administrator.
pub const USER: &str = "admin";
/// The administrator's password.
pub const PASSWORD: &str = "secret";

/// The subcommand of `testnet` that the simulator calls.
const HOOK: &str = "machine-power";
/// The simulator answers within this time after its start.
const READY: Duration = Duration::from_secs(15);

/// A controller (BMC) on the network, for one machine.
#[derive(Debug)]
pub struct Bmc {
    host: Host,
    service: Service,
    password: PathBuf,
}

impl Bmc {
    /// Starts the controller of a machine at an address of the segment.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    pub fn start(segment: &Segment, vm: &Vm, ip: Ipv4Addr) -> Result<Self> {
        let name = format!("c{}", vm.spec().name.chars().take(11).collect::<String>());
        let host = segment.guest(&name, ip)?;
        let dir = segment.make_dir(&name)?;
        let lan = private(&dir.join("lan.conf"), &lan(ip, &hook(vm.dir())?))?;
        let emulation = private(&dir.join("sim.emu"), EMULATION)?;
        let password = private(&dir.join("password"), PASSWORD)?;
        let state = dir.join("state");
        fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
        let exec = host.exec("ipmi_sim").arg("-n").arg("-c").arg(lan).arg("-f").arg(emulation);
        let service = Service::start(&exec.arg("-s").arg(state), &dir.join("log"))?;
        let mut bmc = Self { host, service, password };
        let asked = bmc.ask(&bmc.host, ["mc", "info"]);
        bmc.service.ready(READY, || asked.clone().run()?.ok().map(drop))?;
        Ok(bmc)
    }

    /// Where it is.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.host.ip
    }

    /// A command of ipmitool to it, from a host.
    #[must_use]
    pub fn ask<'a>(&self, from: &Host, words: impl IntoIterator<Item = &'a str>) -> Exec {
        // the simulator knows no newer suite of ciphers than the third
        let at = ["-I", "lanplus", "-C", "3", "-H", &self.host.ip.to_string(), "-U", USER, "-f"]
            .map(str::to_owned);
        from.exec("ipmitool").args(at).arg(&self.password).args(words)
    }

    /// Makes it hang, or go on.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.service.freeze(frozen)
    }

    /// What the simulator says.
    #[must_use]
    pub fn log(&self) -> String {
        self.service.log()
    }
}

/// The simulator's hook for the machine of a directory. It is passed to a shell.
fn hook(machine: &Path) -> Result<String> {
    let program = bins::testnet()?;
    let word = |path: &Path| {
        let text = path.to_str().context("a path that is no text")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        anyhow::ensure!(text.chars().all(plain), "the simulator cannot be told of {text:?}");
        Ok(text.to_owned())
    };
    Ok(format!("{} {HOOK} {}", word(&program)?, word(machine)?))
}

fn lan(ip: Ipv4Addr, hook: &str) -> String {
    let levels = ["callback", "user", "operator", "admin"];
    let auths = levels.map(|l| format!("  allowed_auths_{l} none md2 md5 straight\n")).concat();
    format!(
        "name \"testnet\"\nset_working_mc 0x20\nstartlan 1\n  addr {ip} 623\n  priv_limit admin\n\
         {auths}  guid a123456789abcdefa123456789abcdef\nendlan\n\
         chassis_control \"{hook}\"\n\
         user 1 true \"\" \"none\" user 10 none md2 md5 straight\n\
         user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n"
    )
}

/// One management controller with a small event log.
const EMULATION: &str = "mc_setbmc 0x20\n\
    mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
    sel_enable 0x20 1000 0x0a\n\
    mc_enable 0x20\n";

fn private(path: &Path, content: &str) -> Result<PathBuf> {
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}
