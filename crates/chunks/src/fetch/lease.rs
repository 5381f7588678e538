//! Which member of the site asks other sites for which piece.
//!
//! Each piece is leased to one of the site's gateways by rendezvous hash, so that one copy crosses
//! the WAN without a word between them. A lease stands as long as pieces come through its holder;
//! when none do although some could, its pieces pass to the next in their order for a while. When nothing
//! comes through this node either, it may be the WAN that is silent: then the lease stands again as soon
//! as a piece comes, or all gateways would ask for everything when a site that was cut off is back.

use std::time::Duration;

use p2pinst_types::PieceIndex;

use super::place::GATEWAYS;
use crate::bitmap::Bitmap;

/// No lease lapses before this.
const LAPSE_MIN: Duration = Duration::from_secs(2);
/// Each lapses after this, however slow the WAN is.
const LAPSE_MAX: Duration = Duration::from_secs(60);
/// When a lease lapses as long as nothing is known of what is usual.
const LAPSE_UNKNOWN: Duration = Duration::from_secs(30);
/// A lease lapses after so many times what is usual for a piece from another site: on a slow WAN the pieces of
/// all gateways wait for one another, and what is asked for once more makes it slower still.
const LAPSE_TIMES: u32 = 6;
/// A lease that has lapsed stands again after so many times the time in which it lapsed.
const AGAIN_TIMES: u32 = 5;

/// A node is blind when nothing has come through it for this part of the time in which leases lapse: the
/// whole would be too long, for its own last piece may have come later than theirs.
const BLIND_PART: u32 = 2;

/// Whether a lease is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Stands,
    /// It lapsed while this node was blind.
    Doubtful,
    Lapsed,
}

#[derive(Debug, Clone)]
struct Holder {
    tag: u64,
    /// When a piece last came through it, or when it began to owe some.
    progress: Duration,
    /// Whether it owes something: a piece that it could ask for, and that is not here.
    owes: bool,
    standing: Standing,
    /// When it was given the benefit of the doubt: not again before it had time to show something.
    forgiven: Option<Duration>,
}

impl Holder {
    fn lapsed(&self) -> bool {
        matches!(self.standing, Standing::Doubtful | Standing::Lapsed)
    }
}

/// The leases of one blob at this site, as this node sees them.
#[derive(Debug)]
pub(super) struct Leases {
    own: u64,
    holders: Vec<Holder>,
    /// For each piece the index of its holder; empty as long as nobody is known.
    of_piece: Vec<u8>,
    /// The pieces that this node may ask other sites for.
    mine: Bitmap,
}

impl Leases {
    /// Of a node that knows of no others: it may ask for all.
    pub(super) fn new(pieces: u32) -> Self {
        Self { own: 0, holders: Vec::new(), of_piece: Vec::new(), mine: Bitmap::full(pieces) }
    }

    /// The pieces that this node may ask other sites for.
    pub(super) fn mine(&self) -> &Bitmap {
        &self.mine
    }

    /// Takes over who takes part at this site.
    pub(super) fn members(&mut self, now: Duration, own: u64, others: impl Iterator<Item = u64>) {
        let mut tags: Vec<u64> = others.chain([own]).collect();
        tags.sort_unstable();
        tags.dedup();
        tags.truncate(GATEWAYS);
        let holder = |tag| {
            let old = self.holders.iter().find(|h| h.tag == tag).cloned();
            let (standing, forgiven) = (Standing::Stands, None);
            old.unwrap_or(Holder { tag, progress: now, owes: false, standing, forgiven })
        };
        self.holders = tags.into_iter().map(holder).collect();
        self.own = own;
        self.divide();
    }

    /// Divides the pieces among the holders whose leases stand; among all when none does, and then a
    /// node that is no gateway asks for whatever it can get.
    fn divide(&mut self) {
        let pieces = self.mine.pieces();
        let all = self.holders.iter().all(Holder::lapsed);
        self.of_piece.clear();
        self.mine = Bitmap::new(pieces);
        for piece in 0..pieces {
            let stands = |h: &Holder| all || !h.lapsed();
            let weights = self.holders.iter().enumerate().filter(|(_, h)| stands(h));
            let best = weights.map(|(at, h)| (mix(h.tag ^ mix(u64::from(piece))), at, h.tag)).max();
            let Some((_, at, tag)) = best else { continue };
            self.of_piece.push(u8::try_from(at).unwrap_or(u8::MAX));
            if tag == self.own {
                self.mine.set(PieceIndex(piece));
            }
        }
        if all && self.holders.iter().all(|h| h.tag != self.own) {
            self.mine = Bitmap::full(pieces);
        }
    }

    fn holder(&mut self, piece: PieceIndex) -> Option<&mut Holder> {
        let at = *self.of_piece.get(piece.0 as usize)?;
        self.holders.get_mut(usize::from(at))
    }

    /// A piece has come to the site.
    pub(super) fn came(&mut self, now: Duration, piece: PieceIndex) {
        let Some(holder) = self.holder(piece) else { return };
        holder.progress = now;
        let doubtful = |h: &Holder| h.standing == Standing::Doubtful;
        if self.holders.iter().any(doubtful) {
            for holder in self.holders.iter_mut().filter(|h| doubtful(h)) {
                holder.standing = Standing::Stands;
                (holder.progress, holder.forgiven) = (now, Some(now));
            }
            self.divide();
        }
    }

    /// Looks whose leases have lapsed. `could` are the pieces that are not at this site, and that
    /// somebody at another could be asked for; `usual`, how long such a piece takes.
    pub(super) fn look(&mut self, now: Duration, could: &Bitmap, usual: Option<Duration>) {
        if self.holders.iter().all(|h| h.tag == self.own) {
            return;
        }
        let mut owes = vec![false; self.holders.len()];
        for piece in could.iter() {
            let at = self.of_piece.get(piece.0 as usize).copied();
            if let Some(owes) = at.and_then(|at| owes.get_mut(usize::from(at))) {
                *owes = true;
            }
        }
        let after =
            usual.map_or(LAPSE_UNKNOWN, |usual| (usual * LAPSE_TIMES).clamp(LAPSE_MIN, LAPSE_MAX));
        let mut own = self.holders.iter().filter(|h| h.tag == self.own);
        let blind = own.all(|h| now.saturating_sub(h.progress) > after / BLIND_PART);
        let mut changed = false;
        for (holder, owes) in self.holders.iter_mut().zip(owes) {
            if owes && !holder.owes {
                holder.progress = holder.progress.max(now);
            }
            holder.owes = owes;
            if holder.lapsed() && now.saturating_sub(holder.progress) > after * AGAIN_TIMES {
                holder.standing = Standing::Stands;
                holder.progress = now;
                changed = true;
            }
            let late = owes && now.saturating_sub(holder.progress) > after;
            // this node knows of itself that it is alive
            if late && !holder.lapsed() && holder.tag != self.own {
                let lately = |at| now.saturating_sub(at) <= after * AGAIN_TIMES;
                let in_doubt = blind && !holder.forgiven.is_some_and(lately);
                holder.standing = if in_doubt { Standing::Doubtful } else { Standing::Lapsed };
                changed = true;
            }
        }
        if changed {
            self.divide();
        }
    }
}

/// A good mix of 64 bits (the finaliser of splitmix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: u32 = 600;
    /// Of a fast WAN.
    const USUAL: Option<Duration> = Some(Duration::from_millis(100));

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn site(of: &[u64]) -> Vec<Leases> {
        let leases = of.iter().map(|own| {
            let mut leases = Leases::new(PIECES);
            leases.members(secs(0), *own, of.iter().copied().filter(|t| t != own));
            leases
        });
        leases.collect()
    }

    #[test]
    fn each_piece_has_one_holder_and_all_about_as_many() {
        let site = site(&[3, 11, 19, 20, 500, 501]);
        for piece in 0..PIECES {
            let holders = site.iter().filter(|l| l.mine().get(PieceIndex(piece)));
            assert_eq!(holders.count(), 1, "piece {piece}");
        }
        assert!(site.iter().all(|l| (60..140).contains(&l.mine().count())));
    }

    #[test]
    fn of_many_members_a_few_are_gateways() {
        let tags: Vec<u64> = (1..=100).collect();
        let site = site(&tags);
        assert_eq!(site.iter().filter(|l| !l.mine().is_empty()).count(), GATEWAYS);
    }

    #[test]
    fn when_a_member_leaves_only_its_pieces_move() {
        let mut leases = site(&[1, 2, 3]).remove(0);
        let before = leases.mine().clone();
        leases.members(secs(1), 1, [2].into_iter());
        assert!(before.iter().all(|p| leases.mine().get(p)));
        let gained = leases.mine().count() - before.count();
        assert!((60..140).contains(&gained), "{gained}");
    }

    #[test]
    fn a_lease_lapses_when_nothing_comes_through_its_holder() {
        let mut leases = site(&[1, 2, 3]).remove(0);
        let (mine, others) = (leases.mine().clone(), site(&[1, 2, 3]));
        let all = Bitmap::full(PIECES);
        leases.look(secs(0), &Bitmap::new(PIECES), USUAL);
        leases.look(secs(10), &all, USUAL);
        assert_eq!(leases.mine(), &mine, "they owe something only from now on");
        let of_two = others[1].mine().iter().next().unwrap();
        leases.look(secs(11), &all, USUAL);
        leases.came(secs(12), of_two);
        leases.look(secs(13), &all, USUAL);
        assert!(leases.mine().iter().all(|p| !others[1].mine().get(p)));
        let gained = leases.mine().count() - mine.count();
        assert!(gained > 30, "about half of what the third held: {gained}");
        // the second is silent too: all is mine
        leases.look(secs(15), &all, USUAL);
        assert!(leases.mine().is_full());
    }

    #[test]
    fn who_is_no_gateway_asks_when_all_gateways_are_silent() {
        let tags: Vec<u64> = (1..=17).collect();
        let mut leases = site(&tags).remove(16);
        let all = Bitmap::full(PIECES);
        assert!(leases.mine().is_empty());
        leases.look(secs(0), &all, USUAL);
        leases.look(secs(2), &all, USUAL);
        assert!(leases.mine().is_empty());
        leases.look(secs(3), &all, USUAL);
        assert!(leases.mine().is_full());
    }

    #[test]
    fn when_the_site_is_back_its_leases_stand_but_not_twice_for_nothing() {
        let mut leases = site(&[1, 2, 3]).remove(0);
        let (mine, all) = (leases.mine().clone(), Bitmap::full(PIECES));
        leases.look(secs(0), &all, USUAL);
        leases.look(secs(3), &all, USUAL);
        assert!(leases.mine().is_full(), "nothing comes, and it may be the others' fault");
        leases.came(secs(9), mine.iter().next().unwrap());
        assert_eq!(leases.mine(), &mine, "it was the WAN's");
        // what this node has asked for meanwhile comes too
        Bitmap::full(PIECES).iter().take(20).for_each(|p| leases.came(secs(9), p));
        assert_eq!(leases.mine(), &mine);
        leases.look(secs(11), &all, USUAL);
        assert_eq!(leases.mine(), &mine);
        // this node is blind again, and the others have had their chance: no more doubt
        leases.look(secs(12), &all, USUAL);
        assert!(leases.mine().is_full());
        leases.came(secs(13), mine.iter().next().unwrap());
        assert!(leases.mine().is_full());
    }

    #[test]
    fn who_is_no_gateway_goes_on_when_all_gateways_are_gone_for_good() {
        let tags: Vec<u64> = (1..=17).collect();
        let mut leases = site(&tags).remove(16);
        let all = Bitmap::full(PIECES);
        let mut asks = 0;
        for second in 0..60 {
            leases.look(secs(second), &all, USUAL);
            if leases.mine().is_full() {
                asks += 1;
                all.iter().take(4).for_each(|p| leases.came(secs(second), p));
            }
        }
        assert!(asks >= 25, "{asks} seconds of 60");
    }

    #[test]
    fn who_owes_nothing_may_be_cut_off_too() {
        let mut leases = site(&[1, 2, 3]).remove(0);
        let mine = leases.mine().clone();
        let mut others = Bitmap::new(PIECES);
        (0..PIECES).map(PieceIndex).filter(|p| !mine.get(*p)).for_each(|p| {
            others.set(p);
        });
        leases.look(secs(0), &others, USUAL);
        leases.look(secs(3), &others, USUAL);
        assert!(leases.mine().is_full());
        leases.came(secs(9), others.iter().next().unwrap());
        assert_eq!(leases.mine(), &mine);
    }

    #[test]
    fn a_slow_wan_gives_longer_leases() {
        let (all, slow) = (Bitmap::full(PIECES), Some(secs(5)));
        for (usual, stands, lapsed) in [(slow, 29, 31), (None, 30, 31), (USUAL, 2, 3)] {
            let mut leases = site(&[1, 2]).remove(0);
            let mine = leases.mine().clone();
            leases.look(secs(0), &all, usual);
            leases.look(secs(stands), &all, usual);
            assert_eq!(leases.mine(), &mine, "{usual:?}");
            leases.look(secs(lapsed), &all, usual);
            assert!(leases.mine().is_full(), "{usual:?}");
        }
    }
}
