//! Which replicas are asked for the summaries of shards, and what their answers are worth. Pure.
//!
//! One replica of each shard is asked, the closest. Where it does not answer, or what it has is
//! not exactly of the shard's machines, others are asked, three in all. Replicas that disagree are
//! never added up: then the cells are read.

use std::collections::BTreeMap;

use dht_store::Summary;
use dht_store::summary::SUMMARIES;
use p2pinst_types::NodeId;

/// Replicas of one shard that are asked for its summary.
const TRIES: usize = 3;

/// A shard whose machines are to be counted.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    /// The subject of its statuses.
    pub(crate) subject: Vec<u8>,
    /// How many machines should have a status in it.
    pub(crate) machines: usize,
    /// The sum of their ids, as [`Summary::sum_of`] reckons it.
    pub(crate) sum: [u8; 16],
    /// Its live replicas, closest first.
    pub(crate) replicas: Vec<NodeId>,
}

/// What is to be done about a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// Believe this.
    Counted(Summary),
    /// The replicas agree, but not all machines are there, or others too: read the cells of one.
    One(NodeId),
    /// The replicas disagree: read the cells of all and merge them.
    Merge,
    /// No replica has answered.
    Silent,
}

#[derive(Debug)]
struct Open {
    shard: Shard,
    asked: usize,
    waiting: bool,
    answers: Vec<(NodeId, Summary)>,
}

impl Open {
    fn is_exact(&self, summary: &Summary) -> bool {
        summary.unread == 0
            && summary.cells() == self.shard.machines
            && summary.machines == self.shard.sum
    }

    /// Whom to ask next; `None`: nobody (now).
    fn next(&self) -> Option<NodeId> {
        let settled = matches!(self.answers.as_slice(), [(_, only)] if self.is_exact(only));
        if self.waiting || settled || self.asked >= TRIES {
            return None;
        }
        self.shard.replicas.get(self.asked).copied()
    }

    fn look(self) -> Look {
        let Some((peer, first)) = self.answers.first().cloned() else { return Look::Silent };
        if self.answers.iter().any(|(_, s)| s.digest != first.digest || s.cells() != first.cells())
        {
            return Look::Merge;
        }
        if first.cells() == 0 || self.is_exact(&first) {
            return Look::Counted(first);
        }
        Look::One(peer)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gather(Vec<Open>);

impl Gather {
    /// Begins.
    pub(crate) fn new(shards: Vec<Shard>) -> Self {
        let open = |shard| Open { shard, asked: 0, waiting: false, answers: Vec::new() };
        Self(shards.into_iter().map(open).collect())
    }

    /// The next request: whom to ask, and for which shards, by their places in the list. The peer
    /// that is to be asked for the most comes first. `None`: nothing more, before an answer comes.
    pub(crate) fn next(&mut self) -> Option<(NodeId, Vec<usize>)> {
        let mut by_peer: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (at, open) in self.0.iter().enumerate() {
            if let Some(peer) = open.next() {
                by_peer.entry(peer).or_default().push(at);
            }
        }
        let (peer, mut shards) = by_peer.into_iter().max_by_key(|(_, shards)| shards.len())?;
        shards.truncate(SUMMARIES);
        for at in &shards {
            if let Some(open) = self.0.get_mut(*at) {
                open.waiting = true;
                open.asked += 1;
            }
        }
        Some((peer, shards))
    }

    /// The subjects of shards.
    pub(crate) fn subjects(&self, shards: &[usize]) -> Vec<Vec<u8>> {
        shards.iter().filter_map(|at| self.0.get(*at)).map(|o| o.shard.subject.clone()).collect()
    }

    /// An answer to a request; `None`: it failed. One that is too short counts as far as it goes.
    pub(crate) fn answered(
        &mut self,
        peer: NodeId,
        shards: &[usize],
        answer: Option<Vec<Option<Summary>>>,
    ) {
        let mut summaries = answer.unwrap_or_default().into_iter();
        for at in shards {
            let Some(open) = self.0.get_mut(*at) else { continue };
            open.waiting = false;
            if let Some(summary) = summaries.next() {
                open.answers.push((peer, summary.unwrap_or_default()));
            }
        }
    }

    /// What is to be done about each shard, in the order of the list.
    pub(crate) fn looks(self) -> Vec<Look> {
        self.0.into_iter().map(Open::look).collect()
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::{Hash, MachineId, PublicKey};

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId(PublicKey([n; 32]))
    }

    fn machines(n: u8) -> Vec<MachineId> {
        (0..n).map(|i| MachineId([i; 16])).collect()
    }

    fn shard(of: u8, replicas: &[u8]) -> Shard {
        let ids = machines(of);
        let replicas = replicas.iter().map(|n| node(*n)).collect();
        let sum = Summary::sum_of(&ids);
        Shard { subject: vec![of], machines: ids.len(), sum, replicas }
    }

    /// The summary of the first `n` machines, all installed.
    fn summary(n: u8, digest: u8) -> Summary {
        let mut counts = [0; 8];
        counts[5] = u32::from(n);
        let machines = Summary::sum_of(&machines(n));
        Summary { counts, machines, digest: Hash([digest; 32]), ..Summary::default() }
    }

    /// Asks until there is nobody left, with these answers; returns how many summaries were sent.
    fn play(
        gather: &mut Gather,
        mut answer: impl FnMut(NodeId, usize) -> Option<Summary>,
        down: &[u8],
    ) -> usize {
        let mut read = 0;
        while let Some((peer, shards)) = gather.next() {
            let reply = (!down.contains(&peer.0.0[0]))
                .then(|| shards.iter().map(|at| answer(peer, *at)).collect::<Vec<_>>());
            read += reply.as_ref().map_or(0, Vec::len);
            gather.answered(peer, &shards, reply);
        }
        read
    }

    #[test]
    fn ten_thousand_machines_cost_one_summary_for_64() {
        let replicas =
            |at: usize| (0..8).map(|i| ((at * 7 + i * 31) % 251) as u8).collect::<Vec<_>>();
        let shards: Vec<Shard> = (0..256).map(|at| shard(40, &replicas(at))).collect();
        let mut gather = Gather::new(shards);
        let read = play(&mut gather, |_, _| Some(summary(40, 1)), &[]);
        assert_eq!(read, 256);
        let looks = gather.looks();
        assert!(looks.iter().all(|l| *l == Look::Counted(summary(40, 1))));
    }

    #[test]
    fn several_shards_go_to_one_peer_in_one_request() {
        let mut gather = Gather::new((0..600).map(|_| shard(3, &[1, 2])).collect());
        let (peer, shards) = gather.next().unwrap();
        assert_eq!((peer, shards.len()), (node(1), SUMMARIES));
        assert_eq!(gather.subjects(&shards[..2]), [vec![3], vec![3]]);
        assert_eq!(gather.next().unwrap().1.len(), SUMMARIES);
        assert_eq!(gather.next().unwrap().1.len(), 600 - 2 * SUMMARIES);
        assert!(gather.next().is_none());
    }

    #[test]
    fn who_does_not_answer_is_replaced_up_to_three() {
        let mut gather = Gather::new(vec![shard(3, &[1, 2, 3, 4]), shard(3, &[1, 2, 5, 4])]);
        let read = play(&mut gather, |_, _| Some(summary(3, 1)), &[1, 2, 3]);
        assert_eq!(read, 1);
        assert_eq!(gather.looks(), [Look::Silent, Look::Counted(summary(3, 1))]);
        let mut nobody = Gather::new(vec![shard(3, &[])]);
        assert!(nobody.next().is_none());
        assert_eq!(nobody.looks(), [Look::Silent]);
    }

    #[test]
    fn a_replica_that_lost_its_data_is_not_believed() {
        let mut gather = Gather::new(vec![shard(3, &[1, 2, 3, 4])]);
        let lost = |peer, _| (peer != node(1)).then(|| summary(3, 1));
        assert_eq!(play(&mut gather, lost, &[]), 3);
        assert_eq!(gather.looks(), [Look::Merge]);
    }

    #[test]
    fn missing_machines_are_asked_for_where_replicas_agree() {
        // two of three reported: three replicas say so, the cells tell who
        let mut gather = Gather::new(vec![shard(3, &[1, 2, 3, 4])]);
        assert_eq!(play(&mut gather, |_, _| Some(summary(2, 1)), &[]), 3);
        assert_eq!(gather.looks(), [Look::One(node(1))]);
        // nobody reported: no need to read
        let mut gather = Gather::new(vec![shard(3, &[1, 2, 3, 4])]);
        play(&mut gather, |_, _| None, &[]);
        assert_eq!(gather.looks(), [Look::Counted(Summary::default())]);
        // as many as wanted, but another machine is among them
        let mut gather = Gather::new(vec![shard(3, &[1])]);
        let mut other = summary(3, 1);
        other.machines[0] ^= 1;
        play(&mut gather, |_, _| Some(other.clone()), &[]);
        assert_eq!(gather.looks(), [Look::One(node(1))]);
    }

    #[test]
    fn a_short_answer_is_a_failure_of_the_rest() {
        let mut gather = Gather::new(vec![shard(3, &[1]), shard(3, &[1])]);
        let (peer, shards) = gather.next().unwrap();
        gather.answered(peer, &shards, Some(vec![Some(summary(3, 1))]));
        assert!(gather.next().is_none());
        assert_eq!(gather.looks(), [Look::Counted(summary(3, 1)), Look::Silent]);
    }
}
