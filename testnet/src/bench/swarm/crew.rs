//! The processes of one method: started together, looked at, and ended together.
//!
//! None is waited for before the end, so that what ended stays to be looked at: `/proc` tells what
//! a zombie has used.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::exec::{Exec, process_state, signal, stat_fields};
use crate::stats::{cpu_seconds, peak_rss};
use crate::wait::eventually;

/// Killed processes are gone within this time.
const END: Duration = Duration::from_secs(10);

/// Some processes, each the leader of a group.
#[derive(Debug)]
pub(in crate::bench) struct Crew {
    dir: PathBuf,
    members: Vec<Member>,
    peak: u64,
}

#[derive(Debug)]
struct Member {
    name: String,
    shown: String,
    child: Child,
}

/// Which of the processes: by the order in which they were started.
pub(in crate::bench) type Number = usize;

impl Crew {
    /// Nobody yet; what they say goes into this directory.
    pub(in crate::bench) fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir: dir.to_path_buf(), members: Vec::new(), peak: 0 })
    }

    /// Starts one more.
    pub(in crate::bench) fn start(&mut self, name: &str, exec: &Exec) -> Result<Number> {
        let file = |kind: &str| {
            let path = self.said(name, kind);
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))
        };
        let child = exec
            .command()?
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(file("out")?)
            .stderr(file("err")?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{}`", exec.shown()))?;
        self.members.push(Member { name: name.to_owned(), shown: exec.shown(), child });
        Ok(self.members.len() - 1)
    }

    /// All of them.
    pub(in crate::bench) fn numbers(&self) -> std::ops::Range<Number> {
        0..self.members.len()
    }

    /// Whether one has ended.
    pub(in crate::bench) fn ended(&self, number: Number) -> bool {
        let pid = self.members.get(number).map(|m| m.child.id());
        !matches!(pid.and_then(process_state), Some(state) if state != 'Z')
    }

    /// What one printed.
    pub(in crate::bench) fn stdout(&self, number: Number) -> String {
        let name = self.members.get(number).map_or("", |m| m.name.as_str());
        fs::read_to_string(self.said(name, "out")).unwrap_or_default()
    }

    /// What one said in words.
    pub(in crate::bench) fn stderr(&self, number: Number) -> String {
        let name = self.members.get(number).map_or("", |m| m.name.as_str());
        fs::read_to_string(self.said(name, "err")).unwrap_or_default()
    }

    /// Makes sure that one that has ended did so well. It stays to be looked at.
    pub(in crate::bench) fn succeeded(&self, number: Number) -> Result<()> {
        let member = self.members.get(number).context("no such process")?;
        // The last field: as `wait` would tell it, the exit code times 256 or a signal.
        let stat = stat_fields(member.child.id()).context("a process vanished")?;
        let status: i32 = stat.last().and_then(|f| f.parse().ok()).context("no exit code")?;
        if status == 0 {
            return Ok(());
        }
        let status = ExitStatus::from_raw(status);
        bail!("`{}` ended with {status}: {}", member.shown, self.last_words(&member.name))
    }

    /// Makes sure that one still runs.
    pub(in crate::bench) fn runs(&self, number: Number) -> Result<()> {
        if !self.ended(number) {
            return Ok(());
        }
        let member = self.members.get(number).context("no such process")?;
        bail!("`{}` ended at once: {}", member.shown, self.last_words(&member.name))
    }

    /// Processor seconds of all so far, and of all that they started.
    pub(in crate::bench) fn cpu(&self) -> f64 {
        self.processes().into_iter().filter_map(|pid| cpu_seconds(pid).ok()).sum()
    }

    /// Looks how much memory each has ever had; to be called often, since what ends is not seen.
    pub(in crate::bench) fn look(&mut self) {
        let now = self.processes().into_iter().filter_map(|pid| peak_rss(pid).ok()).max();
        self.peak = self.peak.max(now.unwrap_or(0));
    }

    /// The most resident memory that any of them was seen to have, in bytes.
    pub(in crate::bench) fn peak(&self) -> u64 {
        self.peak
    }

    /// Kills all that still runs, and waits until it is gone.
    pub(in crate::bench) fn end(&mut self) -> Result<()> {
        let pids: Vec<u32> = self.processes();
        for pid in &pids {
            signal(*pid, "KILL")?;
        }
        for member in &mut self.members {
            member.child.wait().context("cannot wait for a process")?;
        }
        self.members.clear();
        eventually(END, "all processes of a method are gone", || {
            match pids.iter().find(|p| crate::exec::alive(**p)) {
                Some(pid) => bail!("process {pid} is alive"),
                None => Ok(()),
            }
        })
    }

    /// All processes of the groups; zombies too.
    fn processes(&self) -> Vec<u32> {
        let leaders: Vec<u32> = self.members.iter().map(|m| m.child.id()).collect();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let group = |pid: &u32| stat_fields(*pid)?.get(2)?.parse::<u32>().ok();
        pids.filter(|pid| group(pid).is_some_and(|g| leaders.contains(&g))).collect()
    }

    fn said(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}.{kind}"))
    }

    fn last_words(&self, name: &str) -> String {
        let read = |kind| fs::read_to_string(self.said(name, kind)).unwrap_or_default();
        let text = read("out") + &read("err");
        let lines: Vec<&str> = text.lines().rev().take(6).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if let Err(why) = self.end() {
            eprintln!("processes of a benchmark may still run: {why:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_still_tells_what_it_used_and_how_it_ended() {
        let temp = tempfile::tempdir().unwrap();
        let mut crew = Crew::new(temp.path()).unwrap();
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo words; exit 3";
        let short = crew.start("short", &Exec::new("sh").args(["-c", busy])).unwrap();
        let nested = "sleep 1000 & wait";
        let long = crew.start("long", &Exec::new("sh").args(["-c", nested])).unwrap();
        eventually(Duration::from_secs(60), "the loop ends", || {
            crew.look();
            if crew.ended(short) { Ok(()) } else { bail!("it runs") }
        })
        .unwrap();
        assert!(crew.cpu() > 0.0);
        assert!(crew.peak() > 0);
        crew.runs(long).unwrap();
        assert_eq!(crew.stdout(short), "words\n");
        let why = crew.succeeded(short).unwrap_err().to_string();
        assert!(why.contains("exit status: 3"), "{why}");
        assert!(why.contains("words"), "{why}");
        let all = crew.processes();
        assert!(all.len() >= 2, "{all:?}");
        crew.end().unwrap();
        assert!(!all.iter().any(|p| crate::exec::alive(*p)));
    }
}
