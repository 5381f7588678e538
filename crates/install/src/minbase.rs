//! Roots with a small Debian in them, whose shell can run the scripts of packages.
//!
//! debootstrap makes one base per cache, which no root ever changes: each root is an overlay over
//! it, with its changes in `DIR.overlay` beside it. A machine that was started anew has lost the
//! mount and not the changes: preparing again mounts them.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use p2pinst_files::{Access, Context, Lock};
use rustix::mount::{MountFlags, mount};

use crate::dpkg::own_architecture;
use crate::root::{PrepareError, Prepared, is_root, refuse_foreign};
use p2pinst_command::{Exit, ask, clean, run, text};

/// Debian's stable release has no better name for a machine that is no Debian itself.
const SUITE: &str = "stable";
/// Keeps the scripts of packages from starting services: they would run on the host.
const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// Mounts a small Debian at a new or empty directory, and makes it first when the cache has none
/// (that takes a minute and a Debian mirror). Does nothing to a root that is there.
///
/// # Errors
/// When this is not root, debootstrap is missing or fails, the directory has something else in
/// it, or the overlay cannot be mounted.
pub fn prepare_minbase(dir: &Path, cache: &Path) -> Result<Prepared, PrepareError> {
    let (dir, cache) = (normal(dir)?, normal(cache)?);
    if is_root(&dir) {
        return Ok(Prepared::Already);
    }
    refuse_foreign(&dir)?;
    if !rustix::process::geteuid().is_root() {
        return Err(PrepareError::NotRoot { dir });
    }
    let base = base(&cache)?;
    mount_overlay(&base, &dir)?;
    Ok(Prepared::Made)
}

/// Absolute and without a slash at the end: names are made by appending to it.
fn normal(path: &Path) -> Result<PathBuf, PrepareError> {
    let path = std::path::absolute(path).context("find", path)?;
    Ok(path.components().collect())
}

/// The cache's base, made if there is none. Several may ask at once: one makes it.
fn base(cache: &Path) -> Result<PathBuf, PrepareError> {
    fs::create_dir_all(cache).context("make the directory", cache)?;
    let _lock = Lock::exclusive(&cache.join("minbase.lock"))?;
    let architecture = own_architecture().map_err(|source| PrepareError::NoDpkg { source })?;
    let suite = own_suite().unwrap_or_else(|| SUITE.to_owned());
    let base = cache.join(format!("minbase-{suite}-{architecture}"));
    if base.exists() {
        return Ok(base);
    }
    let unfinished = cache.join(format!("minbase-{suite}-{architecture}.unfinished"));
    match fs::remove_dir_all(&unfinished) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        removed => removed.context("remove", &unfinished)?,
    }
    debootstrap(&suite, &unfinished, &cache.join("debootstrap.log"))?;
    let policy = unfinished.join("usr/sbin/policy-rc.d");
    p2pinst_files::write(&policy, POLICY.as_bytes(), Access::Public)?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&policy, executable).context("make executable", &policy)?;
    rustix::fs::sync();
    fs::rename(&unfinished, &base).context("rename to", &base)?;
    p2pinst_files::sync_dir(cache)?;
    Ok(base)
}

fn debootstrap(suite: &str, base: &Path, log: &Path) -> Result<(), PrepareError> {
    tracing::info!(suite, base = %base.display(), "debootstrap makes a small Debian.");
    let mut command = Command::new("debootstrap");
    // its whole environment, for there may be a proxy in it; users' paths often lack `sbin`
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.arg("--variant=minbase").arg(suite).arg(base).args(own_mirror(suite));
    command.stdin(Stdio::null());
    let ended = run(command, log, None).map_err(|source| PrepareError::NoDebootstrap { source })?;
    if ended.exit == Exit::Code(0) {
        return Ok(());
    }
    Err(PrepareError::Debootstrap { base: base.to_owned(), log: log.to_owned(), said: ended.tail })
}

/// The release of this machine, if it is a Debian.
fn own_suite() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_matches('"').to_owned())
    };
    value("ID=").filter(|id| id == "debian")?;
    value("VERSION_CODENAME=")
}

/// The mirror that this machine's apt uses for the release; debootstrap knows one otherwise.
fn own_mirror(suite: &str) -> Option<String> {
    let mut command = clean("apt-get");
    command.args(["indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"]);
    command.arg("Created-By: Packages");
    let said = ask(command, 1024 * 1024).ok()?;
    let wanted = format!("{suite} main ");
    text(&said.stdout).lines().find_map(|line| line.strip_prefix(&wanted)).map(str::to_owned)
}

fn mount_overlay(base: &Path, dir: &Path) -> Result<(), PrepareError> {
    let mut beside = dir.as_os_str().to_owned();
    beside.push(".overlay");
    let beside = PathBuf::from(beside);
    let (upper, work) = (beside.join("upper"), beside.join("work"));
    for made in [dir, &upper, &work] {
        fs::create_dir_all(made).context("make the directory", made)?;
    }
    let mut options = Vec::new();
    for (option, path) in [("lowerdir=", base), (",upperdir=", &upper), (",workdir=", &work)] {
        let bytes = path.as_os_str().as_bytes();
        if bytes.iter().any(|b| b",:\\\"".contains(b)) {
            return Err(PrepareError::OddPath { path: path.to_owned() });
        }
        options.extend_from_slice(option.as_bytes());
        options.extend_from_slice(bytes);
    }
    let failed =
        |source| PrepareError::Mount { base: base.to_owned(), dir: dir.to_owned(), source };
    let options = CString::new(options).map_err(|e| failed(e.into()))?;
    let source = "p2pinst";
    mount(source, dir, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|errno| failed(errno.into()))
}
