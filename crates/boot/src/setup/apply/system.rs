//! Makes a new system this machine's own: fstab, hostname, identifiers, files, the node.

use std::fmt::Write;
use std::fs::File;

use super::error::IoContext;
use super::rootfs::{Rights, Root};
use super::tool::Tool;
use super::{ApplyError, Context, Inject, Source};
use crate::setup::document::{FileSystem, Rendering};
use crate::setup::plan::{Goal, MountGoal, RootGoal};

/// Around the lines of a file that a setup keeps.
const BEGIN: &str = "# p2pinst setup: begin";
const END: &str = "# p2pinst setup: end";
/// Makes SSH's host keys when a system starts for the first time; those of an image are everybody's.
const KEYS_UNIT: &str = "[Unit]\nDescription=Make SSH host keys at the first start\nBefore=ssh.service sshd.service\n\
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
ExecStart=/usr/bin/ssh-keygen -A\n\n[Install]\nWantedBy=multi-user.target\n";
const KEYS_NAME: &str = "p2pinst-ssh-keys.service";

/// Makes the system at `root` the machine's own; `is_new` when it has never been started.
pub(super) fn make_own(
    goal: &Goal,
    root: &Root,
    context: &Context<'_>,
    is_new: bool,
) -> Result<(), ApplyError> {
    write_fstab(goal, root)?;
    if let Some(hostname) = &goal.hostname {
        write_hostname(root, hostname)?;
    }
    if is_new {
        forget_identity(root)?;
    }
    for file in &goal.files {
        let content = match (&file.content, file.rendering()) {
            (Some(content), _) => content.clone(),
            (None, Some(rendering)) => render(context, &rendering)?,
            (None, None) => {
                return Err(ApplyError::Plan("a file has neither content nor template"));
            }
        };
        let mode = file.mode().ok_or(ApplyError::Plan("a file has no mode"))?;
        let rights = Rights { mode, owner: file.owner, group: file.group };
        root.write(&file.path, content.as_bytes(), rights)?;
    }
    if goal.agent {
        context.agent.iter().try_for_each(|inject| put(root, inject))?;
    }
    Ok(())
}

fn render(context: &Context<'_>, rendering: &Rendering) -> Result<String, ApplyError> {
    let Rendering { templates, format, .. } = rendering;
    let failed =
        |source| ApplyError::Template { template: format!("{templates} ({format})"), source };
    (context.templates)(rendering).map_err(failed)
}

fn put(root: &Root, inject: &Inject) -> Result<(), ApplyError> {
    match &inject.source {
        Source::Bytes(bytes) => root.write(
            &inject.path,
            bytes.as_slice(),
            Rights { mode: inject.mode, owner: 0, group: 0 },
        ),
        Source::File(from) => {
            let file = File::open(from).on("open", from)?;
            root.write(&inject.path, file, Rights { mode: inject.mode, owner: 0, group: 0 })
        }
        Source::Link(to) => root.link(&inject.path, to),
    }
}

/// Writes the new system's fstab. Of an image of a whole disk, which has one, what it says of itself stays.
fn write_fstab(goal: &Goal, root: &Root) -> Result<(), ApplyError> {
    let mut lines = String::new();
    for mount in &goal.mounts {
        if let Some(line) = fstab_line(goal, mount) {
            lines.push_str(&line);
        }
    }
    let own = match goal.root {
        Some(RootGoal::Image { .. }) if lines.is_empty() => return Ok(()),
        Some(RootGoal::Image { .. }) => {
            let text = root.read("/etc/fstab")?.unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let paths: Vec<&str> =
                goal.mounts.iter().filter_map(|mount| mount.path.as_deref()).collect();
            let keep =
                |line: &&str| !line.split_whitespace().nth(1).is_some_and(|at| paths.contains(&at));
            without_block(&text)
                .lines()
                .filter(keep)
                .fold(String::new(), |text, line| text + line + "\n")
        }
        _ => String::new(),
    };
    root.write("/etc/fstab", format!("{own}{BEGIN}\n{lines}{END}\n").as_bytes(), Rights::PUBLIC)
}

fn fstab_line(goal: &Goal, mount: &MountGoal) -> Option<String> {
    let spec = goal.spec(mount.place)?;
    let filesystem = goal.content(mount.place)?.filesystem;
    let path = mount.path.as_deref().unwrap_or("none");
    let usual = match filesystem {
        FileSystem::Vfat => "umask=0077",
        FileSystem::Swap => "sw",
        _ => "defaults",
    };
    let options = mount.options.as_deref().unwrap_or(usual);
    let pass = match (path, filesystem) {
        ("/", FileSystem::Ext4) => 1,
        (_, FileSystem::Ext4 | FileSystem::Vfat) => 2,
        _ => 0,
    };
    Some(format!("{spec} {path} {filesystem} {options} 0 {pass}\n"))
}

/// A text without the lines that an earlier setup has put there.
fn without_block(text: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            BEGIN => inside = true,
            END => inside = false,
            line if !inside => {
                kept.push_str(line);
                kept.push('\n');
            }
            _ => {}
        }
    }
    kept
}

fn write_hostname(root: &Root, hostname: &str) -> Result<(), ApplyError> {
    root.write("/etc/hostname", format!("{hostname}\n").as_bytes(), Rights::PUBLIC)?;
    let hosts = root
        .read("/etc/hosts")?
        .unwrap_or_else(|| b"127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_vec());
    let hosts = String::from_utf8_lossy(&hosts).into_owned();
    let mut text = String::new();
    // 127.0.1.1 is Debian's place for a machine's own name
    for line in hosts.lines().filter(|line| line.split_whitespace().next() != Some("127.0.1.1")) {
        text.push_str(line);
        text.push('\n');
    }
    let short = hostname.split('.').next().unwrap_or(hostname);
    let names = if short == hostname { hostname.to_owned() } else { format!("{hostname} {short}") };
    // writing to a string cannot fail
    let _done = writeln!(text, "127.0.1.1\t{names}");
    root.write("/etc/hosts", text.as_bytes(), Rights::PUBLIC)
}

/// Takes an image's identifiers away, so that no two machines have the same.
fn forget_identity(root: &Root) -> Result<(), ApplyError> {
    let systemd = root.has("/usr/lib/systemd") || root.has("/lib/systemd");
    if systemd || root.has("/etc/machine-id") {
        // an empty one is filled at the first start (machine-id(5))
        let rights = Rights { mode: 0o444, ..Rights::PUBLIC };
        root.write("/etc/machine-id", &b""[..], rights)?;
        root.remove("/var/lib/dbus/machine-id")?;
    }
    root.remove("/var/lib/systemd/random-seed")?;
    for name in root.list("/etc/ssh") {
        if name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub")) {
            root.remove(&format!("/etc/ssh/{name}"))?;
        }
    }
    if !root.has("/usr/bin/ssh-keygen") {
        return Ok(());
    }
    if systemd {
        root.write(
            &format!("/etc/systemd/system/{KEYS_NAME}"),
            KEYS_UNIT.as_bytes(),
            Rights::PUBLIC,
        )?;
        let wants = format!("/etc/systemd/system/multi-user.target.wants/{KEYS_NAME}");
        return root.link(&wants, &format!("/etc/systemd/system/{KEYS_NAME}"));
    }
    let keys = Tool::new("chroot", "make SSH host keys");
    keys.arg(root.path()).args(["/usr/bin/ssh-keygen", "-A"]).run().map(|_said| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_replaced_and_nothing_else() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(without_block(&text), "a\nb\n");
        assert_eq!(without_block("a\n"), "a\n");
    }
}
