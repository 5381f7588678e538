//! The system's own programs (package managers, disk tools), started in a clean environment, with bounded output and time.
//!
//! What a long run says goes to a file, never to a pipe: when the node is killed, a package manager goes
//! on undisturbed, and a service that a script leaves behind cannot keep the node waiting.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt as _};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// Where managers and their scripts look for programs: a service's own PATH often lacks `sbin`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of a manager's output is kept: enough for its last words, little enough for a cell.
pub const TAIL: u64 = 2048;
/// Between the request to end and the kill, when a script has overrun its time.
const GRACE: Duration = Duration::from_secs(5);
/// What a tool may say on its standard error, beyond which it is dropped.
const STDERR_MAX: u64 = 4096;

/// How a package manager ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was ended because it took longer than allowed.
    TimedOut,
}

impl Exit {
    fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or(0)),
        }
    }

    /// The exit code, when there is one.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(_) | Self::TimedOut => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::TimedOut => f.write_str("was ended because it took too long"),
        }
    }
}

/// A program with nothing of this process's environment but what programs need.
pub fn clean(program: &str) -> Command {
    let mut command = Command::new(find(program));
    command
        .arg0(program)
        .env_clear()
        .envs([("PATH", PATH), ("LC_ALL", "C"), ("HOME", "/root")])
        .stdin(Stdio::null())
        .current_dir("/");
    command
}

/// Whether a program is here: one that is not cannot be run.
#[must_use]
pub fn has(program: &str) -> bool {
    find(program).is_absolute()
}

/// Where a program is; its name when it is nowhere, and starting it says so. A program that is named by
/// its path is spawned; to look for one in a PATH that is not its own the standard library forks,
/// and the page tables of a node are a lot to copy for each of many small packages.
fn find(program: &str) -> PathBuf {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let found = PATH.split(':').map(|dir| Path::new(dir).join(program)).find(is_program);
    found.unwrap_or_else(|| program.into())
}

/// What a tool said.
#[derive(Debug)]
pub struct Said {
    /// Whether its exit code was 0.
    pub success: bool,
    /// Its exit code; none of one that a signal has ended.
    pub code: Option<i32>,
    /// What it wrote to its standard output, whole.
    pub stdout: Vec<u8>,
    /// The beginning of what it wrote to its standard error, as text for people.
    pub stderr: String,
}

/// Runs a short tool and takes at most `max` bytes of its output; more is an error.
///
/// # Errors
/// When it cannot be started, or says more.
pub fn ask(command: Command, max: u64) -> io::Result<Said> {
    listen(command.spawning(Stdio::null())?, &[], max, None)
}

/// Runs a tool in a process group of its own, gives it `input`, takes at most `max` bytes of its output, and
/// ends the whole group after `limit`.
///
/// # Errors
/// When it cannot be started, says more, or takes longer ([`io::ErrorKind::TimedOut`]).
pub fn ask_within(
    mut command: Command,
    input: &[u8],
    max: u64,
    limit: Duration,
) -> io::Result<Said> {
    command.process_group(0);
    listen(command.spawning(Stdio::piped())?, input, max, Some(limit))
}

/// Starting with pipes at both outputs.
trait Spawning {
    fn spawning(self, stdin: Stdio) -> io::Result<Child>;
}

impl Spawning for Command {
    fn spawning(mut self, stdin: Stdio) -> io::Result<Child> {
        self.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

fn listen(mut child: Child, input: &[u8], max: u64, limit: Option<Duration>) -> io::Result<Said> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let errors = move || {
        let mut said = Vec::new();
        if let Some(mut pipe) = stderr {
            // an unreadable end of an error message is no error of its own
            let _end = pipe.by_ref().take(STDERR_MAX).read_to_end(&mut said);
            let _rest = io::copy(&mut pipe, &mut io::sink());
        }
        text(&said)
    };
    thread::scope(|scope| {
        let stderr = scope.spawn(errors);
        // a tool that does not read all of its input says itself what it wanted
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        let watch = scope.spawn(move || match (limit, pid) {
            (Some(limit), Some(pid)) => {
                let in_time = ends_within(&pidfd_open(pid, PidfdFlags::empty())?, limit)?;
                if !in_time {
                    ignore_gone(kill_process_group(pid, Signal::KILL))?;
                }
                Ok(in_time)
            }
            _ => Ok(true),
        });
        let mut stdout = Vec::new();
        let mut read = Ok(0);
        if let Some(pipe) = child.stdout.take() {
            read = pipe.take(max.saturating_add(1)).read_to_end(&mut stdout);
        }
        let too_long = stdout.len() as u64 > max;
        if read.is_err() || too_long {
            child.kill()?;
        }
        // before it is waited for, so that its number cannot belong to another
        let in_time: io::Result<bool> = watch.join().unwrap_or(Ok(true));
        let status = child.wait()?;
        if !in_time? {
            let reason = format!("it took longer than {} s", limit.unwrap_or_default().as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        read?;
        if too_long {
            let reason = format!("it says more than {max} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        let stderr = stderr.join().unwrap_or_default();
        Ok(Said { success: status.success(), code: status.code(), stdout, stderr })
    })
}

/// How a manager's run ended, and its last words.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// The end of its output, as text for people.
    pub tail: String,
    /// How long it ran.
    pub took: Duration,
}

/// Runs a manager in a process group of its own, its output in the file `output`, which is
/// begun anew. After `limit` the whole group is ended.
///
/// # Errors
/// When the program cannot be started or waited for, or the file cannot be written.
pub fn run(mut command: Command, output: &Path, limit: Option<Duration>) -> io::Result<Finished> {
    let started = Instant::now();
    let file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o640).open(output)?;
    // both ends append, so that neither overwrites the other's words
    let append = OpenOptions::new().append(true).open(output)?;
    drop(file);
    let mut child = command.process_group(0).stdout(append.try_clone()?).stderr(append).spawn()?;
    let exit = wait(&mut child, limit)?;
    Ok(Finished { exit, tail: tail(output)?, took: started.elapsed() })
}

/// Waits for the child, and ends its group when the time is over.
fn wait(child: &mut Child, limit: Option<Duration>) -> io::Result<Exit> {
    let Some(limit) = limit else {
        return child.wait().map(Exit::of);
    };
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return child.wait().map(Exit::of);
    };
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    if ends_within(&handle, limit)? {
        return child.wait().map(Exit::of);
    }
    // The leader first: the manager takes the end of its script for a failure, which it records.
    // Until the leader is waited for, its number and so the group's cannot belong to another.
    ignore_gone(kill_process_group(pid, Signal::TERM))?;
    if !ends_within(&handle, GRACE)? {
        ignore_gone(kill_process(pid, Signal::KILL))?;
    }
    ignore_gone(kill_process_group(pid, Signal::KILL))?;
    child.wait()?;
    Ok(Exit::TimedOut)
}

fn ends_within(pidfd: &impl std::os::fd::AsFd, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn ignore_gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The last words in a file.
///
/// # Errors
/// When the file cannot be read.
pub fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let mut tail = text(&bytes);
    // bytes that are no text have become longer
    let surplus = tail.len().saturating_sub(bytes.len());
    let start = (surplus..tail.len()).find(|i| tail.is_char_boundary(*i));
    tail.drain(..start.unwrap_or(tail.len()));
    Ok(tail)
}

/// Text for people out of any bytes: no control characters that a terminal would obey.
pub fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean: String =
        text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    clean.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = clean("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_bounded_and_clean() {
        let said = ask(shell("printf '\\033[31mred'; echo bad >&2; exit 3"), 100).unwrap();
        assert!(!said.success);
        assert_eq!((text(&said.stdout).as_str(), said.stderr.as_str()), ("[31mred", "bad"));
        assert!(ask(shell("cat /dev/zero"), 1000).is_err());
        let flood = ask(shell("head -c 300000 /dev/zero | tr '\\0' x >&2; echo ok"), 100).unwrap();
        assert_eq!((flood.stdout.as_slice(), flood.stderr.len()), (&b"ok\n"[..], 4096));
    }

    #[test]
    fn what_is_asked_with_input_ends_in_time() {
        let second = Duration::from_secs(60);
        let said = ask_within(shell("tr a b"), &[b'a'; 200_000], 300_000, second).unwrap();
        assert!(said.success && said.stdout == [b'b'; 200_000]);
        assert!(ask_within(shell("true"), &[b'a'; 200_000], 10, second).unwrap().success);
        assert!(ask_within(shell("cat /dev/zero"), b"", 1000, second).is_err());
        // both sleepers hold the pipes: both are ended
        let late = shell("sleep 1000 & sleep 1000");
        let error = ask_within(late, b"", 10, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }

    #[test]
    fn programs_are_named_by_their_path() {
        assert!(Path::new(clean("sh").get_program()).is_absolute());
        let said = ask(shell("echo $0"), 100).unwrap();
        assert_eq!(text(&said.stdout).trim(), "sh", "and called by their name");
        let none = ask(clean("no-such-program"), 100).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        assert!(ask(clean("/bin/sh"), 100).unwrap().success, "a path is a path");
    }

    #[test]
    fn the_environment_is_clean() {
        let said = ask(shell("env"), 10_000).unwrap();
        let env = text(&said.stdout);
        assert!(env.contains("LC_ALL=C") && env.contains("/usr/sbin"), "{env}");
        assert!(!env.contains("CARGO"), "{env}");
    }

    #[test]
    fn the_last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo end >&2; kill -9 $$";
        let ended = run(shell(script), &out, None).unwrap();
        assert_eq!(ended.exit, Exit::Signal(9));
        assert!(ended.tail.ends_with("line 2999\nend"), "{}", ended.tail);
        assert!(ended.tail.len() <= 2048);
        let noise = run(shell("head -c 5000 /dev/zero | tr '\\0' '\\377'"), &out, None).unwrap();
        assert!((2000..=2048).contains(&noise.tail.len()), "{}", noise.tail.len());
        let again = run(shell("echo anew"), &out, Some(Duration::from_secs(60))).unwrap();
        assert_eq!((again.exit, again.tail.as_str()), (Exit::Code(0), "anew"));
    }

    #[test]
    fn who_overruns_is_ended_with_all_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        // both wait for a pipe that nobody ever writes to; the child ignores the request to end
        let script = "echo $$; sh -c 'trap \"\" TERM; read x <\"$0\"' \"$0\" & read y <\"$0\"";
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let mut command = shell(script);
        command.arg(&fifo);
        let ended = run(command, &out, Some(Duration::from_millis(300))).unwrap();
        assert_eq!(ended.exit, Exit::TimedOut);
        let group: i32 = ended.tail.trim().parse().unwrap();
        let group = Pid::from_raw(group).unwrap();
        // killed processes are gone once their new parent has waited for them
        let deadline = Instant::now() + Duration::from_secs(30);
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < deadline, "the group {group:?} still lives");
            thread::yield_now();
        }
    }
}
