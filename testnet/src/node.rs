//! One node of a lab: its host, its directories, its daemon, and the command line used there.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::bins::Bins;
use crate::daemon::{Daemon, Ending};
use crate::exec::{Done, Exec};
use crate::net::Host;
use crate::registry::pid_file;
use crate::wait::eventually;

/// The port that nodes listen on.
pub const PORT: u16 = 4001;
/// A daemon answers on its control socket within this time after its start.
const READY: Duration = Duration::from_secs(30);

/// A node of a lab, whether its daemon runs or not.
#[derive(Debug)]
pub struct Node {
    host: Host,
    name: String,
    lab: PathBuf,
    dir: PathBuf,
    bins: Bins,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    daemon: Option<Daemon>,
    envs: Vec<(String, String)>,
    args: Vec<String>,
}

impl Node {
    /// The node of a host, in the directory of its lab.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn new(lab: &Path, host: Host, bins: &Bins) -> Result<Self> {
        let name = format!("n{}", host.index);
        let dir = lab.join(&name);
        for d in [dir.clone(), lab.join("logs")] {
            fs::create_dir_all(&d).with_context(|| format!("cannot make {}", d.display()))?;
        }
        // A daemon of an earlier run of this program is found again.
        let daemon = Daemon::noted(&pid_file(lab, host.index));
        let state = Mutex::new(State { daemon, ..State::default() });
        Ok(Self { host, name, lab: lab.to_path_buf(), dir, bins: bins.clone(), state })
    }

    /// The node's name: `n1` and on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host that the node runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where the node keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where packages are installed.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where the daemon's words go.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.lab.join("logs").join(format!("{}.log", self.name))
    }

    /// The address that the node listens on.
    #[must_use]
    pub fn listen(&self) -> String {
        format!("/ip4/{}/tcp/{PORT}", self.host.ip)
    }

    /// Sets a variable of the environment for all that will run on this node.
    pub fn set_env(&self, key: &str, value: &str) {
        self.state().envs.push((key.to_owned(), value.to_owned()));
    }

    /// Adds an argument for the daemon when it is started next.
    pub fn add_daemon_arg(&self, arg: &str) {
        self.state().args.push(arg.to_owned());
    }

    /// Any program, as it would run on this node.
    #[must_use]
    pub fn exec(&self, program: impl Into<std::ffi::OsString>) -> Exec {
        let envs = self.state().envs.clone();
        envs.into_iter().fold(self.host.exec(program), |exec, (k, v)| exec.env(k, v))
    }

    /// The command line with this node's data directory.
    #[must_use]
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Exec {
        self.exec(&self.bins.cli).arg("--data-dir").arg(self.data()).args(args)
    }

    /// Runs a command that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        Ok(self.cli(args).run()?.ok()?.stdout)
    }

    /// Runs a command that must fail with that code, and returns how it ended.
    ///
    /// # Errors
    /// When it succeeds, or fails in another way.
    pub fn refused<S: AsRef<OsStr>>(
        &self,
        code: i32,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Done> {
        self.cli(args).run()?.fails_with(code)
    }

    /// Runs a command with `--json` and reads what it printed.
    ///
    /// # Errors
    /// When it fails, or prints something else.
    pub fn json<T: DeserializeOwned, S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<T> {
        self.cli(args).arg("--json").run()?.ok()?.json()
    }

    /// Makes the root that packages go to: a skeleton with a dpkg database.
    ///
    /// # Errors
    /// When the command fails.
    pub fn prepare_root(&self) -> Result<()> {
        let root = self.root();
        self.ok(["root".as_ref(), "prepare".as_ref(), root.as_os_str()]).map(drop)
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// When it runs already, ends, or does not answer.
    pub fn start(&self) -> Result<()> {
        self.start_daemon()?;
        let ready = eventually(READY, "the daemon answers", || match self.ended()? {
            Some(ending) => Ok(Err(ending)),
            None => self.ok(["node", "ls"]).map(Ok),
        });
        match ready {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(end)) => {
                bail!("{} ended at once: {}\n{}", self.name, end.words, self.log_tail(20))
            }
            Err(why) => Err(why.context(self.log_tail(20))),
        }
    }

    /// Starts the daemon without waiting.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start_daemon(&self) -> Result<()> {
        if self.ended()?.is_none() && self.pid().is_ok() {
            bail!("the daemon of {} runs already", self.name);
        }
        let exec = self.daemon();
        let mut log = self.open_log()?;
        writeln!(log, "--- {}", exec.shown()).context("cannot write to the log")?;
        let child = exec
            .command()?
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            // A Ctrl-C meant for this program is not for the daemons of a lab that stays.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the daemon of {}", self.name))?;
        let file = pid_file(&self.lab, self.host.index);
        fs::write(&file, child.id().to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        self.state().daemon = Some(Daemon::of(child));
        Ok(())
    }

    /// The daemon as it would be started.
    #[must_use]
    pub fn daemon(&self) -> Exec {
        let args = self.state().args.clone();
        self.exec(&self.bins.daemon)
            .arg("--data-dir")
            .arg(self.data())
            .arg("--root")
            .arg(self.root())
            .args(args)
    }

    /// The number of the running daemon.
    ///
    /// # Errors
    /// When none was started.
    pub fn pid(&self) -> Result<u32> {
        self.with_daemon(|d| Ok(d.pid()))
    }

    /// How the daemon ended by itself; nothing while it runs or when none was started.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn ended(&self) -> Result<Option<Ending>> {
        let mut state = self.state();
        let ending = match state.daemon.as_mut() {
            Some(daemon) => daemon.ended()?,
            None => None,
        };
        if ending.is_some() {
            state.daemon = None;
        }
        Ok(ending)
    }

    /// Asks the daemon to end (SIGTERM) and waits until it has, cleanly.
    ///
    /// # Errors
    /// When it does not, or ends with a failure.
    pub fn stop(&self) -> Result<()> {
        self.with_daemon(Daemon::stop).with_context(|| self.log_tail(20))?;
        self.state().daemon = None;
        Ok(())
    }

    /// Kills the daemon (SIGKILL): as if the power failed, except that the kernel lives on.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill(&self) -> Result<()> {
        self.with_daemon(Daemon::kill)?;
        self.state().daemon = None;
        Ok(())
    }

    /// Freezes the daemon (SIGSTOP): it hangs, but its connections stay.
    ///
    /// # Errors
    /// When none runs.
    pub fn freeze(&self) -> Result<()> {
        self.with_daemon(|d| d.freeze())
    }

    /// Lets a frozen daemon go on.
    ///
    /// # Errors
    /// When none runs.
    pub fn thaw(&self) -> Result<()> {
        self.with_daemon(|d| d.thaw())
    }

    /// Bytes that have come in by its cable, whether the daemon runs or not.
    ///
    /// # Errors
    /// When its namespace does not say.
    pub fn received(&self) -> Result<u64> {
        self.interface_counter(0)
    }

    /// Bytes that have left by its cable, whether the daemon runs or not.
    ///
    /// # Errors
    /// When its namespace does not say.
    pub fn sent(&self) -> Result<u64> {
        self.interface_counter(8)
    }

    /// A column of `/proc/net/dev` (proc(5)): bytes received are column 0, bytes sent column 8.
    fn interface_counter(&self, column: usize) -> Result<u64> {
        let table = self.exec("cat").arg("/proc/net/dev").run()?.ok()?.stdout;
        let line = table.lines().find_map(|l| l.trim().strip_prefix("eth0:")).context("no eth0")?;
        let word = line.split_whitespace().nth(column).context("no number")?;
        word.parse().with_context(|| format!("`{word}` is no number"))
    }

    /// All that the daemon has said.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The last lines of the log, under a heading.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let skip = text.lines().count().saturating_sub(lines);
        let tail: Vec<&str> = text.lines().skip(skip).collect();
        format!("==> log of {} <==\n{}\n", self.name, tail.join("\n"))
    }

    fn with_daemon<T>(&self, work: impl FnOnce(&mut Daemon) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        let daemon = state.daemon.as_mut();
        let daemon = daemon.with_context(|| format!("the daemon of {} does not run", self.name))?;
        work(daemon).with_context(|| format!("the daemon of {}", self.name))
    }

    fn open_log(&self) -> Result<File> {
        let log = self.log();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
