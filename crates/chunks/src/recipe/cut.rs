//! Cutting content into chunks as it goes by.
//!
//! Runs of at least [`CHUNK_MIN`] zeros are chunks of their own, from the first zero to the last; what lies between them is cut
//! by FastCDC (v2020, normalisation level 1), begun anew behind each such run. So the cuts depend on what
//! is around them and on nothing else: not on how the content is handed over, and only so far on what
//! comes before.

use fastcdc::v2020::FastCDC;
use p2pinst_types::{Hash, limits};

use super::{CHUNK_AVG, CHUNK_MAX, CHUNK_MIN, Chunk, Kind, ZERO_MAX};

/// Looked at for zeros in one go.
const BLOCK: usize = 4096;
/// Bytes that wait to be cut, so that not each cut moves those behind it.
const BATCH: usize = 2 * CHUNK_MAX;

/// Cuts content as it goes by. Holds a few MiB at most, and the chunks until they are taken.
#[derive(Debug)]
pub struct Cutter {
    /// What has not been cut yet; does not end with a zero.
    waiting: Vec<u8>,
    /// So many zeros follow it.
    zeros: u64,
    chunks: Vec<Chunk>,
    /// How many chunks have been cut, taken ones too.
    cut: usize,
    /// The longest run of zeros that is one chunk.
    zeros_max: u64,
}

impl Default for Cutter {
    /// With runs of zeros as long as a recipe may name.
    fn default() -> Self {
        Self::with_zeros(ZERO_MAX.into())
    }
}

impl Cutter {
    /// The same with runs of at most so many zeros, at least [`CHUNK_MIN`]: told as soon as they are that long.
    #[must_use]
    pub fn with_zeros(most: u64) -> Self {
        let zeros_max = most.clamp(CHUNK_MIN as u64, ZERO_MAX.into());
        Self { waiting: Vec::new(), zeros: 0, chunks: Vec::new(), cut: 0, zeros_max }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(BLOCK) {
            let leading = leading_zeros(block);
            self.push_zeros(leading as u64);
            let rest = block.get(leading..).unwrap_or_default();
            if rest.is_empty() {
                continue;
            }
            self.settle_zeros();
            let content = rest.len() - trailing_zeros(rest);
            self.waiting.extend_from_slice(rest.get(..content).unwrap_or_default());
            self.zeros = (rest.len() - content) as u64;
            if self.waiting.len() >= BATCH {
                self.cut(false);
            }
        }
    }

    /// Takes the next bytes, which are zeros: a hole in a file, that need not be read.
    pub fn push_zeros(&mut self, len: u64) {
        self.zeros = self.zeros.saturating_add(len);
        if self.zeros >= self.zeros_max {
            self.cut(true);
        }
        while self.zeros >= self.zeros_max {
            self.zeros -= self.zeros_max;
            let len = u32::try_from(self.zeros_max).unwrap_or(ZERO_MAX);
            self.keep(Chunk { len, kind: Kind::Zero });
        }
    }

    /// The chunks that have been cut since the last time.
    pub fn take(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.chunks)
    }

    /// Whether there are more chunks than a recipe may have.
    #[must_use]
    pub fn is_too_many(&self) -> bool {
        self.cut > limits::RECIPE_CHUNKS as usize
    }

    /// There is no more: the rest of the chunks.
    #[must_use]
    pub fn finish(mut self) -> Vec<Chunk> {
        self.settle_zeros();
        self.cut(true);
        self.chunks
    }

    /// The zeros that wait end here: they are a chunk, or content like any other.
    fn settle_zeros(&mut self) {
        let mut zeros = std::mem::take(&mut self.zeros);
        if zeros < CHUNK_MIN as u64 {
            let len = self.waiting.len() + usize::try_from(zeros).unwrap_or(0);
            self.waiting.resize(len, 0);
            return;
        }
        self.cut(true);
        while zeros > 0 {
            let len = u32::try_from(zeros).unwrap_or(u32::MAX).min(ZERO_MAX);
            zeros -= u64::from(len);
            self.keep(Chunk { len, kind: Kind::Zero });
        }
    }

    /// Cuts what waits; all of it, if that is where the content (or a stretch of it) ends.
    fn cut(&mut self, all: bool) {
        let waiting = std::mem::take(&mut self.waiting);
        let cdc = FastCDC::new(&waiting, CHUNK_MIN, CHUNK_AVG, CHUNK_MAX);
        let mut at = 0;
        while waiting.len() - at >= if all { 1 } else { CHUNK_MAX } {
            let (_, end) = cdc.cut(at, waiting.len() - at);
            let bytes = waiting.get(at..end).unwrap_or_default();
            let len = u32::try_from(bytes.len()).unwrap_or(0);
            self.keep(Chunk { len, kind: Kind::Data(Hash::of(bytes)) });
            at = end;
        }
        self.waiting = waiting;
        self.waiting.drain(..at);
    }

    fn keep(&mut self, chunk: Chunk) {
        self.cut += 1;
        self.chunks.push(chunk);
    }
}

/// How many zeros bytes begin with.
pub(crate) fn leading_zeros(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<32>();
    let whole = words.iter().take_while(|w| **w == [0; 32]).count();
    let tail = words.get(whole).map_or(rest, <[u8; 32]>::as_slice);
    whole * 32 + tail.iter().take_while(|b| **b == 0).count()
}

fn trailing_zeros(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|b| **b == 0).count()
}
