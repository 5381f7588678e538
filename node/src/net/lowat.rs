//! How much a socket gathers before it wakes whoever reads it, and how much it holds of what has not
//! been sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::SetSockOpt;
use nix::sys::socket::sockopt::SetUsize;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Less than this is not worth a system call: it is there with the next packets.
const LEAST: usize = 4 << 10;
/// More than this is not awaited: what has come is to be taken while the rest comes.
const MOST: usize = 32 << 10;

/// A socket holds what leaves it in this time, of what has not been sent: enough to keep the line
/// busy, little enough that what is decided now is soon on its way,
const AHEAD: Duration = Duration::from_millis(20);
/// but not less than this, nor more.
const NOT_SENT: (u32, u32) = (24 << 10, 128 << 10);
/// The system looks at that limit only when it begins a packet, which has up to 64 KiB and is cut later:
/// a whole piece would be taken at once. On a slow line packets are shorter, so that the limit holds,
/// and a few of them fit into the queue of the line: one that does not is tried again after half a
/// second. This many segments of Ethernet for each 24 KiB of the limit,
const SEGMENTS: u32 = 11;
const SEGMENT: u32 = 1448;
/// and on a line that is not slow as many as there may be.
const WHOLE: u32 = 64 << 10;
/// Microseconds in which what all sockets take is counted, and the part of the most so far that is
/// forgotten after each.
const COUNT: u64 = 500_000;
const FADE: u64 = 16;
/// What is shorter tells nothing of the line.
const LONG: usize = 32 << 10;

/// `SO_RCVLOWAT`.
#[derive(Debug, Clone, Copy)]
struct ReceiveLowat;

nix::setsockopt_impl!(ReceiveLowat, libc::SOL_SOCKET, libc::SO_RCVLOWAT, usize, SetUsize);

/// The reader's side of a socket: nobody is woken for each packet of a long record.
#[derive(Debug)]
pub(super) struct Lowat(usize);

impl Default for Lowat {
    fn default() -> Self {
        Self(1)
    }
}

impl Lowat {
    /// So many bytes are needed before anything can be done with them: the reader is woken when they
    /// are here, or a good part of them, or the stream ends.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn need(&mut self, stream: &TcpStream, bytes: usize) -> io::Result<()> {
        let bytes = if bytes < LEAST { 1 } else { bytes.min(MOST) };
        if bytes != self.0 {
            ReceiveLowat.set(stream, &bytes)?;
            self.0 = bytes;
        }
        Ok(())
    }
}

/// How fast all sockets of a node together take bytes.
#[derive(Debug)]
pub(super) struct Uplink {
    begun: Instant,
    /// Microseconds after `begun` at which counting began, and bytes since.
    since: AtomicU64,
    taken: AtomicU64,
    /// Bytes per second: the most lately.
    rate: AtomicU64,
}

impl Default for Uplink {
    fn default() -> Self {
        let (since, taken, rate) = Default::default();
        Self { begun: Instant::now(), since, taken, rate }
    }
}

impl Uplink {
    /// So many bytes were taken. Bytes per second.
    fn took(&self, bytes: usize) -> u64 {
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.count(now, bytes as u64)
    }

    fn count(&self, now: u64, bytes: u64) -> u64 {
        let taken = self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let since = self.since.load(Ordering::Relaxed);
        let passed = now.saturating_sub(since);
        let rate = self.rate.load(Ordering::Relaxed);
        if passed < COUNT {
            return rate;
        }
        // of two who come at the same time one counts
        let ours = self.since.compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed);
        if ours.is_err() {
            return rate;
        }
        self.taken.fetch_sub(taken, Ordering::Relaxed);
        let rate = (rate - rate / FADE).max(taken.saturating_mul(1_000_000) / passed);
        self.rate.store(rate, Ordering::Relaxed);
        rate
    }
}

/// The writer's side of a socket: how fast it takes bytes, and how much of them it holds.
#[derive(Debug)]
pub(super) struct Pace {
    uplink: Arc<Uplink>,
    /// When what is being written began, and how much of it was taken.
    begun: Option<Instant>,
    taken: usize,
    /// Whether no more is to be written before that has been taken.
    ending: bool,
    /// Bytes per second; 0: not known.
    rate: f64,
    not_sent: u32,
}

impl Pace {
    /// # Errors
    /// When the system refuses.
    pub(super) fn new(stream: &TcpStream, uplink: Arc<Uplink>) -> io::Result<Self> {
        SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT.0)?;
        Ok(Self { uplink, begun: None, taken: 0, ending: false, rate: 0.0, not_sent: NOT_SENT.0 })
    }

    /// Writes some bytes.
    ///
    /// # Errors
    /// When the stream is broken.
    pub(super) fn poll_write(
        &mut self,
        stream: &TcpStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.begun.get_or_insert_with(Instant::now);
        let most = self.packet().unwrap_or(u32::MAX);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        // the end of a packet: the next begins another
        let flags = if self.packet().is_some() { libc::MSG_EOR } else { 0 };
        let bytes = bytes.get(..most).unwrap_or(bytes);
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let send = || SockRef::from(stream).send_with_flags(bytes, flags | libc::MSG_NOSIGNAL);
            match stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) => {
                    self.taken = self.taken.saturating_add(n);
                    return Poll::Ready(Ok(n));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// There is more to write. What was to end before and did not, because nobody waited for it, tells
    /// nothing of how fast the socket is.
    pub(super) fn begin(&mut self) {
        if std::mem::take(&mut self.ending) {
            (self.begun, self.taken) = (None, 0);
        }
    }

    /// Nothing more is to be written before what there is has been taken.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// All has been taken that was to be written.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn done(&mut self, stream: &TcpStream) -> io::Result<()> {
        self.ending = false;
        let taken = std::mem::take(&mut self.taken);
        let Some(begun) = self.begun.take().filter(|_| taken >= LONG) else { return Ok(()) };
        let rate = taken as f64 / begun.elapsed().as_secs_f64().max(1e-4);
        self.rate = if self.rate > 0.0 { self.rate.mul_add(0.75, rate * 0.25) } else { rate };
        // an idle line's queue takes much at once: no socket is faster than all
        let rate = self.rate.min(self.uplink.took(taken) as f64);
        // float to integer saturates
        let not_sent = (rate * AHEAD.as_secs_f64()) as u32;
        let not_sent = not_sent.clamp(NOT_SENT.0, NOT_SENT.1);
        if not_sent.abs_diff(self.not_sent) > self.not_sent / 4 {
            SockRef::from(stream).set_tcp_notsent_lowat(not_sent)?;
            self.not_sent = not_sent;
        }
        Ok(())
    }

    /// The longest packet; `None`: as long as the system likes.
    fn packet(&self) -> Option<u32> {
        let segments = self.not_sent.saturating_mul(SEGMENTS) / NOT_SENT.0;
        Some(segments * SEGMENT).filter(|bytes| *bytes < WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (out, inn) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (out.unwrap(), inn.unwrap().0)
    }

    #[tokio::test]
    async fn a_slow_line_is_given_short_packets_and_little_ahead() {
        let (out, _inn) = pair().await;
        let uplink = Arc::new(Uplink::default());
        let mut pace = Pace::new(&out, Arc::clone(&uplink)).unwrap();
        assert_eq!(pace.packet(), Some(SEGMENTS * SEGMENT), "nothing is known of it yet");
        // all sockets together: 100 MB/s, and then 1 MB/s
        uplink.count(1_000_000, 100_000_000);
        pace.begun = Some(Instant::now());
        pace.taken = 1 << 20;
        pace.done(&out).unwrap();
        assert_eq!((pace.packet(), pace.not_sent), (None, NOT_SENT.1));
        for second in 2..200 {
            uplink.count(second * 1_000_000, 1_000_000);
        }
        pace.begun = Some(Instant::now());
        pace.taken = 1 << 20;
        pace.done(&out).unwrap();
        assert_eq!((pace.packet(), pace.not_sent), (Some(SEGMENTS * SEGMENT), NOT_SENT.0));
        assert_eq!(SockRef::from(&out).tcp_notsent_lowat().unwrap(), NOT_SENT.0);
    }

    #[tokio::test]
    async fn an_end_that_nobody_waited_for_does_not_count() {
        let (out, _inn) = pair().await;
        let mut pace = Pace::new(&out, Arc::default()).unwrap();
        let write = std::future::poll_fn(|cx| {
            pace.begin();
            pace.poll_write(&out, cx, &[7; 1000])
        });
        assert_eq!(write.await.unwrap(), 1000);
        pace.begin();
        assert!(pace.begun.is_some() && pace.taken == 1000, "it goes on");
        pace.end();
        pace.begin();
        assert!(pace.begun.is_none() && pace.taken == 0);
        pace.end();
        pace.done(&out).unwrap();
        assert!(!pace.ending);
    }

    #[test]
    fn the_uplink_is_as_fast_as_it_was_lately() {
        let uplink = Uplink::default();
        assert_eq!(uplink.count(100_000, 1_000), 0, "too early to tell");
        assert_eq!(uplink.count(500_000, 4_000), 10_000);
        assert_eq!(uplink.count(600_000, 100), 10_000);
        let last = (2..30).map(|n| uplink.count(n * 1_000_000, 100)).collect::<Vec<_>>();
        assert!(last.is_sorted_by(|a, b| a >= b) && last.last().is_some_and(|r| *r < 2_000));
    }
}
