//! What is asked of a mirror over HTTP: its length, a range, the whole.

use std::io::Read;
use std::ops::Range;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Until a connection is there, and until the first byte of an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// A mirror that sends nothing for so long has failed.
const SILENCE: Duration = Duration::from_secs(20);

/// Something a mirror did not do: why.
type Reason = String;

/// What a mirror has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Its length in bytes; `None` when the mirror does not say.
    pub(super) len: Option<u64>,
    /// Whether it sends parts of it.
    pub(super) ranges: bool,
}

/// A client; cheap to clone. Certificates are checked as this machine's other programs do.
#[derive(Debug, Clone)]
pub(super) struct Http(Agent);

impl Http {
    pub(super) fn new() -> Self {
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
        Self(config.new_agent())
    }

    fn get(&self, url: &str, range: Option<&str>) -> Result<Response<Body>, Reason> {
        let mut request = self.0.get(url);
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        request.call().map_err(|e| e.to_string())
    }

    /// Asks a mirror what it has.
    pub(super) fn look(&self, url: &str) -> Result<Offer, Reason> {
        let response = self.get(url, Some("bytes=0-0"))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (range, len) = content_range(&response).ok_or("it sends another range")?;
                if range != (0..1) {
                    return Err("it sends another range".to_owned());
                }
                Ok(Offer { len: Some(len), ranges: true })
            }
            StatusCode::OK => Ok(Offer { len: response.body().content_length(), ranges: false }),
            // what an empty file answers
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Offer { len: Some(0), ranges: false }),
            other => Err(format!("it answers {other}")),
        }
    }

    /// Reads a range of a file of that length.
    pub(super) fn range(&self, url: &str, range: Range<u64>, len: u64) -> Result<Vec<u8>, Reason> {
        let asked = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let mut response = self.get(url, Some(&asked))?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(format!("it answers {} to a range", response.status()));
        }
        if content_range(&response) != Some((range.clone(), len)) {
            return Err("it sends another range than it was asked for".to_owned());
        }
        let want = usize::try_from(range.end - range.start).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity(want);
        // one more than wanted, to notice what is too long
        let mut reader = response.body_mut().as_reader().take(want as u64 + 1);
        reader.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() != want {
            return Err(format!("it sends {} bytes where {want} were asked for", bytes.len()));
        }
        Ok(bytes)
    }

    /// Opens the whole.
    pub(super) fn whole(&self, url: &str) -> Result<impl Read + use<>, Reason> {
        let response = self.get(url, None)?;
        if response.status() != StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        Ok(response.into_body().into_reader())
    }
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
}
