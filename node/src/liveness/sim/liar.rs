//! A member that lies all the time.

use super::{PERIOD, Sim, seed};
use crate::liveness::wire::{Message, Short, State, Tag, Update};

/// What the first member says of another, to one of its peers; in round after round.
type Lie = fn(sim: &Sim, round: usize, to: usize, of: usize) -> Option<Update>;

fn claim(sim: &Sim, of: usize, version: u64, state: State) -> Option<Update> {
    Some(Update { who: Short::of(&sim.ids[of]), version, life: 9, state })
}

/// Every second is down; every other has a version that it cannot surpass.
fn down_or_high(sim: &Sim, round: usize, _: usize, of: usize) -> Option<Update> {
    let wall = sim.now().wall.0;
    let high = [u64::MAX, wall + 86_000_000][round % 2];
    let (version, state) = [(wall, State::Down), (high, State::Alive)][of % 2];
    claim(sim, of, version, state)
}

/// All but one are down.
fn all_down(sim: &Sim, _: usize, _: usize, of: usize) -> Option<Update> {
    if of == SPARED { None } else { claim(sim, of, sim.now().wall.0, State::Down) }
}

/// To each peer others are suspect.
fn to_each_another(sim: &Sim, round: usize, to: usize, of: usize) -> Option<Update> {
    let now = (to + of + round).is_multiple_of(3) && of != SPARED;
    now.then(|| claim(sim, of, sim.now().wall.0, State::Suspect)).flatten()
}

/// Of whom the last two say nothing.
const SPARED: usize = 4;

impl Sim {
    fn lie(&mut self, round: usize, lie: Lie) {
        let peers: Vec<usize> = self.hosts[0].peers.iter().copied().collect();
        for to in peers {
            let updates: Vec<Update> =
                (1..self.ids.len()).filter_map(|m| lie(self, round, to, m)).collect();
            let (tag, version) = (Tag::Gossip, self.now().wall.0);
            let lie = Message { tag, number: 0, version, life: 1, digest: 0, updates };
            self.send(0, to, lie.encode());
        }
    }
}

/// Through all the lies of a member all others stay up for all, and one that dies is found.
#[test]
fn a_liar_takes_nobody_out_and_hides_nobody() {
    for count in [30, 200] {
        for (lie, spares) in
            [(down_or_high as Lie, false), (all_down, true), (to_each_another, true)]
        {
            let mut sim = Sim::new(count, 64, seed());
            sim.settle(30);
            for round in 0..12 {
                sim.lie(round, lie);
                sim.run(PERIOD);
                assert_eq!(sim.falsely_down(), 0, "round {round}");
            }
            if !spares {
                continue; // who is dead is up again in its words
            }
            sim.kill(SPARED, false);
            let found = |s: &Sim| s.running().all(|n| n == 0 || !s.sees(n, SPARED).is_up());
            let rounds = (12..40).take_while(|round| {
                sim.lie(*round, lie);
                sim.run(PERIOD);
                assert_eq!(sim.falsely_down(), 0, "round {round}");
                !found(&sim)
            });
            println!("{count} members: found in {:?}", PERIOD * rounds.count() as u32);
            assert!(found(&sim));
        }
    }
}
