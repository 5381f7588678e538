//! The outbox: a writer's own cells of the data plane, until enough replicas hold them.
//!
//! Sans-IO: [`Outbox::step`] says whom to offer what; the shell sends and brings the answers back.
//! A cell is *settled* when a majority of its replicas has acknowledged it; the rest are offered it
//! for as long as the node runs. When so many replicas have left that those who have acknowledged
//! are no majority of the present ones, it is offered anew: the writer is the last who forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2pinst_types::{Cell, CellId, Name, PublicKey, limits};

use crate::admission::Outcome;
use crate::placement::{Ring, majority};
use crate::shelf::Subject;

/// A pause before a replica that did not take all is asked again.
pub const RETRY: Duration = Duration::from_secs(2);
/// Cells in one offer: with the largest payloads a quarter of a frame.
pub const TOGETHER: usize = 32;

/// What the shell should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Offer cells to a replica, and bring the answer to [`Outbox::answered`].
    Offer {
        /// To whom.
        to: PublicKey,
        /// What.
        cells: Vec<Cell>,
    },
    /// Remember durably that these are settled.
    Settled(Vec<Cell>),
    /// A replica holds a newer version than this own cell: it was written in a life that this node
    /// does not remember (a restored snapshot). Read it back, and begin a new life.
    Behind(Cell),
}

#[derive(Debug)]
struct Entry {
    cell: Cell,
    acked: BTreeSet<PublicKey>,
    /// Who has refused it for good; asked again when the replicas change.
    refused: BTreeSet<PublicKey>,
    settled: bool,
    /// How often it was offered: those offered least come first.
    offers: u32,
    since: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    own: PublicKey,
    site: Option<Name>,
    entries: BTreeMap<CellId, Entry>,
    /// Those that somebody should still be offered.
    open: BTreeSet<CellId>,
    busy: BTreeSet<PublicKey>,
    later: BTreeMap<PublicKey, Duration>,
    behind: Vec<Cell>,
}

/// How the outbox is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Own cells in all.
    pub cells: usize,
    /// Those that no majority has acknowledged.
    pub unsettled: usize,
    /// Since when the oldest of them waits, by the clock of [`Outbox::step`].
    pub since: Option<Duration>,
}

impl Outbox {
    /// The outbox of a node at a site.
    #[must_use]
    pub fn new(own: PublicKey, site: Option<Name>) -> Self {
        Self {
            own,
            site,
            entries: BTreeMap::new(),
            open: BTreeSet::new(),
            busy: BTreeSet::new(),
            later: BTreeMap::new(),
            behind: Vec::new(),
        }
    }

    /// Takes up own cells that were written before. Also those that are settled are offered once
    /// more: who has acknowledged them may be gone, and nobody but their writer would know.
    pub fn load(&mut self, cells: Vec<(Cell, bool)>, now: Duration) {
        for (cell, settled) in cells {
            if self.entries.get(&cell.id).is_none_or(|e| cell.order(&e.cell).is_gt()) {
                self.enter(cell, settled, now);
            }
        }
    }

    /// A cell was written.
    pub fn written(&mut self, cell: Cell, now: Duration) {
        let newer = self.entries.get(&cell.id).is_none_or(|e| cell.order(&e.cell).is_gt());
        if newer {
            self.enter(cell, false, now);
        }
    }

    fn enter(&mut self, cell: Cell, settled: bool, now: Duration) {
        let id = cell.id.clone();
        self.open.insert(id.clone());
        let (acked, refused) = (BTreeSet::new(), BTreeSet::new());
        self.entries.insert(id, Entry { cell, acked, refused, settled, offers: 0, since: now });
    }

    /// Where this node is, by the roster.
    pub fn at_site(&mut self, site: Option<Name>) {
        self.site = site;
    }

    /// Forgets cells that no longer are (their deployment is retired).
    pub fn forget(&mut self, gone: impl Fn(&Cell) -> bool) {
        self.entries.retain(|_, e| !gone(&e.cell));
        let entries = &self.entries;
        self.open.retain(|id| entries.contains_key(id));
    }

    /// The replicas have changed: what too few of the present ones hold is offered again.
    pub fn turned(&mut self, ring: &Ring) {
        for (id, entry) in &mut self.entries {
            entry.refused.clear();
            let replicas = ring.replicas(&Subject::of(&entry.cell), self.site.as_ref());
            let held = replicas.iter().filter(|r| entry.acked.contains(*r) || **r == self.own);
            if held.count() < majority(replicas.len()) {
                self.open.insert(id.clone());
            }
        }
    }

    /// What is to be done now. `roster`: how many machines there are in all, up or down.
    pub fn step(&mut self, now: Duration, ring: &Ring, roster: usize) -> Vec<Effect> {
        self.later.retain(|_, until| *until > now);
        let enough = majority(roster.min(limits::REPLICAS));
        let mut effects: Vec<Effect> = self.behind.drain(..).map(Effect::Behind).collect();
        let mut settled = Vec::new();
        let mut done = BTreeSet::new();
        let mut offers: BTreeMap<PublicKey, Vec<(u32, CellId)>> = BTreeMap::new();
        for id in &self.open {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            let replicas = ring.replicas(&Subject::of(&entry.cell), self.site.as_ref());
            if replicas.contains(&self.own) {
                entry.acked.insert(self.own);
            }
            if !entry.settled && entry.acked.len() >= enough {
                entry.settled = true;
                settled.push(entry.cell.clone());
            }
            let mut missing = replicas.iter().filter(|r| !entry.acked.contains(*r)).peekable();
            if missing.peek().is_none() && entry.settled {
                done.insert(id.clone());
            }
            let free = |r: &&PublicKey| {
                !self.busy.contains(*r)
                    && !self.later.contains_key(*r)
                    && !entry.refused.contains(*r)
            };
            for replica in missing.filter(free) {
                offers.entry(*replica).or_default().push((entry.offers, id.clone()));
            }
        }
        self.open.retain(|id| !done.contains(id));
        if !settled.is_empty() {
            effects.push(Effect::Settled(settled));
        }
        for (to, mut wanted) in offers {
            wanted.sort();
            wanted.truncate(TOGETHER);
            let mut cells = Vec::with_capacity(wanted.len());
            for (_, id) in wanted {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.offers += 1;
                    cells.push(entry.cell.clone());
                }
            }
            self.busy.insert(to);
            effects.push(Effect::Offer { to, cells });
        }
        effects
    }

    /// What a replica said to an offer; `None`: nothing. The shell takes a step after it.
    pub fn answered(
        &mut self,
        now: Duration,
        from: PublicKey,
        answer: Option<Vec<(Cell, Outcome)>>,
    ) {
        self.busy.remove(&from);
        let answer = answer.unwrap_or_default();
        if answer.is_empty() || answer.iter().any(|(_, o)| !o.is_here()) {
            self.later.insert(from, now + RETRY);
        }
        for (cell, outcome) in answer {
            // not of a newer version that was written meanwhile
            let Some(entry) = self.entries.get_mut(&cell.id).filter(|e| e.cell == cell) else {
                continue;
            };
            match outcome {
                Outcome::Newer => {
                    entry.acked.insert(from);
                    self.behind.push(cell);
                }
                Outcome::Accepted | Outcome::Known => drop(entry.acked.insert(from)),
                Outcome::Rejected(_) => drop(entry.refused.insert(from)),
                Outcome::Held(_) => {}
            }
        }
    }

    /// When to take the next step, if nothing happens before.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        self.later.values().min().copied()
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        let open = || self.open.iter().filter_map(|id| self.entries.get(id));
        let unsettled = || open().filter(|e| !e.settled);
        Health {
            cells: self.entries.len(),
            unsettled: unsettled().count(),
            since: unsettled().map(|e| e.since).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::cell::Draft;
    use p2pinst_types::{ClusterId, Hash, Hlc, Kind, Signature, Version};

    use super::*;

    const OWN: PublicKey = PublicKey([200; 32]);

    fn ring(nodes: impl IntoIterator<Item = u8>) -> Ring {
        let site: Name = "hall".parse().unwrap();
        let nodes = nodes.into_iter().map(|n| (PublicKey([n; 32]), site.clone()));
        Ring::new(ClusterId(Hash([1; 32])), nodes)
    }

    fn cell(subject: u8, seq: u64) -> Cell {
        let id = CellId { kind: Kind::HISTORY, subject: vec![subject], slot: vec![], author: OWN };
        let version = Version { incarnation: 1, seq };
        let draft = Draft { id, version, hlc: Hlc(4), payload: vec![] };
        draft.sign(&ClusterId(Hash([1; 32])), |_| Signature([5; 64])).unwrap()
    }

    const T0: Duration = Duration::ZERO;

    /// Answers every offer, and those that follow from it; returns all effects but the offers.
    fn run(outbox: &mut Outbox, ring: &Ring, roster: usize, dead: &[u8]) -> Vec<Effect> {
        let mut rest = Vec::new();
        for _ in 0..100 {
            let effects = outbox.step(T0, ring, roster);
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Offer { to, cells } if dead.contains(&to.0[0]) => {
                        drop(cells);
                        outbox.answered(T0, to, None);
                    }
                    Effect::Offer { to, cells } => {
                        let yes = cells.into_iter().map(|c| (c, Outcome::Accepted)).collect();
                        outbox.answered(T0, to, Some(yes));
                    }
                    other => rest.push(other),
                }
            }
        }
        rest
    }

    #[test]
    fn a_majority_settles_and_the_rest_are_offered_too() {
        let ring = ring(1..=20);
        let mut outbox = Outbox::new(OWN, None);
        let cells: Vec<Cell> = (0..40).map(|n| cell(n, 1)).collect();
        cells.iter().for_each(|c| outbox.written(c.clone(), T0));
        assert_eq!(outbox.health().unsettled, 40);
        let settled: usize = run(&mut outbox, &ring, 20, &[])
            .iter()
            .map(|e| if let Effect::Settled(c) = e { c.len() } else { 0 })
            .sum();
        assert_eq!(settled, 40);
        assert_eq!(outbox.health(), Health { cells: 40, unsettled: 0, since: None });
        assert!(outbox.open.is_empty(), "every replica has it");
    }

    #[test]
    fn without_a_majority_it_stays() {
        let ring = ring(1..=4);
        let mut outbox = Outbox::new(OWN, None);
        outbox.written(cell(1, 1), T0);
        assert!(run(&mut outbox, &ring, 20, &[]).is_empty(), "four of eight are no majority");
        assert_eq!(outbox.health().unsettled, 1);
        assert_eq!(outbox.wake(), None, "nobody to ask again");
    }

    #[test]
    fn when_the_replicas_die_it_is_offered_to_the_next() {
        let before = ring(1..=20);
        let mut outbox = Outbox::new(OWN, None);
        outbox.written(cell(1, 1), T0);
        run(&mut outbox, &before, 20, &[]);
        let gone: Vec<PublicKey> = before.replicas(&Subject::of(&cell(1, 1)), None);
        let left = (1..=20).filter(|n| !gone.contains(&PublicKey([*n; 32])));
        let after = ring(left);
        outbox.turned(&after);
        let offers = outbox.step(T0, &after, 20);
        assert_eq!(offers.len(), 8, "{offers:?}");
        // one that left is no reason
        let mut outbox = Outbox::new(OWN, None);
        outbox.written(cell(1, 1), T0);
        run(&mut outbox, &before, 20, &[]);
        let one = ring((1..=20).filter(|n| gone[0] != PublicKey([*n; 32])));
        outbox.turned(&one);
        assert!(outbox.step(T0, &one, 20).is_empty());
    }

    #[test]
    fn a_dead_replica_delays_nobody_and_is_asked_again() {
        let ring = ring(1..=8);
        let mut outbox = Outbox::new(OWN, None);
        outbox.written(cell(1, 1), T0);
        let effects = run(&mut outbox, &ring, 9, &[3]);
        assert!(matches!(effects.as_slice(), [Effect::Settled(_)]), "{effects:?}");
        assert_eq!(outbox.wake(), Some(RETRY));
        let again = outbox.step(RETRY, &ring, 9);
        assert!(matches!(again.as_slice(), [Effect::Offer { to, .. }] if to.0[0] == 3));
    }

    #[test]
    fn a_newer_version_elsewhere_is_told() {
        let ring = ring(1..=1);
        let mut outbox = Outbox::new(OWN, None);
        let cell = cell(1, 1);
        outbox.written(cell.clone(), T0);
        outbox.step(T0, &ring, 1);
        outbox.answered(T0, PublicKey([1; 32]), Some(vec![(cell.clone(), Outcome::Newer)]));
        assert!(outbox.step(T0, &ring, 1).contains(&Effect::Behind(cell)));
    }

    #[test]
    fn what_is_refused_or_gone_is_not_offered_for_ever() {
        let ring = ring(1..=1);
        let mut outbox = Outbox::new(OWN, None);
        let cell = cell(1, 1);
        outbox.written(cell.clone(), T0);
        outbox.step(T0, &ring, 1);
        let no = Outcome::Rejected("retired".to_owned());
        outbox.answered(T0, PublicKey([1; 32]), Some(vec![(cell, no)]));
        assert!(outbox.step(RETRY, &ring, 1).is_empty());
        outbox.forget(|_| true);
        assert_eq!(outbox.health(), Health::default());
    }
}
