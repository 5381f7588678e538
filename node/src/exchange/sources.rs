//! Who may have a blob, and to which of them a fetch opens streams.

use std::collections::BTreeMap;

use dht_store::Views;
use p2pinst_chunks::fetch::place::{Place, is_gateway};
use p2pinst_types::{Hash, Name, NodeId};

use super::places::{At, number, place};
use crate::peers::Peers;

/// Sources in use at once.
pub(super) const SOURCES: usize = 20;
/// Of these, at other sites: enough that one of them has what another lacks.
const FAR: usize = 4;
/// Of these, in the own rack, while there are others at the site: so that racks hear of each other.
const RACK: usize = 8;

/// Somebody who may have a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub node: NodeId,
    /// Where, seen from this node.
    pub place: Place,
}

/// Who may have a blob now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// This node.
    pub own: NodeId,
    /// The others, best first.
    pub peers: Vec<Source>,
}

impl Candidates {
    /// Those whom an order names as holders, then the other members of the group, in an order of
    /// this node's own, so that not all ask the same. Only who is up.
    #[must_use]
    pub fn of(views: &Views, peers: &Peers, own: NodeId, holders: &[NodeId], group: &Name) -> Self {
        let here = views.place_of(&own.0);
        let source = |at: At<'_>, node| Source { node, place: place(here, at) };
        let is_member = |n: &NodeId| *n != own && !holders.contains(n) && peers.is_up(n);
        let members = views.members(group).filter(|m| is_member(&m.node));
        let mut members: Vec<_> =
            members.map(|m| source(Some((&m.site, &m.labels)), m.node)).collect();
        members.sort_by_cached_key(|s| {
            // the same seen from both: those who come first for one have that one among their first
            let (a, b) = (own.min(s.node), own.max(s.node));
            Hash::of_parts("p2pinst/neighbours/2", &[a.0.as_bytes(), b.0.as_bytes()])
        });
        let holders = holders.iter().filter(|n| **n != own && peers.is_up(n));
        let holders = holders.map(|n| source(views.place_of(&n.0), *n));
        Self { own, peers: holders.chain(members).collect() }
    }

    /// The tags of this node and of the others at its site, for one blob.
    #[must_use]
    pub fn members(&self, root: &Hash) -> (u64, Vec<(NodeId, u64)>) {
        let near = self.peers.iter().filter(|s| s.place.is_near());
        (tag(root, &self.own), near.map(|s| (s.node, tag(root, &s.node))).collect())
    }

    /// Whether this node is one of those of its site that ask other sites.
    #[must_use]
    pub fn is_gateway(&self, root: &Hash) -> bool {
        let (own, others) = self.members(root);
        is_gateway(own, others.into_iter().map(|(_, tag)| tag))
    }
}

fn tag(root: &Hash, node: &NodeId) -> u64 {
    number(&Hash::of_parts("p2pinst/site-lease/1", &[&root.0, node.0.as_bytes()]))
}

/// Whom to open streams to, best first: most at the own site, the own rack first but not alone; at
/// other sites only if `outside`, and as many sites as can be.
///
/// `open` are those in use, `candidates` those that could be.
pub(super) fn choose(open: &[Place], candidates: &[Source], outside: bool) -> Vec<NodeId> {
    let far_candidates = outside && candidates.iter().any(|c| !c.place.is_near());
    let far_open = open.iter().filter(|p| !p.is_near()).count();
    let room = SOURCES.saturating_sub(open.len());
    let far_room = if far_candidates { FAR.saturating_sub(far_open) } else { 0 };
    let near_room = room.saturating_sub(far_room);
    let in_rack = open.iter().filter(|p| **p == Place::Rack).count();

    let near = |place| candidates.iter().filter(move |c| c.place == place).map(|c| c.node);
    let (rack, more) = split(near(Place::Rack), RACK.saturating_sub(in_rack));
    // the holders that the order names come first among the candidates, and stay first here
    let mut chosen: Vec<NodeId> =
        rack.into_iter().chain(near(Place::Site)).chain(more).take(near_room).collect();

    let mut per_site: BTreeMap<Place, usize> = BTreeMap::new();
    open.iter().for_each(|p| *per_site.entry(*p).or_default() += 1);
    let mut far: Vec<(usize, usize, NodeId)> = Vec::new();
    for (at, c) in candidates.iter().filter(|c| !c.place.is_near()).enumerate() {
        let n = per_site.entry(c.place).or_default();
        far.push((*n, at, c.node));
        *n += 1;
    }
    far.sort();
    chosen.extend(far.into_iter().map(|(_, _, node)| node).take(far_room.min(room)));
    chosen
}

fn split(all: impl Iterator<Item = NodeId>, at: usize) -> (Vec<NodeId>, Vec<NodeId>) {
    let mut first: Vec<NodeId> = all.collect();
    let rest = first.split_off(at.min(first.len()));
    (first, rest)
}

#[cfg(test)]
mod tests {
    use p2pinst_chunks::fetch::place::SiteTag;
    use p2pinst_types::PublicKey;

    use super::*;

    fn sources(place: Place, ids: std::ops::Range<u8>) -> Vec<Source> {
        ids.map(|i| Source { node: NodeId(PublicKey([i; 32])), place }).collect()
    }

    fn far(site: u64) -> Place {
        Place::Far(SiteTag(site))
    }

    fn count(chosen: &[NodeId], of: &[Source], place: Place) -> usize {
        of.iter().filter(|s| s.place == place && chosen.contains(&s.node)).count()
    }

    #[test]
    fn most_are_at_the_own_site_and_not_all_in_the_rack() {
        let all = [
            sources(Place::Rack, 0..50),
            sources(Place::Site, 50..100),
            sources(far(1), 100..110),
            sources(far(2), 110..120),
        ]
        .concat();
        let chosen = choose(&[], &all, true);
        let counts = [Place::Rack, Place::Site, far(1), far(2)].map(|p| count(&chosen, &all, p));
        assert_eq!(counts, [8, 8, 2, 2]);
        let chosen = choose(&[], &all, false);
        let counts = [Place::Rack, Place::Site, far(1), far(2)].map(|p| count(&chosen, &all, p));
        assert_eq!(counts, [8, 12, 0, 0]);
        let open = [vec![Place::Rack; 8], vec![Place::Site; 8], vec![far(1); 2]].concat();
        let chosen = choose(&open, &all, true);
        assert_eq!((chosen.len(), count(&chosen, &all, far(2))), (2, 2));
    }

    #[test]
    fn a_rack_alone_is_used_whole() {
        let all = sources(Place::Rack, 0..50);
        assert_eq!(choose(&[], &all, true).len(), SOURCES);
        assert_eq!(choose(&[Place::Rack; 20], &all, true), []);
    }
}
