//! One machine as a directory: whoever has that (this program, or the hook of its controller) can switch it.
//!
//! Whether it is on is asked of the kernel, not remembered: QEMU ends when what runs on it switches the machine off.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::qemu::{self, Boot, Firmware, Spec};
use super::segment::Segment;
use super::{END, qmp};
use crate::exec::{Exec, alive, signal};
use crate::wait::eventually;

/// The longest path of a socket, its end included.
const SOCKET_PATH: usize = 107;

/// How a controller misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// It says that the machine is on when it is off, and the other way round.
    Lies,
    /// It agrees to every order, and does nothing.
    Idle,
    /// It forgets where the machine was to boot from.
    Forgets,
    /// It refuses everything.
    Refuses,
}

/// What the directory tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    namespace: String,
    spec: Spec,
}

/// A machine's directory.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    kept: Kept,
}

impl Machine {
    /// Makes the files of a machine that is off, and its cable.
    pub(super) fn create(segment: &Segment, spec: Spec) -> Result<Self> {
        check(&spec)?;
        let dir = segment.make_dir(&spec.name)?;
        let qmp = dir.join("qmp");
        let length = qmp.as_os_str().len();
        ensure!(length <= SOCKET_PATH, "{} is too long for a socket", qmp.display());
        for (i, disk) in spec.disks.iter().enumerate() {
            let file = qemu::disk(&dir, i);
            File::create(&file)
                .and_then(|f| f.set_len(disk.size))
                .with_context(|| format!("cannot make {}", file.display()))?;
        }
        if matches!(spec.firmware, Firmware::Uefi { .. }) {
            let vars = dir.join("vars");
            fs::copy(qemu::VARS, &vars)
                .and_then(|_| fs::set_permissions(&vars, fs::Permissions::from_mode(0o600)))
                .with_context(|| format!("cannot copy {}", qemu::VARS))?;
        }
        segment.tap(&spec.tap())?;
        let kept = Kept { namespace: segment.namespace().to_owned(), spec };
        let machine = Self { dir, kept };
        machine.write("machine.json", &serde_json::to_vec(&machine.kept)?)?;
        Ok(machine)
    }

    /// The machine of a directory.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let file = dir.join("machine.json");
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let kept = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no machine", file.display()))?;
        Ok(Self { dir: dir.to_owned(), kept })
    }

    pub(super) fn spec(&self) -> &Spec {
        &self.kept.spec
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn serial(&self) -> Vec<u8> {
        fs::read(self.dir.join("serial")).unwrap_or_default()
    }

    /// The process of QEMU, if it is one of this machine, and runs.
    pub(super) fn pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = String::from_utf8_lossy(&words).contains(&*self.dir.to_string_lossy());
        (ours && alive(pid)).then_some(pid)
    }

    pub(super) fn is_on(&self) -> bool {
        self.pid().is_some()
    }

    pub(super) fn power_on(&self) -> Result<()> {
        let _turn = self.turn()?;
        self.start()
    }

    pub(super) fn power_off(&self) -> Result<()> {
        let _turn = self.turn()?;
        self.stop()
    }

    pub(super) fn reset(&self) -> Result<()> {
        let _turn = self.turn()?;
        self.qmp("system_reset", &json!({})).map(drop)
    }

    pub(super) fn press_power(&self) -> Result<()> {
        self.qmp("system_powerdown", &json!({})).map(drop)
    }

    pub(super) fn qmp(&self, command: &str, arguments: &Value) -> Result<Value> {
        ensure!(self.is_on(), "the machine {} is off", self.kept.spec.name);
        qmp::ask(&self.dir.join("qmp"), command, arguments)
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) -> Result<()> {
        match fault {
            Some(fault) => self.write("fault", &serde_json::to_vec(&fault)?),
            None => self.remove("fault"),
        }
    }

    pub(super) fn asked(&self) -> Result<Vec<String>> {
        let file = self.dir.join("asked");
        match fs::read_to_string(&file) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// One of the two that may switch it at a time.
    fn turn(&self) -> Result<File> {
        let file = self.dir.join("lock");
        let lock =
            File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", file.display()))?;
        Ok(lock)
    }

    fn start(&self) -> Result<()> {
        if self.is_on() {
            return Ok(());
        }
        let boot = self.override_of_boot().unwrap_or(self.kept.spec.boot);
        let exec = Exec::new("ip")
            .args(["netns", "exec", &self.kept.namespace, "qemu-system-x86_64"])
            .args(qemu::arguments(&self.kept.spec, &self.dir, boot));
        // `-daemonize` keeps no stream open, but whoever starts it may wait for the end of one
        let said = self.dir.join("qemu.said");
        let file =
            || File::create(&said).with_context(|| format!("cannot write {}", said.display()));
        let status = exec
            .command()?
            .stdin(std::process::Stdio::null())
            .stdout(file()?)
            .stderr(file()?)
            .status()
            .with_context(|| format!("cannot start `{}`", exec.shown()))?;
        if !status.success() {
            let words = fs::read_to_string(&said).unwrap_or_default();
            bail!("`{}` ended with {status}: {}", exec.shown(), words.trim());
        }
        // it holds for one start
        self.remove("boot")
    }

    fn stop(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // as when the cable is pulled; its writes are in the host's cache, which stays
        signal(pid, "KILL")?;
        eventually(END, "QEMU is gone", || {
            ensure!(!alive(pid), "process {pid} is alive");
            Ok(())
        })?;
        self.remove("pid")
    }

    fn override_of_boot(&self) -> Option<Boot> {
        match fs::read_to_string(self.dir.join("boot")).ok()?.as_str() {
            "pxe" => Some(Boot::Network),
            "default" | "disk" => Some(Boot::Disk),
            _ => None,
        }
    }

    fn fault(&self) -> Option<Fault> {
        serde_json::from_slice(&fs::read(self.dir.join("fault")).ok()?).ok()
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let file = self.dir.join(name);
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let file = self.dir.join(name);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }
}

fn check(spec: &Spec) -> Result<()> {
    let name = &spec.name;
    let plain = |text: &str, max: usize| {
        (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    ensure!(plain(name, 12), "{name:?} cannot name a machine: use up to 12 letters and digits");
    for disk in &spec.disks {
        let serial = &disk.serial;
        ensure!(
            plain(serial, 20),
            "{serial:?} is no serial number: use up to 20 letters and digits"
        );
    }
    Ok(())
}

/// What the simulated controller asks for: `get power boot`, `set power 1`, `check`. What is returned is for its reading.
///
/// # Errors
/// When the machine cannot be switched, or the controller is to refuse.
pub fn hook(dir: &Path, words: &[String]) -> Result<String> {
    let machine = Machine::open(dir)?;
    let fault = machine.fault();
    let asked = machine.dir.join("asked");
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&asked)
        .and_then(|mut f| writeln!(f, "{}", words.join(" ")))
        .with_context(|| format!("cannot write {}", asked.display()))?;
    ensure!(fault != Some(Fault::Refuses), "this controller refuses everything");
    match words.split_first() {
        Some((verb, items)) if verb == "get" => {
            Ok(items.iter().filter_map(|item| get(&machine, item, fault)).collect())
        }
        Some((verb, pairs)) if verb == "set" => {
            for pair in pairs.chunks(2) {
                let [item, value] = pair else { bail!("`set {}` has no value", pair.join(" ")) };
                set(&machine, item, value, fault)?;
            }
            Ok(String::new())
        }
        _ => Ok(String::new()),
    }
}

fn get(machine: &Machine, item: &str, fault: Option<Fault>) -> Option<String> {
    match item {
        "power" => {
            let on = machine.is_on() != (fault == Some(Fault::Lies));
            Some(format!("power:{}\n", u8::from(on)))
        }
        "boot" => {
            let boot = fs::read_to_string(machine.dir.join("boot"));
            Some(format!("boot:{}\n", boot.as_deref().unwrap_or("none")))
        }
        _ => None,
    }
}

fn set(machine: &Machine, item: &str, value: &str, fault: Option<Fault>) -> Result<()> {
    if fault == Some(Fault::Idle) {
        return Ok(());
    }
    let _turn = machine.turn()?;
    match (item, value) {
        ("power", "1") => machine.start(),
        ("power", _) => machine.stop(),
        ("reset", _) => {
            machine.stop()?;
            machine.start()
        }
        ("shutdown", _) => machine.press_power(),
        ("boot", _) if fault == Some(Fault::Forgets) => Ok(()),
        ("boot", where_from) => machine.write("boot", where_from.as_bytes()),
        _ => Ok(()),
    }
}
