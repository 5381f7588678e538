//! Runs a command to its end, with a deadline, and keeps what it said.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

/// How long a command may take unless told otherwise: generous, so that only a hang exceeds it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A command that is about to run.
#[derive(Debug, Clone)]
pub struct Exec {
    words: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Exec {
    /// This program, found on the path unless it names a file.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { words: vec![program.into()], envs: Vec::new(), stdin: Vec::new(), limit: LIMIT }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.words.push(arg.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// A variable of the environment.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// What the command reads; nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = text.into();
        self
    }

    /// The time after which the command is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The program and its arguments.
    #[must_use]
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// The command as one would type it.
    #[must_use]
    pub fn shown(&self) -> String {
        self.words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// The command for the standard library, without its streams.
    ///
    /// # Errors
    /// When there is no program in it.
    pub fn command(&self) -> Result<Command> {
        let (program, args) = self.words.split_first().context("a command without a program")?;
        let mut command = Command::new(program);
        command.args(args).envs(self.envs.iter().map(|(k, v)| (k, v)));
        Ok(command)
    }

    /// Starts the command with its output kept for [`Running::finish`].
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(self) -> Result<Running> {
        let shown = self.shown();
        let started = Instant::now();
        let mut child = self
            .command()?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`: is the program installed?"))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A command that refuses its arguments ends without reading; that is its answer.
            pipe.write_all(&self.stdin).ok();
        }
        Ok(Running { child, shown, started, limit: self.limit })
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// When it cannot be started, or is not done within its limit; a command that fails is not an
    /// error here, see [`Done::ok`].
    pub fn run(self) -> Result<Done> {
        self.start()?.finish()
    }
}

/// A command at work.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    started: Instant,
    limit: Duration,
}

impl Running {
    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the command.
    ///
    /// # Errors
    /// When it is not done within its limit; it is then killed.
    pub fn finish(self) -> Result<Done> {
        let Self { child, shown, started, limit } = self;
        let pid = child.id();
        let (tx, rx) = mpsc::sync_channel(1);
        let waiter = thread::spawn(move || tx.send(child.wait_with_output()).ok());
        let output = match rx.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(output) => output.with_context(|| format!("cannot wait for `{shown}`"))?,
            Err(_) => {
                signal(pid, "KILL")?;
                waiter.join().ok();
                bail!("`{shown}` was not done within {limit:?} and was killed")
            }
        };
        Ok(Done {
            shown,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: started.elapsed(),
        })
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// The command as one would type it.
    pub shown: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed as data.
    pub stdout: String,
    /// What it said in words.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Done {
    /// The command, if it succeeded.
    ///
    /// # Errors
    /// When it failed, with all that it said.
    pub fn ok(self) -> Result<Self> {
        if self.code == Some(0) {
            return Ok(self);
        }
        bail!("{self}")
    }

    /// The command, if it failed with this code.
    ///
    /// # Errors
    /// When it ended in any other way.
    pub fn fails_with(self, code: i32) -> Result<Self> {
        if self.code == Some(code) {
            return Ok(self);
        }
        bail!("exit code {code} was expected: {self}")
    }

    /// The data that the command printed.
    ///
    /// # Errors
    /// When it is not JSON of that shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("`{}` did not print the expected JSON: {self}", self.shown))
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ", self.shown)?;
        match self.code {
            Some(code) => write!(f, "ended with code {code}")?,
            None => f.write_str("was ended by a signal")?,
        }
        for (what, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                f.write_char('\n')?;
                write!(f, "  {what}: {}", text.trim().replace('\n', "\n          "))?;
            }
        }
        Ok(())
    }
}

/// Runs a command that must succeed, and returns what it printed.
///
/// # Errors
/// When it cannot be started, hangs, or fails.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    Ok(Exec::new(program).args(args).run()?.ok()?.stdout)
}

/// Sends a signal to a process; a process that is gone is no error.
///
/// # Errors
/// When `kill` itself cannot be started.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    Exec::new("kill").args(["-s", name, "--"]).arg(pid.to_string()).run()?;
    Ok(())
}

/// Whether a process runs: it exists and is no zombie.
#[must_use]
pub fn alive(pid: u32) -> bool {
    process_state(pid).is_some_and(|s| s != 'Z' && s != 'X')
}

/// The state letter of a process, as `ps` shows it; none if there is no such process.
#[must_use]
pub fn process_state(pid: u32) -> Option<char> {
    stat_fields(pid)?.first()?.chars().next()
}

/// When a process started, in clock ticks since boot: with the pid, it names a process for ever.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// `/proc/PID/stat` from the third field on: the second may contain anything.
pub(crate) fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}
