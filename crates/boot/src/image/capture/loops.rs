//! Loop devices: parts of files and disks as devices of their own. The kernel need not know the partition table.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pinst_command::{Said, ask_within, clean};

/// It only asks the kernel.
const TIME: Duration = Duration::from_secs(60);

/// A loop device, detached when dropped.
#[derive(Debug)]
pub(crate) struct Loop {
    path: Option<PathBuf>,
}

impl Loop {
    /// Attaches `len` bytes from `start` on.
    pub(crate) fn attach(file: &Path, start: u64, len: u64, read_only: bool) -> io::Result<Self> {
        let mut command = clean("losetup");
        command.args(["--find", "--show", "--offset", &start.to_string()]);
        command.args(["--sizelimit", &len.to_string()]);
        if read_only {
            command.arg("--read-only");
        }
        let said = ask_within(command_with(command, file), b"", 4096, TIME)?;
        let said = succeeded(said)?;
        Ok(Self { path: Some(PathBuf::from(p2pinst_command::text(&said.stdout))) })
    }

    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Detaches it; what was written to it is then in the file.
    pub(crate) fn detach(mut self) -> io::Result<()> {
        self.path.take().map_or(Ok(()), |path| detach(&path))
    }
}

fn command_with(mut command: std::process::Command, file: &Path) -> std::process::Command {
    command.arg("--").arg(file);
    command
}

fn detach(path: &Path) -> io::Result<()> {
    let mut command = clean("losetup");
    command.arg("--detach").arg(path);
    ask_within(command, b"", 4096, TIME).and_then(succeeded).map(drop)
}

pub(crate) fn succeeded(said: Said) -> io::Result<Said> {
    if said.success { Ok(said) } else { Err(io::Error::other(said.stderr)) }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = detach(&path)
        {
            tracing::warn!(device = %path.display(), %error, "a loop device stays attached");
        }
    }
}
