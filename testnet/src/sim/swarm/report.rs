//! What came of a simulated distribution.

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The bound T*, in seconds.
    pub bound: f64,
    /// When each downloader was done, in seconds, in order.
    pub done: Vec<f64>,
    /// When each piece had left the publisher once, in seconds.
    pub first_copy: f64,
    /// Pieces that came, to all.
    pub pieces: u64,
    /// Pieces that came to who had them.
    pub duplicates: u64,
    /// Copies of the blob that left the publisher.
    pub publisher: f64,
    /// Copies of the blob that came in over each site's link to the others.
    pub wan: Vec<f64>,
    /// Bytes of all other messages, for each byte of the pieces.
    pub control: f64,
    /// Requests that were refused.
    pub refused: u64,
    /// Times that somebody had nobody to ask.
    pub starved: u64,
    /// Sources that were replaced because they were slow.
    pub dropped: u64,
    /// Peers that somebody banned although they did nothing wrong.
    pub banned: u64,
    /// Steps of all schedulers.
    pub steps: u64,
    /// Most steps that a scheduler took for each piece.
    pub most_steps: f64,
}

impl Report {
    /// When the slowest of this part of the downloaders was done, in seconds.
    #[must_use]
    pub fn time(&self, part: f64) -> f64 {
        let last = self.done.len().saturating_sub(1);
        let at = (part * self.done.len() as f64).ceil() as usize;
        self.done.get(at.saturating_sub(1).min(last)).copied().unwrap_or_default()
    }

    /// T / T* of that part.
    #[must_use]
    pub fn ratio(&self, part: f64) -> f64 {
        self.time(part) / self.bound
    }

    /// Duplicates for each piece.
    #[must_use]
    pub fn wasted(&self) -> f64 {
        self.duplicates as f64 / self.pieces.max(1) as f64
    }

    /// The most copies that came in over one site's link.
    #[must_use]
    pub fn most_wan(&self) -> f64 {
        self.wan.iter().copied().fold(0.0, f64::max)
    }

    /// What a table shows of it; see [`COLUMNS`].
    #[must_use]
    pub fn row(&self) -> Vec<f64> {
        vec![
            self.time(1.0),
            self.bound,
            self.ratio(0.5),
            self.ratio(0.99),
            self.ratio(1.0),
            self.publisher,
            self.most_wan(),
            self.wasted() * 100.0,
            self.control * 100.0,
        ]
    }
}

/// The columns of [`Report::row`].
pub const COLUMNS: [&str; 9] = [
    "T s",
    "T* s",
    "p50 / T*",
    "p99 / T*",
    "last / T*",
    "publisher copies",
    "WAN copies",
    "duplicates %",
    "control %",
];
