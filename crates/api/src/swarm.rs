//! How a file spreads, and how it has spread. Rates are bytes per second; shares are of 1.

use p2pinst_types::record::{Distance, PackageId, Progress};
use p2pinst_types::{Hash, Name, NodeId};
use serde::{Deserialize, Serialize};

/// Machines of one exchange that are shown; of more only the slowest.
pub const SHOWN: usize = 64;
/// How many of the slowest.
pub const SLOWEST: usize = 10;

/// The best that can be, T*, and what sets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundView {
    /// No way of sharing the file is faster, in milliseconds.
    pub ms: u64,
    /// The limiting term: `source up-link`, `slowest down-link (n7)`, `sum of up-links`,
    /// `WAN of SITE`, `slowest disk (n7)` and so on.
    pub limit: String,
    /// Whether it is made of rates that are configured or that interfaces tell; else of the highest
    /// that were seen, so that it says how even the exchange was, not how good.
    pub known: bool,
}

/// Milliseconds that so many of the machines needed at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of them.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// All.
    pub p100: u64,
}

/// What crossed a site's link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteCopies {
    /// The site.
    pub site: Name,
    /// Its machines that fetched.
    pub machines: usize,
    /// Bytes that came to them from other sites.
    pub wan_bytes: u64,
    /// The same in files.
    pub copies: f64,
}

/// How a deployment's file came to its machines, from their own reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferView {
    /// Machines that fetched it and reported.
    pub machines: usize,
    /// From the order to the last verified byte.
    pub order_ms: Percentiles,
    /// From the beginning of a machine's fetch to the last verified byte, without the time that it
    /// waited.
    pub fetch_ms: Percentiles,
    /// The longest that a fetch waited for its node to be idle, for its turn or for a source.
    pub waited_ms: u64,
    /// T*; `None`: too little is known.
    pub bound: Option<BoundView>,
    /// T* over the longest fetch.
    pub efficiency: Option<f64>,
    /// Files that left the first holders.
    pub publisher_copies: f64,
    /// What crossed the sites' links, of each site but the publisher's.
    pub sites: Vec<SiteCopies>,
    /// Bytes of pieces that came, in all.
    pub received: u64,
    /// Of these, those of pieces that were there already.
    pub duplicate: u64,
    /// Their share.
    pub duplicate_share: f64,
    /// Of the bytes that came, those that were wrong.
    pub bad: u64,
    /// Bytes that were there before, from a fetch that was broken off by a restart: nobody counted
    /// how they came.
    pub before: u64,
}

/// The exchange of some blobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwarmView {
    /// The newest first.
    pub swarms: Vec<BlobSwarm>,
}

/// The exchange of one blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlobSwarm {
    /// The blob's root.
    pub blob: Hash,
    /// Its bytes.
    pub size: u64,
    /// Its pieces.
    pub pieces: u32,
    /// The deployments that order it, the latest first.
    pub deployments: Vec<String>,
    /// What it is, when it is ordered.
    pub package: Option<PackageId>,
    /// Machines that should get it, or take part in its exchange.
    pub machines: usize,
    /// Of these, those that were asked.
    pub asked: usize,
    /// Of these, those that answered.
    pub answered: usize,
    /// Of these, those that have all of it.
    pub complete: usize,
    /// Of these, those that fetch it now.
    pub fetching: usize,
    /// The share of the bytes that is where it should be, of the machines that answered, the first
    /// holder not counted.
    pub done: f64,
    /// Machines by how much they have: less than 10 %, …, less than 100 %, all of it.
    pub histogram: [usize; 11],
    /// Since the order, or the beginning of the exchange, until now or the end of it; `None`: not
    /// known any more.
    pub elapsed_ms: Option<u64>,
    /// How long it will take, as fast as it goes now; `None`: nothing comes, or all is there.
    pub left_ms: Option<u64>,
    /// T*; `None`: too little is known.
    pub bound: Option<BoundView>,
    /// What share of the speed that T* allows was reached so far.
    pub efficiency: Option<f64>,
    /// Files that left the first holder, in the present life of its node; `None`: it did not answer.
    pub publisher_copies: Option<f64>,
    /// What crossed the sites' links, of each site but the publisher's.
    pub sites: Vec<SiteCopies>,
    /// Bytes of pieces that came, in all.
    pub received: u64,
    /// Of these, those of pieces that were there already.
    pub duplicate: u64,
    /// Their share.
    pub duplicate_share: f64,
    /// The machines by name, if they are at most [`SHOWN`]; else the [`SLOWEST`].
    pub members: Vec<SwarmMember>,
    /// The peers of this node in this exchange.
    pub peers: Vec<SwarmPeer>,
}

/// A machine in an exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwarmMember {
    /// Its name.
    pub name: Name,
    /// Its site.
    pub site: Name,
    /// Whether it is up, as this node sees it.
    pub up: bool,
    /// Whether it was asked and answered.
    pub answered: bool,
    /// The share that it has.
    pub done: f64,
    /// What it says; `None`: nothing is there and nothing comes, or it did not answer.
    pub progress: Option<Progress>,
}

/// What this node exchanges with one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwarmPeer {
    /// Its machine's name, if it is in the roster.
    pub name: Option<Name>,
    /// Its node.
    pub id: NodeId,
    /// How far away it is.
    pub distance: Distance,
    /// Bytes of pieces that came from it.
    pub received: u64,
    /// Of these, new ones.
    pub verified: u64,
    /// Of these, those of pieces that were here already.
    pub duplicate: u64,
    /// Of these, wrong ones.
    pub bad: u64,
    /// Bytes of pieces that it was sent.
    pub sent: u64,
    /// How many pieces.
    pub sent_pieces: u64,
    /// Bytes per second that come from it now.
    pub rate_in: u64,
    /// Bytes per second that go to it now.
    pub rate_out: u64,
    /// Requests that it refused: it is busy, it lacks the piece.
    pub refused: [u32; 2],
    /// Whether it is banned from this blob.
    pub banned: bool,
}
