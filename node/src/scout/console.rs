//! Asking whoever sits at a console of the machine for the code of its order.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pinst_trust::console;
use p2pinst_types::{ClusterId, PublicKey, Signature, limits};
use rustix::fs::OFlags;
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// Longest list of consoles of a kernel.
const LIST: u64 = 64 * 1024;

/// Whoever sits at one of the consoles is asked beside everything else, and once at a time at each.
#[derive(Debug)]
pub(super) struct Consoles {
    all: Vec<PathBuf>,
    /// Where somebody is asked now.
    asked: BTreeSet<PathBuf>,
    /// Where somebody was asked before.
    known: BTreeSet<PathBuf>,
    /// Of the order that was heard of last: that may be another one when something is typed than when it was asked for.
    salt: Arc<Mutex<[u8; 16]>>,
    typed: JoinSet<(PathBuf, Option<Signature>)>,
}

impl Consoles {
    /// These; none named: those that the kernel has, screen and keyboard and serial lines.
    pub(super) fn new(named: &[PathBuf]) -> Self {
        let all = if named.is_empty() { of_kernel() } else { named.to_vec() };
        Self {
            all,
            asked: BTreeSet::new(),
            known: BTreeSet::new(),
            salt: Arc::default(),
            typed: JoinSet::new(),
        }
    }

    /// For a code with this salt; it counts for this scout and no other.
    pub(super) fn ask(&mut self, salt: [u8; 16], cluster: ClusterId, scout: PublicKey) {
        *lock(&self.salt) = salt;
        for console in &self.all {
            if self.asked.insert(console.clone()) {
                let is_new = self.known.insert(console.clone());
                let (console, salt) = (console.clone(), Arc::clone(&self.salt));
                self.typed.spawn_blocking(move || {
                    let code = typed(&console, is_new).and_then(|code| {
                        let salt = *lock(&salt);
                        let answer = console::answer(&code, &salt, &cluster, &scout);
                        answer.inspect_err(|error| warn!(%error, "the code is of no use")).ok()
                    });
                    (console, code)
                });
            }
        }
    }

    /// What was typed first; for ever, where nobody was asked.
    pub(super) async fn typed(&mut self) -> Signature {
        loop {
            match self.typed.join_next().await {
                None => return std::future::pending().await,
                Some(Ok((console, code))) => {
                    self.asked.remove(&console);
                    if let Some(code) = code {
                        return code;
                    }
                }
                Some(Err(error)) => debug!(%error, "nobody can be asked"),
            }
        }
    }
}

fn lock(salt: &Mutex<[u8; 16]>) -> MutexGuard<'_, [u8; 16]> {
    salt.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of_kernel() -> Vec<PathBuf> {
    let active = p2pinst_files::read(Path::new("/sys/class/tty/console/active"), LIST);
    let active = String::from_utf8(active.unwrap_or_default()).unwrap_or_default();
    let all: Vec<_> = active.split_whitespace().map(|name| Path::new("/dev").join(name)).collect();
    if all.is_empty() { vec![PathBuf::from("/dev/console")] } else { all }
}

/// What is typed at one console, if it is anything. Blocks.
fn typed(console: &Path, is_new: bool) -> Option<String> {
    let code = line(console, is_new)
        .inspect_err(|e| warn!(console = %console.display(), error = %e, "no console"));
    code.ok().filter(|code| !code.is_empty())
}

/// One line that is typed there, and not shown: serial lines are recorded. What was typed before anything was asked for is none.
fn line(console: &Path, is_new: bool) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    let mut console = options.custom_flags(OFlags::NOCTTY.bits().cast_signed()).open(console)?;
    if isatty(&console) {
        hide(&console, is_new)?;
    }
    write!(console, "\r\ncode of the order: ")?;
    let mut line = String::new();
    BufReader::new(&console).take(limits::HARDWARE_TEXT as u64).read_line(&mut line)?;
    write!(console, "\r\n")?;
    Ok(line.trim().to_owned())
}

/// They stay so: nothing else is typed at the consoles of a scout, but where it has a shell (`p2pinst.shell`), which sets
/// them as it likes.
fn hide(terminal: &File, is_new: bool) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    modes.local_modes.remove(LocalModes::ECHO);
    modes.local_modes.insert(LocalModes::ICANON);
    let when = if is_new { OptionalActions::Flush } else { OptionalActions::Now };
    Ok(tcsetattr(terminal, when, &modes)?)
}
