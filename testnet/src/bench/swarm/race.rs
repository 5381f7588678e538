//! One rival brings one file from the first host to all others.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::crew::{Crew, Number};
use super::method::Method;
use super::outcome::{Busy, Outcome, Sums};
use super::wire::Wire;
use super::{nginx, rsync, torrent, udpcast};
use crate::bench::now_ms;
use crate::lab::Lab;
use crate::net::Host;

/// How often is looked who is done: the resolution of the times.
const LOOK: Duration = Duration::from_millis(20);
/// How often memory is looked at, in looks.
const MEMORY: u32 = 15;

/// What a rival works with.
pub(super) struct Race<'a> {
    /// The hosts; the first one has the file.
    pub(super) hosts: &'a [Host],
    /// Where it may write.
    pub(super) dir: PathBuf,
    /// The file.
    pub(super) source: &'a Path,
    /// Its processes.
    pub(super) crew: Crew,
}

/// How the end of a host's client is seen.
pub(super) enum Finish {
    /// Its process ends.
    End(Number),
    /// It writes the time, in seconds since 1970, into a file.
    Mark(PathBuf),
}

impl Race<'_> {
    /// The hosts that are to get the file.
    pub(super) fn receivers(&self) -> &[Host] {
        self.hosts.get(1..).unwrap_or_default()
    }

    /// The host that has the file.
    pub(super) fn publisher(&self) -> Result<&Host> {
        self.hosts.first().context("a lab without hosts")
    }

    /// The file's name.
    pub(super) fn file(&self) -> String {
        self.source.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// A host's directory.
    pub(super) fn home(&self, host: &Host) -> PathBuf {
        self.dir.join(format!("h{}", host.index))
    }

    /// Where a host's copy is to be.
    pub(super) fn copy(&self, host: &Host) -> PathBuf {
        self.home(host).join(self.file())
    }

    /// The file in the publisher's directory, as another name of the same bytes.
    pub(super) fn offer(&self) -> Result<PathBuf> {
        let to = self.copy(self.publisher()?);
        fs::hard_link(self.source, &to).with_context(|| {
            format!("cannot link {} to {}", self.source.display(), to.display())
        })?;
        Ok(to)
    }

    /// Writes a file of settings.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// Starts what has to be there before the clients, and waits until it may be.
    pub(super) fn serve(
        &mut self,
        name: &str,
        exec: &crate::exec::Exec,
        wait: Duration,
    ) -> Result<()> {
        let number = self.crew.start(name, exec)?;
        thread::sleep(wait);
        self.crew.runs(number)
    }

    /// When each client was done, in milliseconds since 1970.
    fn wait(&mut self, clients: &[Finish], limit: Duration) -> Result<Vec<u64>> {
        let begun = now_ms()?;
        let mut done: Vec<Option<u64>> = vec![None; clients.len()];
        let mut looks: u32 = 0;
        while done.iter().any(Option::is_none) {
            let now = now_ms()?;
            let missing = done.iter().filter(|d| d.is_none()).count();
            ensure!(
                now.saturating_sub(begun) < u64::try_from(limit.as_millis())?,
                "{missing} of {} were not done within {} s",
                clients.len(),
                limit.as_secs()
            );
            for (done, client) in done.iter_mut().zip(clients).filter(|(d, _)| d.is_none()) {
                match client {
                    Finish::End(number) if self.crew.ended(*number) => {
                        self.crew.succeeded(*number)?;
                        *done = Some(now);
                    }
                    Finish::Mark(file) => *done = read_mark(file),
                    Finish::End(_) => {}
                }
            }
            if looks.is_multiple_of(MEMORY) {
                self.crew.look();
            }
            looks = looks.wrapping_add(1);
            thread::sleep(LOOK);
        }
        Ok(done.into_iter().flatten().collect())
    }
}

/// The time that `date +%s.%N` or the like wrote.
fn read_mark(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    // Half a line may have been written.
    let seconds: f64 = text.strip_suffix('\n')?.trim().parse().ok()?;
    (seconds > 0.0).then_some((seconds * 1000.0) as u64)
}

/// Runs a rival once. Every copy is checked against the hash.
pub(super) fn run(
    lab: &Lab,
    method: Method,
    source: &Path,
    hash: &blake3::Hash,
    limit: Duration,
) -> Result<Outcome> {
    let dir = lab.dir().join("race");
    let mut race =
        Race { hosts: lab.network().hosts(), crew: Crew::new(&dir)?, dir: dir.clone(), source };
    for host in race.hosts {
        let home = race.home(host);
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    }
    let outcome = play(lab, method, &mut race, hash, limit);
    race.crew.end()?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    outcome
}

fn play(
    lab: &Lab,
    method: Method,
    race: &mut Race<'_>,
    hash: &blake3::Hash,
    limit: Duration,
) -> Result<Outcome> {
    type Start = fn(&mut Race<'_>) -> Result<Vec<Finish>>;
    let start: Start = match method {
        Method::Nginx => {
            nginx::serve(race)?;
            nginx::start
        }
        Method::Rsync => {
            rsync::serve(race)?;
            rsync::start
        }
        Method::Aria2 => {
            torrent::serve(race, torrent::Client::Aria2)?;
            |race| torrent::start(race, torrent::Client::Aria2)
        }
        Method::Libtorrent => {
            torrent::serve(race, torrent::Client::Libtorrent)?;
            |race| torrent::start(race, torrent::Client::Libtorrent)
        }
        Method::Udpcast => udpcast::start,
        Method::P2pinst => bail!("p2pinst is no rival of itself"),
    };
    let wire = Wire::read(lab)?;
    let (cpu, busy, begun) = (race.crew.cpu(), Busy::now()?, now_ms()?);
    let clients = start(race)?;
    let done = race.wait(&clients, limit)?;
    race.crew.look();
    let sums = Sums {
        cpu: race.crew.cpu() - cpu,
        busy: busy.seconds_since()?,
        peak: race.crew.peak(),
        wire: wire.map(|before| Wire::read(lab).map(|w| w.unwrap_or_default().since(&before))),
    };
    for host in race.receivers() {
        super::check(&race.copy(host), hash)?;
    }
    Outcome::new(begun, &done, sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_when_it_is_whole() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("mark");
        assert_eq!(read_mark(&file), None);
        fs::write(&file, "1795191578.27").unwrap();
        assert_eq!(read_mark(&file), None);
        fs::write(&file, "1795191578.277123456\n").unwrap();
        assert_eq!(read_mark(&file), Some(1_795_191_578_277));
    }
}
