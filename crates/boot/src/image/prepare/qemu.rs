//! Disks of virtual machines, made raw by qemu-img.
//!
//! The header is read here first ([`format::refusal`]): a file that names another never reaches qemu-img, which would open it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use p2pinst_command::{ask_within, clean};
use serde::Deserialize;
use tempfile::TempPath;

use super::{Job, PrepareError};
use crate::image::format::{self, Format};
use crate::image::process::Running;
use crate::image::source::Source;

/// What qemu-img says of a file; a long list of snapshots stays below.
const INFO_MAX: u64 = 1 << 20;
/// It reads only headers.
const INFO_TIME: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
    format_specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    #[serde(default)]
    data: SpecificData,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpecificData {
    data_file: Option<String>,
    #[serde(default)]
    extents: Vec<Extent>,
}

#[derive(Deserialize)]
struct Extent {
    filename: String,
}

impl Info {
    /// What the header has not told already.
    fn refusal(&self, path: &Path) -> Option<&'static str> {
        let data = self.format_specific.as_ref().map(|specific| &specific.data);
        let elsewhere = data.is_some_and(|data| {
            data.data_file.is_some()
                || data.extents.iter().any(|extent| Path::new(&extent.filename) != path)
        });
        if self.backing_filename.is_some() || self.full_backing_filename.is_some() {
            Some("it is only the difference to a backing file")
        } else if elsewhere {
            Some("its data are in other files")
        } else if self.encrypted {
            Some("it is encrypted; publish what it holds")
        } else {
            None
        }
    }
}

impl Job<'_> {
    pub(super) fn convert(
        &self,
        at: &Path,
        source: &Source,
        format: Format,
    ) -> Result<TempPath, PrepareError> {
        let read = |source| PrepareError::Read { path: self.path(), source };
        let refused =
            |reason: &str| PrepareError::Refused { path: self.path(), reason: reason.into() };
        if let Some(reason) = format::refusal(source, format).map_err(read)? {
            return Err(refused(reason));
        }
        let name = match format {
            Format::Vmdk => "vmdk",
            Format::Vdi => "vdi",
            _ => "qcow2",
        };
        let info = self.info(at, name)?;
        if let Some(reason) = info.refusal(at) {
            return Err(refused(reason));
        }
        if info.virtual_size > self.options.max_len {
            return Err(self.too_long());
        }
        self.run(at, name, info.virtual_size)
    }

    fn info(&self, at: &Path, format: &str) -> Result<Info, PrepareError> {
        let mut command = clean("qemu-img");
        command.args(["info", "--output=json", "-f", format]).arg(at);
        let said = ask_within(command, b"", INFO_MAX, INFO_TIME).map_err(|e| self.no_qemu(e))?;
        if !said.success {
            return Err(PrepareError::Damaged { path: self.path(), said: said.stderr });
        }
        serde_json::from_slice(&said.stdout)
            .map_err(|e| PrepareError::Damaged { path: self.path(), said: e.to_string() })
    }

    fn run(&self, at: &Path, format: &str, len: u64) -> Result<TempPath, PrepareError> {
        let target = self.new_file()?.into_temp_path();
        let mut command = clean("qemu-img");
        command.args(["convert", "-f", format, "-O", "raw", "-S", "4k"]).arg(at).arg(&target);
        let running = Running::start(command, Stdio::null(), Stdio::null());
        let running = running.map_err(|e| self.no_qemu(e))?;
        // what is allocated is what was written, but for the holes
        let look = || {
            let blocks = target.metadata().map(|m| m.blocks()).unwrap_or(0);
            (self.watch.progress)(blocks.saturating_mul(512).min(len), Some(len));
        };
        let ended = running.finish_watched(self.watch.stop, look).map_err(|e| self.no_qemu(e))?;
        let Some(ended) = ended else { return Err(PrepareError::Stopped { path: self.path() }) };
        if !ended.success {
            return Err(PrepareError::Damaged { path: self.path(), said: ended.said });
        }
        Ok(target)
    }

    fn no_qemu(&self, source: std::io::Error) -> PrepareError {
        PrepareError::NoTool {
            path: self.path(),
            program: "qemu-img",
            package: "qemu-utils",
            source,
        }
    }
}
