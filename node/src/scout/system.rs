//! What makes the installed system a member: the node's programs, its unit, its key and its certificate.

use std::path::{Path, PathBuf};

use p2pinst_api::paths;
use p2pinst_boot::setup::apply::{Inject, Source};
use p2pinst_trust::scout::Welcomed;
use p2pinst_trust::{SecretKey, Welcome, keytext};
use p2pinst_types::MachineId;
use rustix::system::RebootCommand;

use crate::identity::{Identity, IdentityError};

/// The unit of the node.
const UNIT: &str = include_str!("p2pinstd.service");
/// Where it is, and what starts it.
const UNIT_PATH: &str = "/etc/systemd/system/p2pinstd.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/p2pinstd.service";
/// Whether another kernel was loaded (Linux `Documentation/ABI/testing/sysfs-kernel-kexec-*`).
const LOADED: &str = "/sys/kernel/kexec_loaded";
/// The programs, as they are called.
const PROGRAMS: (&str, &str) = ("/usr/sbin/p2pinstd", "/usr/bin/p2pinst");

/// The files of a system that joins by itself when it starts for the first time.
pub(super) fn agent(
    key: &SecretKey,
    machine: MachineId,
    welcome: &Welcome,
    welcomed: &Welcomed,
) -> Result<Vec<Inject>, IdentityError> {
    let name = welcomed.cert.name.clone();
    let identity = Identity {
        cluster: *welcomed.roots.cluster(),
        roots: welcomed.roots.signed().to_vec(),
        grant: welcome.grant.clone(),
        invite: welcome.invite.clone(),
        cert: welcome.cert.clone(),
        admission: Vec::new(),
        name: name.clone(),
        machine,
        bootstrap: welcome.bootstrap.clone(),
    };
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(PROGRAMS.0));
    let beside = own.with_file_name("p2pinst");
    let cli = [PathBuf::from(PROGRAMS.1), beside].into_iter().find(|p| p.is_file());
    let at = |path: &str, source, mode| Inject { path: path.to_owned(), source, mode };
    let file = |name: &str| format!("{}/{name}", paths::DEFAULT);
    let mut files = vec![
        at(PROGRAMS.0, Source::File(own), 0o755),
        at(UNIT_PATH, Source::Bytes(UNIT.as_bytes().to_vec()), 0o644),
        at(WANTED, Source::Link(UNIT_PATH.to_owned()), 0o777),
        at(&file("identity"), Source::Bytes(identity.to_bytes()?), 0o644),
        at(&file("node.key"), Source::Bytes(keytext::write(&name, key).as_bytes().to_vec()), 0o600),
    ];
    if let Some(cli) = cli {
        files.push(at(PROGRAMS.1, Source::File(cli), 0o755));
    }
    Ok(files)
}

/// Starts the machine anew: by its firmware, or with the kernel that was loaded.
///
/// # Errors
/// When the kernel does not.
pub(super) fn reboot() -> anyhow::Result<()> {
    let loaded = std::fs::read(LOADED).is_ok_and(|text| text.starts_with(b"1"));
    rustix::fs::sync();
    rustix::system::reboot(if loaded { RebootCommand::Kexec } else { RebootCommand::Restart })?;
    Ok(())
}

/// Where an installation notes what it has done.
pub(super) fn work_dir(dir: &Path) -> PathBuf {
    dir.join("setup")
}
