//! What makes the installed system a member: the node's programs, its unit, its key and its certificate.

use std::path::{Path, PathBuf};

use p2pinst_api::paths;
use p2pinst_boot::setup::apply::{Inject, Source};
use p2pinst_trust::scout::Welcomed;
use p2pinst_trust::{SecretKey, Welcome, keytext};
use p2pinst_types::MachineId;
use rustix::system::RebootCommand;
use tracing::warn;

use crate::identity::{Identity, IdentityError};

/// The unit of the node.
const UNIT: &str = include_str!("p2pinstd.service");
/// Where it is, and what starts it.
const UNIT_PATH: &str = "/etc/systemd/system/p2pinstd.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/p2pinstd.service";
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

/// What a machine starts with when it starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Its firmware.
    Firmware,
    /// The kernel of the installer, which was loaded for this order.
    Installer,
}

/// Starts the machine anew. A kernel that was loaded for an order that is over is nobody's: it goes with the memory.
///
/// # Errors
/// When the kernel does not.
pub(super) fn reboot(next: Next) -> anyhow::Result<()> {
    rustix::fs::sync();
    if next == Next::Installer
        && let Err(error) = rustix::system::reboot(RebootCommand::Kexec)
    {
        warn!(%error, "the installer cannot be started");
    }
    rustix::system::reboot(RebootCommand::Restart)?;
    Ok(())
}

/// Where an installation notes what it has done.
pub(super) fn work_dir(dir: &Path) -> PathBuf {
    dir.join("setup")
}
