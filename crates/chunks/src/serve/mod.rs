//! Serving: whose request comes next, and which requests are refused at once.
//!
//! Urgent blobs come first: none of the others begins while a piece of one waits or is on its way, but for
//! a few, so that slow takers of urgent pieces stop nobody. They have slots of their own, for the
//! others may be slow. While other programs are at work on the machine, others are [throttled](Serve::throttle).
//!
//! Sans-IO and pure; one [`Serve`] for all blobs of a node. A shell tells it of downloaders and their
//! requests, asks for the next offer and the next job whenever something happened, and reads and
//! sends the bytes itself. Peers take turns, one piece each; other sites before the own one, because
//! what goes there goes there once. A crash loses the queues; downloaders ask again.
//!
//! A blob that this node published is *seeded*: each piece leaves once before any leaves twice. The
//! downloaders are told what is here, and of that only what is *offered* to them, each piece to one
//! of them, is theirs to ask for; when all pieces have left, they may ask for any. To other sites
//! each piece goes once as well, apart from what the own site gets. Who asks for more than was
//! offered is served when nothing else waits: so nobody can be stuck.

mod member;
mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2pinst_types::{Hash, PieceIndex};

use self::member::{Members, Turn};
use self::seed::Seed;
use crate::bitmap::Bitmap;
use crate::fetch::Place;
use crate::rates::Slots;
use crate::wire::Refusal;

/// While something urgent is served, others may use this part of the slots.
const YIELD: usize = 8;

/// Most streams of one member to which something is owed,
const MEMBER: usize = 16;
/// and this part of those that may still come, so that nobody takes the places of all others.
const SHARE: usize = 8;

/// Blobs that are seeded at a time, of those that have not left altogether: the last ones.
const SEEDS: usize = 64;

/// What serving may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeLimits {
    /// Requests of one peer that may wait.
    pub queue: usize,
    /// Peers that may have requests waiting.
    pub peers: usize,
    /// Pieces being sent at a time to peers at this site, each to another peer. Some, so that a
    /// downloader's link seldom idles while all who owe it something send to others; not too many, for what
    /// many are sent at once arrives late at all of them, and TCP shares an up-link unevenly. As many
    /// of urgent blobs beside them.
    pub slots: usize,
    /// And to peers at other sites, as many urgent ones: as [`LimitsConfig::slots`](crate::rates::LimitsConfig::slots)
    /// says.
    pub far: usize,
}

impl Default for ServeLimits {
    /// 64 requests each of 256 peers, 4 at a time, and 16 to other sites.
    fn default() -> Self {
        Self { queue: 64, peers: 256, slots: 4, far: 16 }
    }
}

/// A piece to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job<P> {
    /// To whom.
    pub peer: P,
    /// Of which blob.
    pub root: Hash,
    /// Which.
    pub piece: PieceIndex,
}

/// What a downloader may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// These pieces too.
    Pieces(Vec<PieceIndex>),
    /// Everything that is here: the blob is seeded no more.
    All,
}

/// A piece on its way.
#[derive(Debug, Clone, Copy)]
struct Sending {
    root: Hash,
    piece: PieceIndex,
    far: bool,
    /// How many had been sent when it began.
    since: u64,
    /// Whether it takes long.
    slow: bool,
}

/// A piece does not keep its slot while so many others are sent in each slot: the peer is slow.
const SLOW: u64 = 8;

/// How urgent a request is; the lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Of another site.
    Far,
    /// A piece that has not left yet.
    First,
    Usual,
    /// A piece of a seeded blob that was offered to somebody else.
    Uninvited,
}

/// The requests that wait, and those being answered.
#[derive(Debug)]
pub struct Serve<P> {
    limits: ServeLimits,
    queues: BTreeMap<P, Vec<(Hash, PieceIndex)>>,
    sending: BTreeMap<P, Sending>,
    /// Pieces that have been sent.
    sent: u64,
    /// Whose turn was last.
    last: Option<P>,
    /// Who has opened which blob, and where it is.
    opened: BTreeMap<P, (Hash, Place)>,
    members: Members<P>,
    seeds: BTreeMap<Hash, Seed<P>>,
    /// Seeds that there were so far.
    seeded: u64,
    urgent: BTreeSet<Hash>,
    /// Requests for blobs that are not urgent that may wait or be answered, of all peers.
    patience: Option<usize>,
}

impl<P: Copy + Ord> Serve<P> {
    /// Nothing waits.
    #[must_use]
    pub fn new(limits: ServeLimits) -> Self {
        Self {
            limits,
            queues: BTreeMap::new(),
            sending: BTreeMap::new(),
            sent: 0,
            last: None,
            opened: BTreeMap::new(),
            members: Members::default(),
            seeds: BTreeMap::new(),
            seeded: 0,
            urgent: BTreeSet::new(),
            patience: None,
        }
    }

    /// Which blobs are urgent from now on, those whose pieces wait already too.
    pub fn set_urgent(&mut self, roots: BTreeSet<Hash>) {
        self.urgent = roots;
    }

    /// How many pieces to send at a time from now on; those that are on their way go on.
    pub fn set_slots(&mut self, slots: Slots) {
        (self.limits.slots, self.limits.far) = (slots.near.max(1), slots.far.max(1));
    }

    /// From now on no more than so many requests for blobs that are not urgent may wait or be answered, of
    /// all peers together; further ones are refused as [`Refusal::Busy`]. `None`: as many as the limits allow.
    pub fn throttle(&mut self, owed: Option<usize>) {
        self.patience = owed;
    }

    fn is_urgent(&self, root: &Hash) -> bool {
        self.urgent.contains(root)
    }

    /// Seeds a blob of so many pieces from now on, for those who open it from now on. Takes about 10
    /// bytes per piece. One of a single piece is not seeded: all get it at once. One that has left
    /// altogether, or was removed, begins anew; when too many are seeded, the oldest is no more.
    pub fn seed(&mut self, root: Hash, pieces: u32) {
        if pieces < 2 {
            return;
        }
        self.seeded += 1;
        match self.seeds.get_mut(&root) {
            Some(seed) if seed.has_ended() => seed.begin_anew(pieces, self.seeded),
            Some(_) => {}
            None => drop(self.seeds.insert(root, Seed::new(pieces, self.seeded))),
        }
        let going: Vec<_> = self.seeds.iter().filter(|(_, s)| !s.has_ended()).collect();
        if going.len() > SEEDS {
            let others = going.into_iter().filter(|(r, _)| **r != root);
            let oldest = others.min_by_key(|(_, s)| (s.has_takers(), s.number)).map(|(r, _)| *r);
            oldest.into_iter().for_each(|oldest| self.unseed(&oldest));
        }
    }

    /// Seeds a blob no more: it is served like any other.
    pub fn unseed(&mut self, root: &Hash) {
        if let Some(seed) = self.seeds.get_mut(root) {
            seed.end();
        }
        self.forget_seed(root);
    }

    /// A seed of which all has left, and that nobody takes from, is none any more.
    fn forget_seed(&mut self, root: &Hash) {
        if self.seeds.get(root).is_some_and(Seed::is_over) {
            self.seeds.remove(root);
        }
    }

    /// A downloader opens a blob. Whether that is seeded to it: it is to be told so, and to ask only
    /// for what it is offered.
    pub fn open(&mut self, peer: P, root: Hash, place: Place) -> bool {
        if self.opened.len() >= self.limits.peers.saturating_mul(4) {
            return false; // who is not known here is served like anybody, and offered nothing
        }
        self.opened.insert(peer, (root, place));
        let peers = self.limits.peers;
        self.seeds.get_mut(&root).is_some_and(|s| s.open(peer, place, peers))
    }

    /// A downloader opens a blob again, instead of what it had opened: the same as [`Serve::left`] and
    /// [`Serve::open`], but for that a seed does not end between them.
    pub fn open_instead(&mut self, old: P, peer: P, root: Hash, place: Place) -> bool {
        let left = self.leave(old);
        let seeding = self.open(peer, root, place);
        left.into_iter().for_each(|root| self.forget_seed(&root));
        seeding
    }

    /// A downloader that has opened a blob is a stream of this member: members take turns, however many
    /// streams they have.
    pub fn belongs(&mut self, peer: P, member: u64) {
        if self.opened.contains_key(&peer) {
            self.members.join(peer, member);
        }
    }

    /// The next thing to tell a downloader, if any.
    pub fn next_offer(&mut self, now: Duration) -> Option<(P, Offer)> {
        let queues = &self.queues;
        let waiting = |p: &P| queues.get(p).map_or(0, Vec::len);
        self.seeds.values_mut().find_map(|s| s.next_offer(now, waiting))
    }

    /// A peer asks for a piece that this node has. The same request twice is one.
    ///
    /// # Errors
    /// Why it is refused: too much waits already.
    pub fn request(&mut self, peer: P, root: Hash, piece: PieceIndex) -> Result<(), Refusal> {
        let waiting = self.queues.get(&peer).map_or(0, Vec::len);
        if self.queues.get(&peer).is_some_and(|q| q.contains(&(root, piece))) {
            return Ok(());
        }
        if waiting >= self.limits.queue || (waiting == 0 && self.queues.len() >= self.limits.peers)
        {
            return Err(Refusal::Busy);
        }
        if !self.has_share(peer) {
            return Err(Refusal::Busy);
        }
        if let Some(patience) = self.patience.filter(|_| !self.is_urgent(&root)) {
            let waiting = self.queues.values().flatten().map(|(root, _)| root);
            // those that do not get on stop nobody
            let sending = self.sending.values().filter(|s| !s.slow).map(|s| &s.root);
            let owed = waiting.chain(sending);
            if owed.filter(|root| !self.is_urgent(root)).count() >= patience {
                return Err(Refusal::Busy);
            }
        }
        if let Some(seed) = self.seeds.get_mut(&root) {
            if seed.is_closed_to(peer) {
                return Err(Refusal::Busy);
            }
            seed.requested(peer, piece);
        }
        self.queues.entry(peer).or_default().push((root, piece));
        Ok(())
    }

    /// Whether the member of whom this stream is may be owed something on it too: a member may have
    /// many streams, for as many blobs.
    fn has_share(&self, peer: P) -> bool {
        if self.owes(peer) {
            return true;
        }
        let taken = self.queues.len().max(self.sending.len());
        let most = self.limits.peers.saturating_sub(taken) / SHARE;
        let owed = self.members.alike(peer).filter(|s| self.owes(*s)).count();
        owed < most.clamp(1, MEMBER)
    }

    /// A peer takes a request back, without effect when its answer has begun; or declines what was
    /// offered, because it has it.
    pub fn cancel(&mut self, peer: P, root: Hash, piece: PieceIndex) {
        if let Some(queue) = self.queues.get_mut(&peer) {
            queue.retain(|q| *q != (root, piece));
            self.tidy(peer);
        }
        let sending = self.sending.get(&peer).is_some_and(|s| (s.root, s.piece) == (root, piece));
        if !sending && let Some(seed) = self.seeds.get_mut(&root) {
            seed.declined(peer, piece);
        }
    }

    /// A downloader of a seeded blob has these pieces from elsewhere: they need not be offered to its site.
    pub fn holds(&mut self, peer: P, root: Hash, pieces: &Bitmap) {
        if let Some(seed) = self.seeds.get_mut(&root) {
            pieces.iter().for_each(|piece| seed.holds(peer, piece));
        }
    }

    /// A peer is gone with all its requests. What was being sent to it counts as not sent.
    pub fn left(&mut self, peer: P) {
        if let Some(root) = self.leave(peer) {
            self.forget_seed(&root);
        }
    }

    /// The same, but for that the seed stays; and what the peer had opened.
    fn leave(&mut self, peer: P) -> Option<Hash> {
        self.queues.remove(&peer);
        self.sending.remove(&peer);
        self.members.left(peer);
        let (root, _) = self.opened.remove(&peer)?;
        if let Some(seed) = self.seeds.get_mut(&root) {
            seed.left(peer);
        }
        Some(root)
    }

    fn tidy(&mut self, peer: P) {
        if self.queues.get(&peer).is_some_and(Vec::is_empty) {
            self.queues.remove(&peer);
        }
    }

    /// The next piece to send, if a slot is free and somebody waits whom nothing is being sent: the
    /// most urgent request, of the peer whose turn comes first. A shell that cannot send for long
    /// closes the stream and says [`Serve::left`], or the slot stays taken.
    pub fn next_job(&mut self) -> Option<Job<P>> {
        let slots = [false, true].map(|later| [false, true].map(|far| self.has_slot(far, later)));
        if slots == [[false; 2]; 2] {
            return None;
        }
        let mut best: Option<(bool, Class, Turn, bool, P, usize)> = None;
        for (peer, queue) in &self.queues {
            if self.sending.contains_key(peer) {
                continue;
            }
            let far = self.is_far(*peer);
            let Some((later, class, at)) = self.most_urgent(*peer, far, queue) else { continue };
            let [urgent, others] =
                slots.map(|[at_site, outside]| if far { outside } else { at_site });
            if !(if later { others } else { urgent }) {
                continue;
            }
            let busy = self.sending.iter().filter(|(_, s)| !s.slow).map(|(peer, _)| *peer);
            let turn = self.members.turn(*peer, busy);
            let key = (later, class, turn, Some(*peer) <= self.last, *peer, at);
            if best.is_none_or(|b| key < b) {
                best = Some(key);
            }
        }
        let (_, class, _, _, peer, at) = best?;
        if class == Class::Uninvited && self.sending.values().any(|s| !s.slow) {
            return None;
        }
        let (root, piece) = self.queues.get_mut(&peer)?.remove(at);
        self.tidy(peer);
        if let Some(seed) = self.seeds.get_mut(&root) {
            seed.sending(peer, piece);
        }
        let far = self.is_far(peer);
        self.sending.insert(peer, Sending { root, piece, far, since: self.sent, slow: false });
        self.last = Some(peer);
        self.members.given(peer);
        Some(Job { peer, root, piece })
    }

    /// Whether another piece, urgent or one for later, may be sent to this site, or to another. Those
    /// that do not get on are not counted, up to the number of peers that may wait.
    fn has_slot(&self, far: bool, later: bool) -> bool {
        let slots = if far { self.limits.far } else { self.limits.slots };
        let slow = SLOW * slots as u64;
        let slots = if later && self.yields() { (slots / YIELD).max(1) } else { slots };
        let taken = self.sending.values().filter(|s| {
            let counts = !s.slow && self.sent - s.since < slow;
            counts && s.far == far && self.is_urgent(&s.root) != later
        });
        self.sending.len() < self.limits.peers && taken.count() < slots
    }

    /// Whether something urgent waits or is being sent.
    fn yields(&self) -> bool {
        let waiting = || self.queues.values().flatten().map(|(root, _)| root);
        !self.urgent.is_empty()
            && waiting().chain(self.sending.values().map(|s| &s.root)).any(|r| self.is_urgent(r))
    }

    fn is_far(&self, peer: P) -> bool {
        self.opened.get(&peer).is_some_and(|(_, place)| !place.is_near())
    }

    fn most_urgent(
        &self,
        peer: P,
        far: bool,
        queue: &[(Hash, PieceIndex)],
    ) -> Option<(bool, Class, usize)> {
        if self.seeds.is_empty() && self.urgent.is_empty() {
            return Some((true, if far { Class::Far } else { Class::Usual }, 0));
        }
        let class = |(root, piece): &(Hash, PieceIndex)| {
            let seed = self.seeds.get(root);
            match seed.and_then(|s| s.is_theirs(peer, *piece)) {
                Some(false) => Class::Uninvited,
                _ if far => Class::Far,
                Some(true) => Class::First,
                None => Class::Usual,
            }
        };
        let all = queue.iter().enumerate();
        all.map(|(at, q)| (!self.is_urgent(&q.0), class(q), at)).min()
    }

    /// The blobs of which something waits or is being sent.
    #[must_use]
    pub fn in_use(&self) -> BTreeSet<Hash> {
        let waiting = self.queues.values().flatten().map(|(root, _)| *root);
        waiting.chain(self.sending.values().map(|s| s.root)).collect()
    }

    /// Whether an answer to a peer is under way or waits.
    #[must_use]
    pub fn owes(&self, peer: P) -> bool {
        self.sending.contains_key(&peer) || self.queues.contains_key(&peer)
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queues.values().map(Vec::len).sum()
    }

    /// What is being sent to a peer takes long: it keeps its slot no more, others go on.
    pub fn is_slow(&mut self, peer: P) {
        if let Some(sending) = self.sending.get_mut(&peer) {
            sending.slow = true;
        }
    }

    /// What was being sent to a peer has been sent, or refused after all.
    pub fn done(&mut self, peer: P) {
        let Some(Sending { root, piece, .. }) = self.sending.remove(&peer) else { return };
        self.sent += 1;
        if let Some(seed) = self.seeds.get_mut(&root) {
            let idle = self.sending.is_empty() && self.queues.is_empty();
            seed.sent(peer, piece, idle);
        }
    }
}

#[cfg(test)]
mod tests;
