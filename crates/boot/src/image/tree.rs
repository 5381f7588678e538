//! A tar of a root filesystem: what is in it, before anything is unpacked.

use std::collections::BTreeSet;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::archive::{ArchiveError, Entry, Limits, Walker, What};
use super::layout::Warning;
use super::process::Watch;

/// How much of a small file is read.
const SMALL: usize = 16 * 1024;
/// What people call a system, at most.
const NAME: usize = 128;

/// What is in a tar of a root filesystem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Entries.
    pub entries: u64,
    /// Bytes of its files, holes included.
    pub bytes: u64,
    /// What os-release calls it (`PRETTY_NAME`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Whether it has a kernel.
    pub kernel: bool,
    /// Whether it has a bootloader, or what installs one.
    pub bootloader: bool,
    /// Whether some entries have POSIX ACLs.
    pub acls: bool,
    /// The namespaces of extended attributes: `user`, `security`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub xattrs: BTreeSet<String>,
    /// Device files.
    pub devices: u64,
}

#[derive(Default)]
struct Seen {
    etc: bool,
    programs: bool,
    machine_id: bool,
    host_keys: bool,
    stray_devices: u64,
    os_in_etc: Option<String>,
    os_in_lib: Option<String>,
}

/// Reads a whole archive: what is in it, and what people should know.
///
/// # Errors
/// When it is damaged, or has what would be refused when it is unpacked.
pub(crate) fn read(
    archive: impl Read,
    limits: Limits,
    watch: &Watch<'_>,
) -> Result<(Rootfs, Vec<Warning>), ArchiveError> {
    let mut walker = Walker::new(archive, limits);
    let mut tree = Rootfs::default();
    let mut seen = Seen::default();
    while let Some(entry) = walker.next_entry()? {
        if watch.is_stopped() {
            return Err(ArchiveError::Read(io::ErrorKind::Interrupted.into()));
        }
        tree.note(&entry);
        seen.note(&entry, &mut walker)?;
    }
    tree.entries = walker.entries();
    tree.os = seen.os_in_etc.take().or(seen.os_in_lib.take());
    let warnings = warnings(&tree, &seen);
    Ok((tree, warnings))
}

impl Rootfs {
    fn note(&mut self, entry: &Entry) {
        self.bytes = self.bytes.saturating_add(match &entry.what {
            What::Sparse { len, .. } => *len,
            _ => entry.data,
        });
        let path = entry.place.as_bytes();
        self.acls |= entry.acls.is_some();
        for (name, _) in &entry.xattrs {
            // four namespaces exist
            if self.xattrs.len() < 8 {
                self.xattrs.insert(namespace(name));
            }
        }
        self.devices += u64::from(matches!(entry.what, What::Device { .. }));
        self.kernel |= path.starts_with(b"boot/vmlinuz")
            || (path.starts_with(b"usr/lib/modules/") || path.starts_with(b"lib/modules/"))
                && path.ends_with(b"/vmlinuz");
        const LOADERS: [&[u8]; 7] = [
            b"boot/grub/",
            b"boot/grub2/",
            b"boot/efi/EFI/",
            b"boot/extlinux/",
            b"usr/lib/systemd/boot/efi/",
            b"usr/sbin/grub-install",
            b"usr/sbin/grub2-install",
        ];
        self.bootloader |= LOADERS.iter().any(|prefix| path.starts_with(prefix));
    }
}

/// The part of an attribute's name before its first dot.
pub(crate) fn namespace(name: &[u8]) -> String {
    let space = name.split(|byte| *byte == b'.').next().unwrap_or_default();
    p2pinst_command::text(space).chars().take(16).collect()
}

impl Seen {
    fn note<R: Read>(&mut self, entry: &Entry, walker: &mut Walker<R>) -> Result<(), ArchiveError> {
        let path = entry.place.as_bytes();
        self.etc |= path == b"etc" || path.starts_with(b"etc/");
        self.programs |=
            path.starts_with(b"usr/bin") || path == b"bin" || path.starts_with(b"bin/");
        self.host_keys |= path.starts_with(b"etc/ssh/ssh_host_") && path.ends_with(b"_key");
        if matches!(entry.what, What::Device { .. }) && !path.starts_with(b"dev/") {
            self.stray_devices += 1;
        }
        match path {
            b"etc/os-release" => self.os_in_etc = pretty_name(&small(walker)?),
            b"usr/lib/os-release" => self.os_in_lib = pretty_name(&small(walker)?),
            b"etc/machine-id" => {
                let id = small(walker)?;
                self.machine_id = !matches!(id.trim_ascii(), b"" | b"uninitialized");
            }
            _ => {}
        }
        Ok(())
    }
}

fn small<R: Read>(walker: &mut Walker<R>) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = vec![0; SMALL];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match walker.data(rest)? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// os-release(5): assignments as a shell reads them.
fn pretty_name(content: &[u8]) -> Option<String> {
    let text = p2pinst_command::text(content);
    let value = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches(['"', '\'']).replace(char::is_control, " ");
    let value: String = value.chars().take(NAME).collect();
    Some(value).filter(|name| !name.is_empty())
}

fn warnings(tree: &Rootfs, seen: &Seen) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let missing: Vec<_> = [(seen.etc, "/etc"), (seen.programs, "/bin or /usr/bin")]
        .into_iter()
        .filter_map(|(there, name)| (!there).then_some(name))
        .collect();
    if !missing.is_empty() {
        warnings.push(Warning::NotARoot { missing: missing.join(", no ") });
    }
    let said = [
        (!tree.kernel, Warning::NoKernel),
        (!tree.bootloader, Warning::NoBootloader),
        (seen.machine_id, Warning::MachineId),
        (seen.host_keys, Warning::HostKeys),
        (seen.stray_devices > 0, Warning::Devices { count: seen.stray_devices }),
    ];
    warnings.extend(said.into_iter().filter_map(|(holds, warning)| holds.then_some(warning)));
    warnings
}
