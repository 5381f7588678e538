//! The used blocks of a filesystem, copied by the programs that know it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2pinst_command::{ask_within, clean};
use rustix::fs::FallocateFlags;

use super::plan::Segment;
use super::{FilesystemKind, Job, Loop};
use crate::image::process::Running;

/// Where an ext filesystem has its superblock; what is before belongs to bootloaders.
const EXT_BOOT: u64 = 1024;

/// Devices for programs that know of no offsets.
#[derive(Debug)]
pub(super) struct Loops {
    from: Loop,
    to: Loop,
}

/// The devices that xfs_copy needs; none for others, and where there are none.
pub(super) fn loops(
    job: &Job<'_>,
    segment: &Segment,
    filesystem: Option<FilesystemKind>,
) -> Option<Loops> {
    if filesystem != Some(FilesystemKind::Xfs) {
        return None;
    }
    let len = segment.end.saturating_sub(segment.start);
    let from = Loop::attach(job.real, segment.start, len, true).ok()?;
    let to = Loop::attach(job.out_path, segment.start, len, false).ok()?;
    Some(Loops { from, to })
}

/// Copies an ext filesystem that is clean.
pub(super) fn ext(job: &Job<'_>, segment: &Segment) -> io::Result<()> {
    let offset = segment.start.to_string();
    let mut command = clean("e2image");
    // -f: it may be mounted, and is frozen then
    command.args(["-ra", "-f", "-o", &offset, "-O", &offset]).arg(job.real).arg(job.out_path);
    run(job, command, "e2image")?;
    // it cuts the file behind what it has written; what is behind comes later
    job.out.set_len(crate::image::ReadAt::len(job.source))?;
    let boot = (segment.start, segment.start.saturating_add(EXT_BOOT));
    crate::image::holes::copy(job.source, job.out, boot, job.watch)?;
    Ok(())
}

/// Copies an XFS.
pub(super) fn xfs(job: &Job<'_>, segment: &Segment, made: Option<Loops>) -> io::Result<()> {
    let frozen = made.is_some();
    let made = made.or_else(|| loops(job, segment, Some(FilesystemKind::Xfs)));
    let Loops { from, to } = made.ok_or_else(|| io::Error::other("there is no loop device"))?;
    // of a frozen one all but the mark of the end is written
    if !frozen && !log_is_clean(from.path())? {
        return Err(io::Error::other(
            "its log has not been read, so its free blocks are not known",
        ));
    }
    // not in /var/tmp, which may be frozen
    let dir = job.out_path.parent().unwrap_or(Path::new("."));
    let logs = tempfile::Builder::new().prefix(".xfs_copy-").tempdir_in(dir)?;
    let mut command = clean("xfs_copy");
    command.arg("-d").arg("-L").arg(logs.path().join("log")).arg(from.path()).arg(to.path());
    run(job, command, "xfs_copy")?;
    from.detach()?;
    to.detach()
}

fn log_is_clean(device: &Path) -> io::Result<bool> {
    let mut command = clean("xfs_logprint");
    command.arg("-t").arg(device);
    let said = ask_within(command, b"", 1 << 20, Duration::from_secs(60))?;
    Ok(said.success && String::from_utf8_lossy(&said.stdout).contains("<CLEAN>"))
}

fn run(job: &Job<'_>, command: Command, name: &str) -> io::Result<()> {
    let running = Running::start(command, Stdio::null(), Stdio::null());
    let running =
        running.map_err(|e| io::Error::other(format!("{name} cannot be started: {e}")))?;
    match running.finish_watched(job.watch.stop, || {})? {
        None => Err(io::ErrorKind::Interrupted.into()),
        Some(ended) if ended.success => Ok(()),
        Some(ended) => Err(io::Error::other(format!("{name}: {}", ended.said))),
    }
}

/// Makes a hole of a segment, and gives the file its length.
pub(super) fn clear(out: &File, segment: &Segment, len: u64) -> io::Result<()> {
    out.set_len(len)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let count = segment.end.saturating_sub(segment.start);
    Ok(rustix::fs::fallocate(out, flags, segment.start, count)?)
}
