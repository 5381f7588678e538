//! Files that are taken in from the web: from one URL, from several mirrors at once, or by a Metalink.
//!
//! Done by the command line, so that the node needs no way out and speaks no HTTP. Each mirror sends parts on two connections.
//! Who fails is left out. Who sends something else is found at once by the sums of the pieces; where there is
//! only one for the whole, by asking each mirror alone. Nothing of what the mirrors sent is kept unless it
//! is what it should be.

mod http;
mod metalink;
mod parts;
mod plan;
mod sum;
mod whole;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use p2pinst_files::Context as _;
use p2pinst_types::limits;
use tempfile::NamedTempFile;

use self::http::{Http, Least, Offer};
pub(crate) use self::sum::Sum;
use crate::error::CliError;
use crate::format;

/// Mirrors of one file that are looked at.
const MIRRORS: usize = 16;

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

impl Pieces {
    /// Whether these are the pieces of a file of that length.
    fn fit(&self, len: u64) -> bool {
        self.length > 0 && len.div_ceil(self.length) == self.hashes.len() as u64
    }
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
    /// Whether there was a sum for it, or sums of all its pieces.
    pub(crate) vouched: bool,
}

impl Downloaded {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Whether that names a file of the web, or a Metalink that is not wanted itself (`as_is`).
pub(crate) fn is_wanted(name: &str, as_is: bool) -> bool {
    is_url(name) || (!as_is && metalink::is_named(name))
}

fn is_url(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.starts_with("http://") || lower.starts_with("https://")
}

/// Finds out what is wanted: reads the Metalink, if it is one and is not wanted itself (`as_is`). Ends early
/// when `stop` is set.
pub(crate) fn wanted(
    names: &[String],
    sha256: Option<Sum>,
    as_is: bool,
    stop: &AtomicBool,
) -> Result<Wanted, CliError> {
    let is_metalink = |name: &String| !as_is && metalink::is_named(name);
    let mut wanted = match names {
        [name] if is_metalink(name) => read_metalink(name, stop)?,
        names => {
            if let Some(odd) = names.iter().find(|n| !is_url(n) || is_metalink(n)) {
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
    let all = wanted.urls.len();
    wanted.urls.retain(|u| is_url(u));
    if wanted.urls.len() > 1 && wanted.sha256.is_none() && wanted.pieces.is_none() {
        return Err(CliError::usage("several mirrors, and nothing says what the file is")
            .hint("give its sum: --sha256"));
    }
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

fn read_metalink(name: &str, stop: &AtomicBool) -> Result<Wanted, CliError> {
    let mut text = String::new();
    let failed = |why: String| CliError::failed(format!("cannot read the Metalink {name}: {why}"));
    let read = if is_url(name) {
        http::with(Least::USUAL, stop, |http| {
            let reader = http.whole(name)?;
            reader.take(metalink::MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())
        })
    } else {
        let file = File::open(name).context("read", Path::new(name))?;
        file.take(metalink::MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())
    };
    if stop.load(Ordering::Relaxed) {
        return Err(interrupted());
    }
    read.map_err(failed)?;
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
    download_at(Least::USUAL, wanted, dir, bar, stop)
}

fn download_at(
    least: Least,
    wanted: &Wanted,
    dir: &Path,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> Result<Downloaded, CliError> {
    let offers = http::with(least, stop, |http| look_at(http, &wanted.urls));
    if stop.load(Ordering::Relaxed) {
        return Err(interrupted());
    }
    let len = wanted.size.or_else(|| agreed(&offers, wanted.pieces.as_ref()));
    if len.is_some_and(|len| len > limits::BLOB) {
        return Err(too_long(len));
    }
    let pieces = wanted.pieces.as_ref().filter(|p| len.is_none_or(|len| p.fit(len)));
    if pieces.is_none() && wanted.pieces.is_some() && wanted.sha256.is_none() {
        let why = "the mirrors have files of other lengths than the Metalink has hashes for";
        return Err(CliError::failed(format!("cannot download {}: {why}", wanted.name))
            .hint("check the Metalink, or give the file's sum: --sha256"));
    }
    let mut file = tempfile::Builder::new()
        .prefix(".p2pinst-")
        .tempfile_in(dir)
        .context("create a file in", dir)?;
    let job = Job { wanted, pieces, offers, least, bar, stop };
    let mirrors = job.run(len, file.as_file_mut())?;
    Ok(Downloaded { file, mirrors, vouched: wanted.sha256.is_some() || pieces.is_some() })
}

/// A download, once it is known what the mirrors have.
struct Job<'a> {
    wanted: &'a Wanted,
    /// The sums of pieces that are used.
    pieces: Option<&'a Pieces>,
    offers: Vec<Result<Offer, String>>,
    least: Least,
    bar: &'a ProgressBar,
    stop: &'a AtomicBool,
}

impl Job<'_> {
    fn run(&self, len: Option<u64>, file: &mut File) -> Result<Vec<Gave>, CliError> {
        let urls = self.wanted.urls.iter();
        let mut gave: Vec<Gave> =
            urls.map(|url| Gave { url: url.clone(), bytes: 0, failed: None }).collect();
        let mut order: Vec<usize> = (0..gave.len()).collect();
        if let Some(len) = len
            && self.offers.iter().any(|o| usable(o, Some(len)).is_ok_and(|o| o.ranges))
        {
            file.set_len(len).map_err(|e| self.unwritten(&e))?;
            self.bar.set_length(len);
            let parts = self.in_parts(len, file, &mut gave)?;
            if parts.complete && self.wanted.sha256.is_none() {
                return Ok(gave); // each piece was checked, if there are sums
            }
            if parts.complete {
                let Some(why) = self.unlike(file)? else { return Ok(gave) };
                let givers: Vec<usize> =
                    (0..gave.len()).filter(|m| gave.get(*m).is_some_and(|g| g.bytes > 0)).collect();
                let alone = if let [alone] = givers.as_slice() { Some(*alone) } else { None };
                // sums of pieces that do not fit that of the whole: no mirror can help
                if self.pieces.is_some() || gave.len() == 1 {
                    return Err(self.other_file(&why, &gave));
                }
                if let Some(gave) = alone.and_then(|m| gave.get_mut(m)) {
                    gave.failed = Some(format!("what it sends is another file: {why}"));
                }
                order.retain(|mirror| Some(*mirror) != alone);
                return self.whole(&order, gave, file, Some(why));
            }
            order.retain(|mirror| !parts.damaged.contains(mirror));
            // those that send parts were asked already, and failed
            order.sort_by_key(|m| self.offers.get(*m).is_some_and(has_ranges));
        }
        self.bar.set_length(len.unwrap_or_default());
        self.whole(&order, gave, file, None)
    }

    /// Why a file is not what is wanted, as far as there are sums to tell.
    fn unlike(&self, file: &mut File) -> Result<Option<String>, CliError> {
        self.bar.set_message("checking");
        let why = self.unlike_sums(file).context("read", Path::new(&self.wanted.name))?;
        self.bar.set_message("downloading");
        Ok(why)
    }

    fn unlike_sums(&self, file: &mut File) -> std::io::Result<Option<String>> {
        file.rewind()?;
        if let Some(sum) = self.wanted.sha256 {
            let found = Sum::of_all(file)?;
            return Ok((found != sum).then(|| format!("SHA-256 {found} instead of {sum}")));
        }
        let Some(pieces) = self.pieces else { return Ok(None) };
        if !pieces.fit(file.metadata()?.len()) {
            return Ok(Some("it is not as long as its pieces".to_owned()));
        }
        for (at, sum) in pieces.hashes.iter().enumerate() {
            if Sum::of_all(&mut (&mut *file).take(pieces.length))? != *sum {
                return Ok(Some(format!("piece {at} has another sum")));
            }
        }
        Ok(None)
    }

    fn failed(&self, why: &str, mirrors: &[Gave]) -> CliError {
        let error = CliError::failed(format!("cannot download {}: {why}", self.wanted.name));
        with_reasons(error, mirrors)
    }

    fn other_file(&self, why: &str, mirrors: &[Gave]) -> CliError {
        let name = &self.wanted.name;
        let error = CliError::failed(format!("what the mirrors sent is not {name}: {why}"));
        with_reasons(error, mirrors).hint("check the sum, or name other mirrors")
    }

    fn unwritten(&self, error: &std::io::Error) -> CliError {
        CliError::failed(format!("cannot write {}: {error}", self.wanted.name))
            .hint("is there room? --temp names another directory")
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn has_ranges(offer: &Result<Offer, String>) -> bool {
    offer.as_ref().is_ok_and(|o| o.ranges)
}

fn with_reasons(mut error: CliError, mirrors: &[Gave]) -> CliError {
    for mirror in mirrors {
        if let Some(reason) = &mirror.failed {
            error = error.hint(format!("{}: {reason}", mirror.url));
        }
    }
    error
}

fn interrupted() -> CliError {
    CliError::failed("interrupted")
}

/// What each mirror has; all are asked at once.
fn look_at(http: &Http, urls: &[String]) -> Vec<Result<Offer, String>> {
    std::thread::scope(|scope| {
        let looks: Vec<_> = urls.iter().map(|u| scope.spawn(|| http.look(u))).collect();
        let looked = looks.into_iter().map(|l| l.join());
        looked.map(|o| o.unwrap_or_else(|_| Err("it could not be asked".to_owned()))).collect()
    })
}

/// The length that most mirrors say; of equals that of the one named first. One for which there are hashes
/// comes before any other.
fn agreed(offers: &[Result<Offer, String>], pieces: Option<&Pieces>) -> Option<u64> {
    let mut lens: Vec<u64> = offers.iter().flatten().filter_map(|o| o.len).collect();
    if let Some(pieces) = pieces
        && lens.iter().any(|len| pieces.fit(*len))
    {
        lens.retain(|len| pieces.fit(*len));
    }
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

/// Where files are put for a while that are larger than memory.
pub(crate) fn temporary() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

#[cfg(test)]
mod tests;
