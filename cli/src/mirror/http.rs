//! What is asked of a mirror over HTTP: its length, a range, the whole.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::plan::PAUSES;

/// Until a connection is there, and until an answer has begun.
const ANSWER: Duration = Duration::from_secs(20);
/// A mirror that sends nothing for so long has failed.
const SILENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Read at a time, at most.
const BLOCK: usize = 64 << 10;

/// Something a mirror did not do: why.
type Reason = String;

/// What a mirror has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// Its length in bytes; `None` when the mirror does not say.
    pub(super) len: Option<u64>,
    /// Whether it sends parts of it.
    pub(super) ranges: bool,
    /// What changes when the file changes, as `If-Range` takes it.
    pub(super) tag: Option<String>,
}

/// The least that a mirror must send, or it has failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Least {
    pub(super) bytes: u64,
    pub(super) within: Duration,
}

impl Least {
    /// 16 KiB/s, over half a minute.
    pub(super) const USUAL: Self = Self { bytes: 30 * (16 << 10), within: Duration::from_secs(30) };

    /// What each of so many connections must send that share the way to this machine.
    pub(super) fn shared(self, connections: u64) -> Self {
        Self { bytes: self.bytes / connections.max(1), ..self }
    }
}

/// How fast something comes.
#[derive(Debug)]
struct Pace {
    least: Least,
    since: Instant,
    seen: u64,
}

impl Pace {
    fn new(least: Least, now: Instant) -> Self {
        Self { least, since: now, seen: 0 }
    }

    /// Counts what came. Whether it was too little, when enough time is over to tell.
    fn is_too_slow(&mut self, bytes: usize, now: Instant) -> bool {
        self.seen = self.seen.saturating_add(bytes as u64);
        if now.saturating_duration_since(self.since) < self.least.within {
            return false;
        }
        let slow = self.seen < self.least.bytes;
        *self = Self::new(self.least, now);
        slow
    }
}

/// Reads what comes at the least pace; an error when it does not.
struct Steady<R> {
    from: R,
    pace: Pace,
}

impl<R: Read> Read for Steady<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if count > 0 && self.pace.is_too_slow(count, Instant::now()) {
            return Err(io::Error::other("it sends too slowly"));
        }
        Ok(count)
    }
}

/// A client, until it is ended. Certificates are checked as this machine's other programs do.
#[derive(Debug)]
pub(super) struct Http<'a> {
    agent: Agent,
    least: Least,
    stop: &'a AtomicBool,
}

/// Does something with a client. Once `stop` is set, whatever waits for a mirror fails at once; only
/// connections that are being made go on for [`ANSWER`].
pub(super) fn with<T>(least: Least, stop: &AtomicBool, work: impl FnOnce(&Http) -> T) -> T {
    let http = Http::new(least, stop);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if http.is_stopped() {
                    http.end();
                    break;
                }
                std::thread::park_timeout(LOOK);
            }
        });
        let outcome = work(&http);
        done.store(true, Ordering::Relaxed);
        watch.thread().unpark();
        outcome
    })
}

impl<'a> Http<'a> {
    fn new(least: Least, stop: &'a AtomicBool) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("p2pinst/", env!("CARGO_PKG_VERSION")))
            // a compressed answer would have other bytes
            .accept_encoding("identity")
            .http_status_as_error(false)
            .timeout_connect(Some(ANSWER))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(SILENCE))
            .build();
        Self { agent: config.new_agent(), least, stop }
    }

    /// Breaks off all that is under way, in whatever thread; nothing more can be asked.
    pub(super) fn end(&self) {
        self.agent.clone().shutdown();
    }

    /// Whether it was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn get(
        &self,
        url: &str,
        range: Option<&str>,
        tag: Option<&str>,
    ) -> Result<Response<Body>, Reason> {
        let mut request = self.agent.get(url);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        if let Some(tag) = tag {
            request = request.header(header::IF_RANGE, tag);
        }
        request.call().map_err(|e| e.to_string())
    }

    /// Asks again after a pause when the mirror says that it is busy.
    fn get_patiently(&self, url: &str, range: Option<&str>) -> Result<Response<Body>, Reason> {
        for pause in PAUSES {
            let response = self.get(url, range, None)?;
            if !is_busy(response.status()) {
                return Ok(response);
            }
            let until = Instant::now() + pause;
            while Instant::now() < until && !self.is_stopped() {
                std::thread::sleep(LOOK);
            }
        }
        self.get(url, range, None)
    }

    fn steady<R: Read>(&self, from: R) -> Steady<R> {
        Steady { from, pace: Pace::new(self.least, Instant::now()) }
    }

    /// Asks a mirror what it has.
    pub(super) fn look(&self, url: &str) -> Result<Offer, Reason> {
        let response = self.get_patiently(url, Some("bytes=0-0"))?;
        let tag = tag(response.headers());
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (range, len) = content_range(&response).ok_or("it sends another range")?;
                if range != (0..1) {
                    return Err("it sends another range".to_owned());
                }
                Ok(Offer { len: Some(len), ranges: true, tag })
            }
            StatusCode::OK => {
                Ok(Offer { len: response.body().content_length(), ranges: false, tag })
            }
            // what an empty file answers
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Offer { len: Some(0), ranges: false, tag }),
            other => Err(format!("it answers {other}")),
        }
    }

    /// Reads a range of a file of that length, if the file is still the one with that tag. `None` when it was
    /// told meanwhile to give up.
    pub(super) fn range(
        &self,
        url: &str,
        tag: Option<&str>,
        range: Range<u64>,
        len: u64,
        give_up: impl Fn() -> bool,
    ) -> Result<Option<Vec<u8>>, Reason> {
        let asked = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let mut response = self.get(url, Some(&asked), tag)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK if tag.is_some() => {
                return Err("its file changed, or it sends no parts any more".to_owned());
            }
            other => return Err(format!("it answers {other} to a range")),
        }
        if content_range(&response) != Some((range.clone(), len)) {
            return Err("it sends another range than it was asked for".to_owned());
        }
        let want = usize::try_from(range.end - range.start).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity(want);
        // one more than wanted, to notice what is too long
        let mut reader = self.steady(response.body_mut().as_reader().take(want as u64 + 1));
        let mut block = vec![0; BLOCK.min(want + 1)];
        loop {
            if give_up() || self.is_stopped() {
                return Ok(None);
            }
            match reader.read(&mut block).map_err(|e| e.to_string())? {
                0 => break,
                count => bytes.extend_from_slice(block.get(..count).unwrap_or_default()),
            }
        }
        if bytes.len() != want {
            return Err(format!("it sends {} bytes where {want} were asked for", bytes.len()));
        }
        Ok(Some(bytes))
    }

    /// Opens the whole.
    pub(super) fn whole(&self, url: &str) -> Result<impl Read + use<>, Reason> {
        let response = self.get_patiently(url, None)?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        Ok(self.steady(response.into_body().into_reader()))
    }
}

/// Whether the same may work in a moment.
fn is_busy(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// The strong `ETag`, else the date of the last change (RFC 9110, 13.1.5).
fn tag(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let strong = text(header::ETAG).filter(|tag| tag.starts_with('"'));
    strong.or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned)
}

/// The range that an answer has, and the length of the whole (RFC 9110, 14.4).
fn content_range(response: &Response<Body>) -> Option<(Range<u64>, u64)> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    parse_content_range(value)
}

fn parse_content_range(value: &str) -> Option<(Range<u64>, u64)> {
    let (range, len) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, len): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, len.parse().ok()?);
    (first <= last && last < len).then(|| (first..last + 1, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(parse_content_range("bytes 0-0/10"), Some((0..1, 10)));
        assert_eq!(parse_content_range(" bytes 4-9/10 "), Some((4..10, 10)));
        for bad in ["bytes 0-0/*", "bytes */10", "bytes 5-4/10", "bytes 0-10/10", "items 0-1/2", ""]
        {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
        let most = u64::MAX;
        assert_eq!(parse_content_range(&format!("bytes 0-{most}/{most}")), None);
    }

    #[test]
    fn what_comes_too_slowly_is_noticed() {
        let least = Least { bytes: 100, within: Duration::from_secs(10) };
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut pace = Pace::new(least, start);
        assert!(!pace.is_too_slow(1, at(9)), "too early to tell");
        assert!(!pace.is_too_slow(99, at(10)));
        assert!(!pace.is_too_slow(50, at(19)), "what came before counts no more");
        assert!(pace.is_too_slow(49, at(20)));
        assert_eq!(Least::USUAL.shared(8).bytes, 30 * (2 << 10));
        let mut usual = Pace::new(Least::USUAL, start);
        assert!(!usual.is_too_slow(30 * (16 << 10), at(30)));
        assert!(usual.is_too_slow(30 * (16 << 10) - 1, at(60)));
    }

    #[test]
    fn what_changes_with_the_file_is_found() {
        let find = |pairs: &[(header::HeaderName, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
            tag(&pairs.collect())
        };
        let date = "Sat, 01 Nov 2025 10:00:00 GMT";
        let strong = find(&[(header::LAST_MODIFIED, date), (header::ETAG, "\"a\"")]);
        assert_eq!(strong.as_deref(), Some("\"a\""));
        let weak = find(&[(header::ETAG, "W/\"a\""), (header::LAST_MODIFIED, date)]);
        assert_eq!(weak.as_deref(), Some(date));
        assert_eq!(find(&[(header::ETAG, "W/\"a\"")]), None);
    }
}
