//! One transfer: which blocks are on their way, what is sent again, and when it is given up.

use std::io;
use std::time::Duration;

use super::Limits;
use super::packet::{self, ErrorCode, Options};

/// Block size where none was agreed (RFC 1350).
const BLKSIZE: u16 = 512;
/// Until what was not acknowledged is sent again, where the client did not say.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time between two tries: what a client asks for may not hold a place for minutes.
const TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// How often a packet is sent before the transfer is given up: 1 + 2 + 4 + 8 + 8 s.
const TRIES: u32 = 5;

/// What is transferred.
pub trait Content {
    /// Its length.
    fn length(&self) -> u64;

    /// Reads at an offset, as much as there is up to the length of `into`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

impl Content for Vec<u8> {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|from| self.get(from..)).unwrap_or(&[]);
        let len = rest.len().min(into.len());
        for (to, from) in into.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(len)
    }
}

/// What follows from a packet or from time that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on.
    Goes,
    /// The client has all of it.
    Done,
    /// It has ended before its end.
    Ended,
}

/// A file on its way to one client.
#[derive(Debug)]
pub(super) struct Transfer<C> {
    content: C,
    blksize: u16,
    window: u16,
    timeout: Duration,
    /// The packet of the options that were taken, until it is acknowledged.
    oack: Option<Vec<u8>>,
    /// Blocks that the client has, from the beginning.
    acked: u64,
    /// Blocks that were sent since: the last one's number is `acked + sent`.
    sent: u64,
    /// Whether something came back: who asked is really there.
    answered: bool,
    /// Whether the window was sent again for an acknowledgement that said nothing new.
    repeated: bool,
    tries: u32,
    due: Duration,
}

impl<C: Content> Transfer<C> {
    /// Begins: the first packet is pushed.
    pub(super) fn begin(
        now: Duration,
        content: C,
        options: &Options,
        limits: &Limits,
        out: &mut Vec<Vec<u8>>,
    ) -> Self {
        let blksize = options.blksize.map(|size| size.min(limits.blksize).max(8));
        let window = options.windowsize.map(|blocks| blocks.min(limits.windowsize).max(1));
        let timeout = options.timeout.map(|s| Duration::from_secs(s.into()));
        let timeout = timeout.filter(|t| *t <= TIMEOUT_MAX);
        let mut taken = Vec::new();
        taken.extend(blksize.map(|size| ("blksize", size.into())));
        taken.extend(timeout.map(|time| ("timeout", time.as_secs())));
        taken.extend(options.tsize.then(|| ("tsize", content.length())));
        taken.extend(window.map(|blocks| ("windowsize", blocks.into())));
        let mut transfer = Self {
            content,
            blksize: blksize.unwrap_or(BLKSIZE),
            window: window.unwrap_or(1),
            timeout: timeout.unwrap_or(TIMEOUT),
            oack: (!taken.is_empty()).then(|| packet::oack(&taken)),
            acked: 0,
            sent: 0,
            answered: false,
            repeated: false,
            tries: 0,
            due: now,
        };
        if transfer.send(now, out) == Step::Ended {
            transfer.tries = TRIES; // nothing is tried again
        }
        transfer
    }

    /// When something must be sent again.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// Whether the client was ever heard of after its request.
    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    /// Bytes that the client has.
    pub(super) fn delivered(&self) -> u64 {
        self.acked.saturating_mul(self.blksize.into()).min(self.content.length())
    }

    /// Blocks of the whole: the last one is shorter than the others, and may be empty.
    fn blocks(&self) -> u64 {
        self.content.length() / u64::from(self.blksize) + 1
    }

    /// Sends what is on its way: the options, or the window.
    fn send(&mut self, now: Duration, out: &mut Vec<Vec<u8>>) -> Step {
        self.tries += 1;
        let wait = self.timeout.saturating_mul(1 << (self.tries - 1).min(8));
        self.due = now + wait.min(TIMEOUT_MAX);
        if let Some(oack) = &self.oack {
            out.push(oack.clone());
            return Step::Goes;
        }
        self.sent = 0;
        let mut block = vec![0; self.blksize.into()];
        while self.sent < self.window.into() && self.acked + self.sent < self.blocks() {
            let index = self.acked + self.sent;
            let Some(bytes) = self.read(index, &mut block) else {
                out.push(packet::error(ErrorCode::Undefined, "the file cannot be read any more"));
                return Step::Ended;
            };
            // numbers are 16 bits wide and begin anew at 0
            let number = (index + 1) & 0xffff;
            out.push(packet::data(u16::try_from(number).unwrap_or_default(), bytes));
            self.sent += 1;
        }
        Step::Goes
    }

    /// A block, whole or not at all: a file that has become shorter is no file any more.
    fn read<'a>(&self, index: u64, block: &'a mut [u8]) -> Option<&'a [u8]> {
        let offset = index * u64::from(self.blksize);
        let left = self.content.length().saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        let bytes = block.get_mut(..len)?;
        let mut have = 0;
        while have < len {
            match self.content.read_at(offset + have as u64, bytes.get_mut(have..)?) {
                Ok(n) if n > 0 => have += n,
                _ => return None,
            }
        }
        Some(bytes)
    }

    /// Takes an acknowledgement.
    pub(super) fn on_ack(&mut self, now: Duration, number: u16, out: &mut Vec<Vec<u8>>) -> Step {
        if self.oack.is_some() {
            if number != 0 {
                return Step::Goes;
            }
            self.oack = None;
            self.progress();
            return self.send(now, out);
        }
        let base = u16::try_from(self.acked & 0xffff).unwrap_or_default();
        let new = u64::from(number.wrapping_sub(base));
        if new > self.sent {
            return Step::Goes; // older than the window
        }
        if new == 0 {
            // RFC 7440: the first of a window was lost. Once, since each of the others may be answered so; and never
            // with windows of one block, where this would double every packet from then on (RFC 1123, 4.2.3.1).
            if self.window == 1 || self.repeated {
                return Step::Goes;
            }
            self.repeated = true;
            return self.send(now, out);
        }
        self.acked += new;
        self.progress();
        if self.acked >= self.blocks() { Step::Done } else { self.send(now, out) }
    }

    fn progress(&mut self) {
        self.answered = true;
        self.repeated = false;
        self.tries = 0;
    }

    /// Sends again what is due, or gives up.
    pub(super) fn on_time(&mut self, now: Duration, out: &mut Vec<Vec<u8>>) -> Step {
        if now < self.due {
            Step::Goes
        } else if self.tries >= TRIES {
            Step::Ended
        } else {
            self.send(now, out)
        }
    }
}
