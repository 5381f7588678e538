//! Reads what is on the disks: tables by sfdisk, filesystems by blkid, volume groups by LVM. Writes nothing, and needs no
//! device for a partition: they are looked at by their place on the disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use p2pinst_types::record::Disk;
use rustix::fs::Advice;
use serde::Deserialize;
use thiserror::Error;

use super::found::{Found, FoundDisk, FoundPartition, FoundTable, MIB, Stamp, VEILED};
use super::inventory::{self, LOOK, Roots, SAID_MAX};

/// What blkid's exit codes say (blkid(8)): there is something;
const FOUND: i32 = 0;
/// nothing that it knows;
const NOTHING: i32 = 2;
/// or more than one thing.
const AMBIVALENT: i32 = 8;

/// Why it is not known what is on a disk.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// A program that is needed cannot be run.
    #[error("cannot look at {} with {program}: {source}; is it installed?", device.display())]
    Start {
        /// The program.
        program: &'static str,
        /// The disk.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program has failed: nobody knows what is there.
    #[error("cannot look at {}: {program} {how}{said}", device.display())]
    Failed {
        /// The program.
        program: &'static str,
        /// The disk.
        device: PathBuf,
        /// How it ended.
        how: String,
        /// Its last words, after a colon.
        said: String,
    },
    /// A program says what nobody understands.
    #[error("cannot understand what {program} says of {}: {said:?}", device.display())]
    Said {
        /// The program.
        program: &'static str,
        /// The disk.
        device: PathBuf,
        /// What it said.
        said: String,
    },
    /// The disk cannot be read.
    #[error("cannot read {}: {source}", device.display())]
    Read {
        /// The disk.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is on these disks.
///
/// # Errors
/// When a disk cannot be read, or a program is missing: nothing may be planned for a disk of which nobody knows what is
/// on it.
pub fn read(roots: &Roots, disks: &[Disk]) -> Result<Found, ProbeError> {
    let mut found = Found::default();
    for disk in disks {
        found.disks.insert(disk.name.clone(), read_disk(roots, disk)?);
    }
    let is_lvm = |content: &Option<String>| content.as_deref() == Some("LVM2_member");
    let lvm = |disk: &FoundDisk| {
        let mut partitions = disk.table.iter().flat_map(|table| &table.partitions);
        is_lvm(&disk.content) || partitions.any(|p| is_lvm(&p.content))
    };
    if found.disks.values().any(lvm) {
        found.groups = super::apply::lvm::groups();
    }
    Ok(found)
}

/// What is on this disk.
///
/// # Errors
/// When it cannot be read, or a program is missing.
pub fn read_disk(roots: &Roots, disk: &Disk) -> Result<FoundDisk, ProbeError> {
    let device = roots.dev.join(&disk.name);
    forget_pages(&device)?;
    let looked = look(&device, None)?;
    let mut found = FoundDisk { sector: sector(&device), ..FoundDisk::default() };
    if looked.table.is_some() {
        found.table = table(&device)?;
    }
    if found.table.is_none() {
        found.content = looked.content.or(looked.table);
    }
    found.stamp = stamp(&device, disk.size)?;
    if found.is_blank()
        && let Some(table) = found.stamp.as_ref().and_then(|stamp| stamp.held.clone())
    {
        found.table = Some(table);
        found.held = true;
    }
    found.veiled = begins_with(&device, VEILED)?;
    for part in found.table.iter_mut().flat_map(|table| &mut table.partitions) {
        let looked = look(&device, Some((part.start, part.size)))?;
        part.content = looked.content;
        part.content_uuid = looked.uuid;
    }
    found.users = users(roots, disk, &device);
    Ok(found)
}

/// Lets go of what the kernel has in memory of a disk. What is written through a partition's device does not come into the
/// memory of the whole disk, and somebody who has the disk open keeps old pages there.
fn forget_pages(device: &Path) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Read { device: device.to_owned(), source };
    let file = File::open(device).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(|errno| failed(errno.into()))
}

/// What blkid sees.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) table: Option<String>,
    pub(super) content: Option<String>,
    pub(super) uuid: Option<String>,
}

/// Looks at a device, or at a part of it (where it begins, and its size).
pub(super) fn look(device: &Path, part: Option<(u64, u64)>) -> Result<Looked, ProbeError> {
    let mut command = p2pinst_command::clean("blkid");
    command.args(["-p", "-o", "export"]);
    if let Some((start, size)) = part {
        command.args(["-O", &start.to_string(), "-S", &size.to_string()]);
    }
    let said = ask("blkid", command.arg(device), device)?;
    match said.code {
        Some(FOUND) => {}
        Some(NOTHING) => {
            // blkid says the same of what it cannot read
            let (start, size) = part.unwrap_or((0, u64::MAX));
            can_be_read(device, start, size)?;
            return Ok(Looked::default());
        }
        // several signatures at once: blkid says only that it does not know which one holds
        Some(AMBIVALENT) => {
            return Ok(Looked { content: Some("several filesystems".into()), ..Looked::default() });
        }
        code => return Err(failed("blkid", device, code, &said.stderr)),
    }
    let value = |key: &str| {
        let line = said.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| p2pinst_command::text(value.replace('\\', "").as_bytes()))
    };
    Ok(Looked { table: value("PTTYPE"), content: value("TYPE"), uuid: value("UUID") })
}

/// Whether the beginning of a device, or of a part of it, can be read at all.
fn can_be_read(device: &Path, start: u64, size: u64) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Read { device: device.to_owned(), source };
    let mut bytes = vec![0; usize::try_from(size.min(MIB)).unwrap_or(0)];
    let file = File::open(device).map_err(failed)?;
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

fn failed(program: &'static str, device: &Path, code: Option<i32>, stderr: &str) -> ProbeError {
    let how = match code {
        Some(code) => format!("ended with exit code {code}"),
        None => "was killed by a signal".to_owned(),
    };
    let said = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
    let said = said.chars().take(200).collect();
    ProbeError::Failed { program, device: device.to_owned(), how, said }
}

struct Answer {
    text: String,
    code: Option<i32>,
    stderr: String,
}

fn ask(program: &'static str, command: &mut Command, device: &Path) -> Result<Answer, ProbeError> {
    let owned = std::mem::replace(command, Command::new(program));
    let said = p2pinst_command::ask_within(owned, b"", SAID_MAX, LOOK)
        .map_err(|source| ProbeError::Start { program, device: device.to_owned(), source })?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(Answer { text, code: said.code, stderr: said.stderr })
}

#[derive(Deserialize)]
struct Dump {
    partitiontable: DumpTable,
}

#[derive(Deserialize)]
struct DumpTable {
    label: String,
    #[serde(default)]
    id: String,
    #[serde(default = "usual_sector")]
    sectorsize: u64,
    #[serde(default)]
    partitions: Vec<DumpPartition>,
}

fn usual_sector() -> u64 {
    512
}

#[derive(Deserialize)]
struct DumpPartition {
    node: String,
    start: u64,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    name: String,
}

/// The partition table; none where sfdisk sees none.
fn table(device: &Path) -> Result<Option<FoundTable>, ProbeError> {
    let mut command = p2pinst_command::clean("sfdisk");
    let said = ask("sfdisk", command.arg("-J").arg(device), device)?;
    if said.code.is_none() {
        return Err(failed("sfdisk", device, said.code, &said.stderr));
    }
    if said.text.trim().is_empty() {
        return Ok(None);
    }
    let wrong = || ProbeError::Said {
        program: "sfdisk",
        device: device.to_owned(),
        said: said.text.chars().take(200).collect(),
    };
    parse(&said.text, device).map(Some).ok_or_else(wrong)
}

/// Reads what `sfdisk -J` says.
fn parse(text: &str, device: &Path) -> Option<FoundTable> {
    let dump: Dump = serde_json::from_str(text).ok()?;
    let table = dump.partitiontable;
    let device = device.to_str()?;
    let partition = |part: DumpPartition| {
        // the node is the device's name, with a 'p' between two numbers
        let number = part.node.strip_prefix(device)?.trim_start_matches('p').parse().ok()?;
        Some(FoundPartition {
            number,
            start: part.start.checked_mul(table.sectorsize)?,
            size: part.size.checked_mul(table.sectorsize)?,
            kind: part.kind.to_ascii_lowercase(),
            name: p2pinst_command::text(part.name.as_bytes()),
            uuid: part.uuid.to_ascii_lowercase(),
            content: None,
            content_uuid: None,
        })
    };
    let partitions: Option<Vec<_>> = table.partitions.into_iter().map(partition).collect();
    Some(FoundTable {
        kind: p2pinst_command::text(table.label.as_bytes()),
        id: p2pinst_command::text(table.id.to_ascii_lowercase().as_bytes()),
        partitions: partitions?,
    })
}

fn begins_with(device: &Path, begin: &[u8]) -> Result<bool, ProbeError> {
    let failed = |source| ProbeError::Read { device: device.to_owned(), source };
    let mut bytes = vec![0; begin.len()];
    match File::open(device).and_then(|file| file.read_exact_at(&mut bytes, 0)) {
        Ok(()) => Ok(bytes == begin),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

fn stamp(device: &Path, size: u64) -> Result<Option<Stamp>, ProbeError> {
    let failed = |source| ProbeError::Read { device: device.to_owned(), source };
    let file = File::open(device).map_err(failed)?;
    let mut bytes = vec![0; Stamp::LEN];
    match file.read_exact_at(&mut bytes, Stamp::place(size)) {
        Ok(()) => Ok(Stamp::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The length of a disk's logical sectors, as the running kernel has it.
fn sector(device: &Path) -> u32 {
    let real = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let name = real.file_name().unwrap_or_default();
    inventory::sector(&Path::new("/sys/block").join(name))
}

/// What keeps a disk busy: mounts and swap of it or its partitions, and devices that are made of it.
fn users(roots: &Roots, disk: &Disk, device: &Path) -> Vec<String> {
    let mut users = BTreeSet::new();
    let real = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let block = Path::new("/sys/block").join(&name);
    let parts = fs::read_dir(&block).into_iter().flatten().flatten();
    let parts = parts.filter(|entry| entry.path().join("partition").exists());
    let mut dirs: Vec<PathBuf> = parts.map(|entry| entry.path()).collect();
    let nodes: BTreeSet<u64> = dirs
        .iter()
        .filter_map(|dir| fs::metadata(Path::new("/dev").join(dir.file_name()?)).ok())
        .chain(fs::metadata(&real))
        .filter(|node| node.file_type().is_block_device())
        .map(|node| node.rdev())
        .collect();
    dirs.extend([block, roots.sys.join("block").join(&disk.name)]);
    for holder in dirs.iter().flat_map(|dir| fs::read_dir(dir.join("holders"))).flatten().flatten()
    {
        users.insert(format!("the device {}", holder.file_name().to_string_lossy()));
    }
    let is_ours = |path: &str| {
        fs::metadata(path)
            .is_ok_and(|m| m.file_type().is_block_device() && nodes.contains(&m.rdev()))
    };
    let list = |name: &str| fs::read_to_string(roots.proc.join(name)).unwrap_or_default();
    for line in list("mounts").lines() {
        let mut words = line.split(' ');
        if let (Some(source), Some(target)) = (words.next(), words.next())
            && source.starts_with('/')
            && is_ours(source)
        {
            users.insert(format!("mounted at {}", p2pinst_command::text(target.as_bytes())));
        }
    }
    let swaps = list("swaps");
    if swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).any(is_ours) {
        users.insert("used as swap".to_owned());
    }
    users.into_iter().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_not_blank() {
        // a file that opens, and of which no byte can be read
        let error = look(Path::new("/proc/self/mem"), None).unwrap_err();
        assert!(error.to_string().contains("/proc/self/mem"), "{error}");
        let blank = tempfile::NamedTempFile::new().unwrap();
        blank.as_file().set_len(8 * MIB).unwrap();
        let looked = look(blank.path(), None).unwrap();
        assert_eq!((looked.table, looked.content), (None, None));
        // an offset that is no number: blkid does not know what it is asked
        let mut command = p2pinst_command::clean("blkid");
        let said = ask("blkid", command.args(["-p", "-O", "x"]).arg(blank.path()), blank.path());
        let said = said.unwrap();
        assert!(
            ![Some(FOUND), Some(NOTHING), Some(AMBIVALENT)].contains(&said.code),
            "{:?}",
            said.code
        );
        let refused = failed("blkid", blank.path(), said.code, &said.stderr).to_string();
        assert!(refused.contains("ended with exit code"), "{refused}");
    }

    #[test]
    fn tables_are_read_in_bytes() {
        let text = r#"{"partitiontable":{"label":"gpt","id":"AB","device":"/dev/nvme0n1","unit":"sectors","sectorsize":4096,
            "partitions":[{"node":"/dev/nvme0n1p3","start":256,"size":512,"type":"0FC6","uuid":"CD","name":"root"}]}}"#;
        let table = parse(text, Path::new("/dev/nvme0n1")).unwrap();
        assert_eq!((table.id.as_str(), table.partitions.len()), ("ab", 1));
        let part = &table.partitions[0];
        assert_eq!((part.number, part.start, part.size), (3, 1 << 20, 2 << 20));
        for bad in [
            "",
            "{}",
            "[",
            &text.replace("4096", "18446744073709551615"),
            &text.replace("n1p3", "n2p3"),
        ] {
            assert!(parse(bad, Path::new("/dev/nvme0n1")).is_none(), "{bad}");
        }
        let older = text.replace("\"sectorsize\":4096,", "");
        assert_eq!(
            parse(&older, Path::new("/dev/nvme0n1")).unwrap().partitions[0].start,
            256 * 512
        );
    }
}
