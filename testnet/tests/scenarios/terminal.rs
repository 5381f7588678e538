//! A terminal (a pseudo-terminal), from the side of whoever sits at it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// See the module.
pub(crate) struct Terminal {
    side: File,
    /// The device, as who asks opens it.
    pub(crate) device: PathBuf,
    shown: Arc<Mutex<Vec<u8>>>,
    /// Kept open: with nobody at the other side nothing can be read.
    _other: File,
}

impl Terminal {
    pub(crate) fn new() -> Result<Self> {
        let side = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("no terminal")?;
        grantpt(&side).and_then(|()| unlockpt(&side)).context("cannot open the terminal")?;
        let name = ptsname(&side, Vec::new()).context("a terminal without a name")?;
        let device = PathBuf::from(std::ffi::OsString::from_vec(name.into_bytes()));
        let other = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOCTTY.bits().cast_signed())
            .open(&device);
        let other = other.context("cannot open the other side")?;
        let side = File::from(side);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (side.try_clone().context("cannot share it")?, Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 256];
            loop {
                match from.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(n) => to.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..n]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self { side, device, shown, _other: other })
    }

    /// What was shown so far.
    pub(crate) fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Types a line.
    pub(crate) fn types(&self, line: &str) -> Result<()> {
        (&self.side).write_all(format!("{line}\n").as_bytes()).context("cannot type")
    }
}
