//! Programs that read from us or to whom we listen while they run: ended with their owner.

use std::io::{self, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a program may say on its standard error, beyond which it is dropped.
const SAID_MAX: u64 = 4096;

/// A program at work. Dropped before it has ended, it is killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    said: Option<JoinHandle<String>>,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    /// What it wrote to its standard error, as text for people.
    pub(crate) said: String,
}

impl Running {
    pub(crate) fn start(mut command: Command, stdin: Stdio, stdout: Stdio) -> io::Result<Self> {
        let mut child = command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).spawn()?;
        let pipe = child.stderr.take();
        let listen = move || {
            let mut said = Vec::new();
            if let Some(mut pipe) = pipe {
                // an unreadable end of an error message is no error of its own
                let _end = pipe.by_ref().take(SAID_MAX).read_to_end(&mut said);
                let _rest = io::copy(&mut pipe, &mut io::sink());
            }
            p2pinst_command::text(&said)
        };
        let mut running = Self { child, said: None };
        running.said = Some(thread::Builder::new().name("stderr".into()).spawn(listen)?);
        Ok(running)
    }

    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until it has ended; what was taken from it has to be dropped before.
    pub(crate) fn finish(mut self) -> io::Result<Ended> {
        drop(self.child.stdin.take());
        let success = self.child.wait()?.success();
        let said = self.said.take().map(|said| said.join().unwrap_or_default());
        Ok(Ended { success, said: said.unwrap_or_default() })
    }

    /// Waits until it has ended, and calls `look` meanwhile; when it is to stop, the program is killed.
    pub(crate) fn finish_watched(
        mut self,
        stop: &AtomicBool,
        mut look: impl FnMut(),
    ) -> io::Result<Option<Ended>> {
        while self.child.try_wait()?.is_none() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            look();
            thread::sleep(Duration::from_millis(50));
        }
        self.finish().map(Some)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // one that has ended already is neither killed nor waited for again
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// How far a long work is, and whether it is to end.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Called with the bytes done, and with all where they are known.
    pub progress: &'a dyn Fn(u64, Option<u64>),
    /// Set from elsewhere to end the work.
    pub stop: &'a AtomicBool,
}

impl Watch<'_> {
    /// Whether the work is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("stop", self.stop).finish_non_exhaustive()
    }
}
