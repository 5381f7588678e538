//! Files that are taken in from the web: from one URL, from several mirrors at once, or by a Metalink.
//!
//! Done by the command line, so that the node needs no way out and speaks no HTTP. Each mirror sends parts on two connections;
//! who fails, or sends what does not hash to what was said, is left out. Nothing of what the mirrors sent is
//! kept unless the whole is what it should be.

mod http;
mod metalink;
mod plan;
mod sum;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use p2pinst_files::Context as _;
use p2pinst_types::limits;
use tempfile::NamedTempFile;

use self::http::{Http, Offer};
use self::plan::{Next, Plan};
pub(crate) use self::sum::Sum;
use crate::error::CliError;
use crate::format;

/// Mirrors of one file that are looked at.
const MIRRORS: usize = 16;
/// Connections to each.
const CONNECTIONS: usize = 2;
/// Asked for at a time, where a Metalink does not say otherwise.
const PART: u64 = 4 << 20;
/// How long a mirror waits that has nothing to do now.
const PAUSE: Duration = Duration::from_millis(50);

/// A file of the web.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name, for people.
    pub(crate) name: String,
    /// Its length in bytes.
    size: Option<u64>,
    sha256: Option<Sum>,
    pieces: Option<Pieces>,
    /// Where it is, best first.
    urls: Vec<String>,
}

/// Sums of a file's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pieces {
    /// Length of each but the last, in bytes.
    length: u64,
    hashes: Vec<Sum>,
}

/// What a mirror did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Gave {
    /// The mirror.
    pub(crate) url: String,
    /// What it sent that was used.
    pub(crate) bytes: u64,
    /// Why it failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// A file that was downloaded; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Downloaded {
    file: NamedTempFile,
    /// What each mirror did, in the order in which they were named.
    pub(crate) mirrors: Vec<Gave>,
    /// Whether there was a sum for it.
    pub(crate) vouched: bool,
}

impl Downloaded {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Whether that names a file of the web, or a Metalink.
pub(crate) fn is_wanted(name: &str) -> bool {
    is_url(name) || metalink::is_named(name)
}

fn is_url(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.starts_with("http://") || lower.starts_with("https://")
}

/// Finds out what is wanted: reads the Metalink, if it is one.
pub(crate) fn wanted(names: &[String], sha256: Option<Sum>) -> Result<Wanted, CliError> {
    let mut wanted = match names {
        [name] if metalink::is_named(name) => read_metalink(name)?,
        names => {
            if let Some(odd) = names.iter().find(|n| !is_url(n) || metalink::is_named(n)) {
                return Err(CliError::usage(format!("{odd} is not the URL of a mirror"))
                    .hint("name one file, one Metalink, or the URLs of one file"));
            }
            let first = names.first().map_or("", String::as_str);
            let path = first.split(['?', '#']).next().unwrap_or_default();
            let name = path.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or(first);
            Wanted {
                name: name.to_owned(),
                size: None,
                sha256: None,
                pieces: None,
                urls: names.to_vec(),
            }
        }
    };
    if let (Some(said), Some(asked)) = (wanted.sha256, sha256)
        && said != asked
    {
        return Err(CliError::failed(format!("the Metalink is of another file: SHA-256 {said}")));
    }
    wanted.sha256 = wanted.sha256.or(sha256);
    if names.len() > 1 && wanted.sha256.is_none() {
        return Err(CliError::usage("several mirrors, and nothing says what the file is")
            .hint("give its sum: --sha256"));
    }
    let all = wanted.urls.len();
    wanted.urls.retain(|u| is_url(u));
    wanted.urls.truncate(MIRRORS);
    if wanted.urls.is_empty() {
        return Err(CliError::failed(format!("none of its {all} URLs is http or https")));
    }
    if wanted.size.is_some_and(|s| s > limits::BLOB) {
        return Err(too_long(wanted.size));
    }
    Ok(wanted)
}

fn too_long(size: Option<u64>) -> CliError {
    let size = format::size(size.unwrap_or(u64::MAX));
    CliError::failed(format!(
        "{size} is more than a file may have ({})",
        format::size(limits::BLOB)
    ))
}

fn read_metalink(name: &str) -> Result<Wanted, CliError> {
    let mut text = String::new();
    let failed = |why: String| CliError::failed(format!("cannot read the Metalink {name}: {why}"));
    let read = if is_url(name) {
        let reader = Http::new().whole(name).map_err(failed)?;
        reader.take(metalink::MAX + 1).read_to_string(&mut text)
    } else {
        let file = File::open(name).context("read", Path::new(name))?;
        file.take(metalink::MAX + 1).read_to_string(&mut text)
    };
    read.map_err(|e| failed(e.to_string()))?;
    if text.len() as u64 > metalink::MAX {
        return Err(failed(format!("it is longer than {}", format::size(metalink::MAX))));
    }
    metalink::parse(&text, name)
}

/// Downloads it into a directory, to be dropped there. Ends early when `stop` is set.
pub(crate) fn download(
    wanted: &Wanted,
    dir: &Path,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> Result<Downloaded, CliError> {
    let http = Http::new();
    let offers = look_at(&http, &wanted.urls);
    let len = wanted.size.or_else(|| agreed(&offers));
    let ranged = offers.iter().any(|o| usable(o, len).is_ok_and(|o| o.ranges));
    let mut file = tempfile::Builder::new()
        .prefix(".p2pinst-")
        .tempfile_in(dir)
        .context("create a file in", dir)?;
    let mirrors = match len {
        Some(len) if len > limits::BLOB => return Err(too_long(Some(len))),
        Some(len) if ranged => {
            file.as_file().set_len(len).context("make room in", file.path())?;
            bar.set_length(len);
            let run = Run { http: &http, wanted, file: file.as_file(), len, bar, stop };
            run.in_parts(&offers)?
        }
        len => {
            bar.set_length(len.unwrap_or_default());
            whole(&http, wanted, &offers, len, file.as_file_mut(), bar, stop)?
        }
    };
    if let Some(sum) = wanted.sha256 {
        bar.set_message("checking");
        file.seek(SeekFrom::Start(0)).context("read", file.path())?;
        let found = Sum::of_all(file.as_file_mut()).context("read", file.path())?;
        if found != sum {
            return Err(unlike(wanted, &format!("SHA-256 {found} instead of {sum}"), &mirrors));
        }
    }
    Ok(Downloaded { file, mirrors, vouched: wanted.sha256.is_some() })
}

/// What each mirror has; all are asked at once.
fn look_at(http: &Http, urls: &[String]) -> Vec<Result<Offer, String>> {
    std::thread::scope(|scope| {
        let looks: Vec<_> = urls.iter().map(|u| scope.spawn(|| http.look(u))).collect();
        let looked = looks.into_iter().map(|l| l.join());
        looked.map(|o| o.unwrap_or_else(|_| Err("it could not be asked".to_owned()))).collect()
    })
}

/// The length that most mirrors say; of equals that of the one named first.
fn agreed(offers: &[Result<Offer, String>]) -> Option<u64> {
    let lens: Vec<u64> = offers.iter().flatten().filter_map(|o| o.len).collect();
    let votes = |len: &u64| lens.iter().filter(|l| *l == len).count();
    lens.iter().copied().rev().max_by_key(votes)
}

/// A mirror's offer, if it is of a file of that length.
fn usable(offer: &Result<Offer, String>, len: Option<u64>) -> Result<Offer, String> {
    let offer = offer.clone()?;
    match (offer.len, len) {
        (Some(has), Some(len)) if has != len => {
            Err(format!("its file has {has} bytes and not {len}"))
        }
        _ => Ok(offer),
    }
}

fn failed(wanted: &Wanted, why: &str, mirrors: &[Gave]) -> CliError {
    let mut error = CliError::failed(format!("cannot download {}: {why}", wanted.name));
    for mirror in mirrors {
        if let Some(reason) = &mirror.failed {
            error = error.hint(format!("{}: {reason}", mirror.url));
        }
    }
    error
}

fn unlike(wanted: &Wanted, why: &str, mirrors: &[Gave]) -> CliError {
    let gave: Vec<&str> = mirrors.iter().filter(|m| m.bytes > 0).map(|m| m.url.as_str()).collect();
    CliError::failed(format!("what the mirrors sent is not {}: {why}", wanted.name))
        .hint(format!("it came from {}: leave one out, or check the sum", gave.join(", ")))
}

fn interrupted() -> CliError {
    CliError::failed("interrupted")
}

/// A download in parts.
struct Run<'a> {
    http: &'a Http,
    wanted: &'a Wanted,
    file: &'a File,
    len: u64,
    bar: &'a ProgressBar,
    stop: &'a AtomicBool,
}

impl Run<'_> {
    fn in_parts(&self, offers: &[Result<Offer, String>]) -> Result<Vec<Gave>, CliError> {
        let part = self.wanted.pieces.as_ref().map_or(PART, |p| p.length);
        let mut plan = Plan::new(self.len, part, offers.len());
        for (mirror, offer) in offers.iter().enumerate() {
            match usable(offer, Some(self.len)) {
                Ok(offer) if offer.ranges => {}
                Ok(_) => plan.refuse(mirror, "it sends no parts".to_owned()),
                Err(reason) => plan.refuse(mirror, reason),
            }
        }
        let plan = Mutex::new(plan);
        let disk: Mutex<Option<CliError>> = Mutex::default();
        let (parts, full) = (&plan, &disk);
        std::thread::scope(|scope| {
            for (mirror, url) in self.wanted.urls.iter().enumerate() {
                for _ in 0..CONNECTIONS {
                    scope.spawn(move || {
                        if let Err(error) = self.serve(mirror, url, parts) {
                            lock(full).get_or_insert(error);
                            self.stop.store(true, Ordering::Relaxed);
                        }
                    });
                }
            }
        });
        if let Some(error) = lock(&disk).take() {
            return Err(error);
        }
        let plan = lock(&plan);
        let outcome = self.wanted.urls.iter().zip(plan.outcome());
        let gave = outcome.map(|(url, (bytes, failed))| Gave { url: url.clone(), bytes, failed });
        let gave: Vec<Gave> = gave.collect();
        if plan.is_complete() {
            return Ok(gave);
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(interrupted());
        }
        Err(failed(self.wanted, "no mirror that is left has all of it", &gave))
    }

    /// One connection of a mirror.
    fn serve(&self, mirror: usize, url: &str, plan: &Mutex<Plan>) -> Result<(), CliError> {
        while !self.stop.load(Ordering::Relaxed) {
            let next = lock(plan).next(mirror);
            let part = match next {
                Next::Part(part) => part,
                Next::Wait => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Next::Stop => break,
            };
            let range = lock(plan).range(part);
            match self.fetch(url, part, range.clone()) {
                Err(reason) => lock(plan).failed(mirror, part, reason),
                Ok(bytes) => {
                    if lock(plan).is_here(part) {
                        continue; // the other was faster
                    }
                    self.file.write_all_at(&bytes, range.start).map_err(|e| {
                        CliError::failed(format!("cannot write {}: {e}", self.wanted.name))
                            .hint("is there room? --temp names another directory")
                    })?;
                    if lock(plan).done(mirror, part) {
                        self.bar.inc(bytes.len() as u64);
                    }
                }
            }
        }
        Ok(())
    }

    fn fetch(
        &self,
        url: &str,
        part: usize,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, String> {
        let bytes = self.http.range(url, range, self.len)?;
        let sum = self.wanted.pieces.as_ref().and_then(|p| p.hashes.get(part));
        match sum {
            Some(sum) if Sum::of(&bytes) != *sum => Err("what it sends is damaged".to_owned()),
            _ => Ok(bytes),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Downloads from one mirror after the other, where none sends parts.
fn whole(
    http: &Http,
    wanted: &Wanted,
    offers: &[Result<Offer, String>],
    len: Option<u64>,
    file: &mut File,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> Result<Vec<Gave>, CliError> {
    let mut gave: Vec<Gave> = Vec::new();
    for (url, offer) in wanted.urls.iter().zip(offers) {
        file.set_len(0).and_then(|()| file.rewind()).map_err(CliError::failed)?;
        bar.set_position(0);
        let copied = match usable(offer, len).and_then(|_| http.whole(url)) {
            Ok(reader) => copy(reader, len, file, bar, stop)?,
            Err(reason) => Err(reason),
        };
        let (bytes, failed) = match copied {
            Ok(bytes) => (bytes, None),
            Err(reason) => (0, Some(reason)),
        };
        let done = failed.is_none();
        gave.push(Gave { url: url.clone(), bytes, failed });
        if done {
            return Ok(gave);
        }
    }
    Err(failed(wanted, "no mirror has it", &gave))
}

fn copy(
    mut reader: impl Read,
    len: Option<u64>,
    file: &mut File,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> Result<Result<u64, String>, CliError> {
    let (mut buffer, mut seen) = (vec![0; 256 << 10], 0);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(interrupted());
        }
        let bytes = match reader.read(&mut buffer) {
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(e) => return Ok(Err(e.to_string())),
        };
        seen += bytes.len() as u64;
        if bytes.is_empty() || seen > len.unwrap_or(limits::BLOB) {
            break;
        }
        file.write_all(bytes).map_err(CliError::failed)?;
        bar.inc(bytes.len() as u64);
    }
    Ok(match len {
        Some(len) if seen != len => Err(format!("it sends {seen} bytes of {len}")),
        None if seen > limits::BLOB => Err("it does not stop".to_owned()),
        _ => Ok(seen),
    })
}

/// Where files are put for a while that are larger than memory.
pub(crate) fn temporary() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

#[cfg(test)]
mod tests;
