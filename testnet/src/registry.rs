//! Which labs exist on this machine, so that what a killed run left behind can be swept away.
//!
//! An entry is written before anything of a lab is made, and removed after everything is gone.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::exec::{alive, run, signal, start_time};
use crate::net::remove_namespaces;
use crate::ready::is_root;
use crate::wait::eventually;

/// A lab that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, the first part of the names of its namespaces.
    pub id: String,
    /// The process that made it.
    pub pid: u32,
    /// When that process started, in clock ticks: a pid alone may come again.
    pub started: u64,
    /// Whether it stays when that process ends.
    pub kept: bool,
    /// Where its files are.
    pub dir: PathBuf,
    /// How many hosts it has.
    pub hosts: usize,
    /// Whether the hosts are namespaces.
    pub namespaces: bool,
    /// The hosts' addresses, in order.
    pub addrs: Vec<String>,
    /// How many sites the hosts are divided into; 0 when all are on one bridge.
    #[serde(default)]
    pub sites: usize,
}

impl Entry {
    /// Whether nobody is there any more who would take the lab down.
    fn is_orphan(&self) -> bool {
        !self.kept && (!alive(self.pid) || start_time(self.pid) != Some(self.started))
    }

    /// Writes the entry.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self) -> Result<()> {
        let file = dir()?.join(format!("{}.json", self.id));
        let text = serde_json::to_vec_pretty(self).context("cannot encode a lab's entry")?;
        let temp = file.with_extension("tmp");
        fs::write(&temp, text)
            .and_then(|()| fs::rename(&temp, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Kills what runs in the lab and removes all that belongs to it.
    ///
    /// # Errors
    /// When something of it is still there afterwards.
    pub fn destroy(&self) -> Result<()> {
        if self.namespaces {
            remove_namespaces(&self.id)?;
        }
        self.kill_by_pid_file()?;
        unmount_below(&self.dir)?;
        detach_below(&self.dir)?;
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", self.dir.display()));
            }
            _ => {}
        }
        let file = dir()?.join(format!("{}.json", self.id));
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    /// Daemons outside of namespaces: those whose arguments name the lab's directory.
    fn kill_by_pid_file(&self) -> Result<()> {
        for host in 1..=self.hosts {
            let file = pid_file(&self.dir, host);
            let Some(pid) = fs::read_to_string(&file).ok().and_then(|t| t.trim().parse().ok())
            else {
                continue;
            };
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&words).contains(&*self.dir.to_string_lossy()) {
                signal(pid, "KILL")?;
                eventually(Duration::from_secs(10), "the daemon is gone", || {
                    ensure!(!alive(pid), "process {pid} is alive");
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}

/// Where a host's daemon is noted by its number.
#[must_use]
pub fn pid_file(lab: &Path, host: usize) -> PathBuf {
    lab.join(format!("n{host}")).join("pid")
}

/// The labs that exist, oldest first.
///
/// # Errors
/// When the register cannot be read.
pub fn labs() -> Result<Vec<Entry>> {
    let dir = dir()?;
    let mut found = Vec::new();
    for file in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = file.with_context(|| format!("cannot read {}", dir.display()))?.path();
        if path.extension().is_some_and(|e| e == "json") {
            // Another run may remove its own entry between the listing and this.
            let Ok(text) = fs::read(&path) else { continue };
            let entry: Entry = serde_json::from_slice(&text)
                .with_context(|| format!("{} is no entry of a lab: remove it", path.display()))?;
            found.push(entry);
        }
    }
    found.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
    Ok(found)
}

/// The lab of that name; without a name, the one lab that was brought up to stay.
///
/// # Errors
/// When there is none, or more than one to choose from.
pub fn find(id: Option<&str>) -> Result<Entry> {
    let mut fitting: Vec<Entry> =
        labs()?.into_iter().filter(|l| id.map_or(l.kept, |id| l.id == id)).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => bail!("there are several labs: name one of those in `testnet ls`"),
        (None, _) => bail!("there is no such lab: make one with `testnet up 4`"),
    }
}

/// Removes what killed runs left behind, and tells which.
///
/// # Errors
/// When something cannot be removed.
pub fn sweep() -> Result<Vec<String>> {
    let lock_file = dir()?.join("lock");
    let lock = File::create(&lock_file)
        .with_context(|| format!("cannot write {}", lock_file.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_file.display()))?;
    let mut swept = Vec::new();
    for lab in labs()?.into_iter().filter(Entry::is_orphan) {
        lab.destroy().with_context(|| format!("cannot sweep away the lab {}", lab.id))?;
        swept.push(lab.id);
    }
    Ok(swept)
}

/// Where the entries are: namespaces belong to the machine, loopback labs to a user.
///
/// # Errors
/// When it cannot be made.
pub fn dir() -> Result<PathBuf> {
    let dir = if is_root() {
        PathBuf::from("/run/p2pinst-testnet")
    } else {
        let user = std::env::var("USER").unwrap_or_else(|_| "nobody".to_owned());
        std::env::temp_dir().join(format!("p2pinst-testnet-{user}"))
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mount table")?;
    let below: Vec<&str> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .filter(|m| Path::new(m).starts_with(dir))
        .collect();
    // The last mounted first.
    below.iter().rev().try_for_each(|m| run("umount", ["-l", m]).map(drop))
}

/// Loop devices of files of the lab.
fn detach_below(dir: &Path) -> Result<()> {
    for device in fs::read_dir("/sys/block").context("cannot read /sys/block")? {
        let name = device.context("cannot read /sys/block")?.file_name();
        let file = Path::new("/sys/block").join(&name).join("loop/backing_file");
        // Not a loop device, or one that stands for nothing.
        let Ok(backing) = fs::read_to_string(file) else { continue };
        if Path::new(backing.trim_end()).starts_with(dir) {
            let device = Path::new("/dev").join(name);
            run("losetup", [OsStr::new("--detach"), device.as_os_str()])?;
        }
    }
    Ok(())
}
