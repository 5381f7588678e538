//! A delay line between two TAP devices, in place of netem, which the kernel may lack: every frame
//! that comes out of one goes into the other some time later. It limits no rates (tbf on the
//! devices does) and loses nothing but what no longer fits into [`FRAMES`].

use std::io;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tappers::{Interface, Tap};

use crate::bins;
use crate::exec::{Exec, run};
use crate::wait::eventually;

/// The subcommand of `testnet` that is a delay line.
pub const COMMAND: &str = "delay-line";

/// How many frames are on their way in one direction: 100 ms at 1.9 Gbit/s with full frames.
const FRAMES: usize = 16_384;
/// The longest frame: full Ethernet frames, since a TAP device takes no larger ones by itself.
const FRAME: usize = 2048;
/// The devices of a delay line that starts are there within this time.
const READY: Duration = Duration::from_secs(10);

/// A frame, and when it is due.
type Late = (Instant, Vec<u8>);

/// Makes two TAP devices in this namespace, and carries frames between them until the process
/// is killed.
///
/// # Errors
/// When a device cannot be made, or breaks.
pub fn carry(left: &str, right: &str, delay: Duration) -> Result<()> {
    let left = Arc::new(tap(left)?);
    let right = Arc::new(tap(right)?);
    let (to_right, from_left) = sync_channel(FRAMES);
    let (to_left, from_right) = sync_channel(FRAMES);
    // Whoever fails first ends the process, and with it the others.
    let (ended, end) = sync_channel(4);
    let work = |work: Box<dyn FnOnce() -> io::Result<()> + Send>| {
        let ended = ended.clone();
        thread::spawn(move || ended.send(work()).ok());
    };
    let (l, r) = (Arc::clone(&left), Arc::clone(&right));
    work(Box::new(move || take(&l, &to_right, delay)));
    work(Box::new(move || give(&r, &from_left)));
    work(Box::new(move || take(&right, &to_left, delay)));
    work(Box::new(move || give(&left, &from_right)));
    end.recv().context("nothing carries frames")?.context("the delay line is broken")
}

/// Starts a delay line as a process in a namespace, and waits until its devices are there.
pub(super) fn start(namespace: &str, left: &str, right: &str, delay: Duration) -> Result<Child> {
    let program = bins::testnet()?;
    let exec = Exec::new("ip").args(["netns", "exec", namespace]).arg(program).arg(COMMAND);
    let micros = delay.as_micros().to_string();
    let exec = exec.args([left, right, "--micros", &micros]);
    let mut child = exec
        .command()?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", exec.shown()))?;
    let there = |device: &str| run("ip", ["-n", namespace, "link", "show", device]).map(drop);
    eventually(READY, "the devices of a delay line", || {
        let ended = child.try_wait().context("cannot ask how it is")?;
        ensure!(ended.is_none(), "`{}` has ended", exec.shown());
        there(left)?;
        there(right)
    })?;
    Ok(child)
}

fn tap(name: &str) -> Result<Tap> {
    let cannot = || format!("cannot make the TAP device {name}: are you root?");
    let interface = Interface::new(name).with_context(cannot)?;
    Tap::new_named(interface).with_context(cannot)
}

fn take(from: &Tap, to: &SyncSender<Late>, delay: Duration) -> io::Result<()> {
    let mut buffer = [0; FRAME];
    loop {
        let length = match from.recv(&mut buffer) {
            Ok(length) => length,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(why) => return Err(why),
        };
        let due = Instant::now() + delay;
        let frame = buffer.get(..length).unwrap_or_default().to_vec();
        // What does not fit is lost, as on a real line.
        to.try_send((due, frame)).ok();
    }
}

fn give(to: &Tap, from: &Receiver<Late>) -> io::Result<()> {
    while let Ok((due, frame)) = from.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A frame for a device that is down is lost.
        to.send(&frame).ok();
    }
    Ok(())
}
