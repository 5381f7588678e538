//! Filesystems and swap space.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use super::ApplyError;
use super::error::IoContext;
use super::tool::Tool;
use crate::setup::document::FileSystem;
use crate::setup::plan::Content;
use crate::setup::probe;

/// UEFI wants FAT32; a smaller partition has too few clusters for one.
const FAT32_LEAST: u64 = 64 << 20;

/// Makes the filesystem of a place on its device, with its identifier, and sees that it is there.
pub(super) fn format(content: &Content, device: &Path) -> Result<(), ApplyError> {
    let what = format!("make {} on {}", content.filesystem, content.label);
    let wipe = Tool::new("wipefs", format!("erase {}", content.label));
    wipe.args(["-a", "-f", "-q"]).arg(device).run()?;
    let label = content.label.as_str();
    let label = (label.len() <= content.filesystem.label_max()).then_some(label);
    let labelled = |tool: Tool, option: &str| match label {
        Some(label) => tool.args([option, label]),
        None => tool,
    };
    let uuid = content.uuid.as_str();
    let tool = match content.filesystem {
        FileSystem::None => return Ok(()),
        FileSystem::Ext4 => {
            let tool = Tool::new("mkfs.ext4", what).args(["-q", "-F", "-F", "-U", uuid]);
            labelled(tool.arg("-E").arg(format!("hash_seed={uuid}")), "-L")
        }
        FileSystem::Xfs => labelled(
            Tool::new("mkfs.xfs", what).args(["-q", "-f", "-m"]).arg(format!("uuid={uuid}")),
            "-L",
        ),
        FileSystem::Btrfs => {
            labelled(Tool::new("mkfs.btrfs", what).args(["-q", "-f", "-U", uuid]), "-L")
        }
        FileSystem::Vfat => {
            // lower case in a FAT label is not portable
            let upper = label.map(str::to_ascii_uppercase);
            let mut tool = Tool::new("mkfs.vfat", what).args(["-i", &uuid.replace('-', "")]);
            if File::open(device)
                .and_then(|mut file| file.seek(SeekFrom::End(0)))
                .on("measure", device)?
                >= FAT32_LEAST
            {
                tool = tool.args(["-F", "32"]);
            }
            match &upper {
                Some(label) => tool.args(["-n", label]),
                None => tool,
            }
        }
        FileSystem::Swap => {
            labelled(Tool::new("mkswap", what).args(["-q", "-f", "-U", uuid]), "-L")
        }
    };
    tool.arg(device).run()?;
    super::disk::sync(device)?;
    verify(content, device)
}

/// Whether the filesystem is the planned one.
pub(super) fn verify(content: &Content, device: &Path) -> Result<(), ApplyError> {
    let looked = probe::look(device, None)?;
    let kind = looked.content.as_deref() == Some(content.filesystem.as_str());
    if kind && looked.uuid.as_deref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(&content.uuid)) {
        return Ok(());
    }
    let found = match (looked.content, looked.uuid) {
        (Some(content), Some(uuid)) => format!("{content} {uuid}"),
        (Some(content), None) => content,
        (None, _) => "nothing".to_owned(),
    };
    let what = format!("{} on {} ({})", content.filesystem, content.label, content.uuid);
    Err(ApplyError::Verify { what, found })
}
