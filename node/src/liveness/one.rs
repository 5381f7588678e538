//! One core by itself, between three others: whom it asks, and what it believes.

use std::collections::BTreeSet;
use std::time::Duration;

use p2pinst_types::{Millis, NodeId, PublicKey};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::core::{Core, Input, Now, Output};
use super::wire::{Message, Short, State, Tag, Update};

const PERIOD: Duration = Duration::from_secs(1);
const START: u64 = 1_700_000_000_000;

/// One core by itself, and three members it may hear of.
struct One {
    core: Core,
    peers: [NodeId; 3],
    now: Now,
}

impl One {
    /// Connected with all of them, in the lives 11, 12 and 13; the first `watched` are to be kept.
    fn new(watched: usize) -> Self {
        let id = |n: u8| NodeId(PublicKey([n; 32]));
        let (own, peers) = (id(1), [id(2), id(3), id(4)]);
        let now = Now { steady: Duration::ZERO, wall: Millis(START) };
        let mut one =
            Self { core: Core::new(own, 1, PERIOD, now, StdRng::seed_from_u64(1)), peers, now };
        one.core.step(now, Input::Roster(peers.into_iter().chain([own]).collect()));
        let turns = peers[..watched].to_vec();
        one.core.step(now, Input::Watch { members: turns.iter().copied().collect(), turns });
        for (node, life) in peers.into_iter().zip(11..) {
            one.core.step(now, Input::Connected { node, life });
        }
        one
    }

    fn message(&mut self, from: usize, tag: Tag, number: u32, updates: Vec<Update>) -> Vec<Output> {
        let (version, life) = (START, 11 + from as u64);
        let message = Message { tag, number, version, life, digest: 0, updates };
        let bytes = message.encode();
        self.core.step(self.now, Input::Message { from: self.peers[from], bytes })
    }

    fn says(&self, of: usize, state: State) -> Vec<Update> {
        let (who, life) = (Short::of(&self.peers[of]), 11 + of as u64);
        vec![Update { who, version: START, life, state }]
    }

    /// Lets time pass in which these answer what they are asked; returns what was sent to whom.
    fn messages(&mut self, periods: u32, answer: &[usize]) -> Vec<(usize, Message)> {
        let mut sent = Vec::new();
        for _ in 0..periods * 10 {
            self.now.steady += PERIOD / 10;
            self.now.wall = self.now.wall.after(PERIOD / 10);
            for output in self.core.step(self.now, Input::Tick) {
                let Output::Send { to, bytes } = output else { continue };
                let to = self.peers.iter().position(|p| *p == to).unwrap();
                let asked = Message::decode(&bytes).unwrap();
                if asked.tag == Tag::Ping && answer.contains(&to) {
                    self.message(to, Tag::Ack, asked.number, Vec::new());
                }
                sent.push((to, asked));
            }
        }
        sent
    }

    /// The same; returns who was sent something.
    fn pass(&mut self, periods: u32, answer: &[usize]) -> BTreeSet<usize> {
        self.messages(periods, answer).into_iter().map(|(to, _)| to).collect()
    }

    /// The same, in which all answer; returns who was asked, in turn.
    fn pings(&mut self, periods: u32) -> Vec<usize> {
        let sent = self.messages(periods, &[0, 1, 2]).into_iter();
        sent.filter(|(_, m)| m.tag == Tag::Ping).map(|(to, _)| to).collect()
    }

    fn state(&self, of: usize) -> State {
        self.core.get(&self.peers[of]).unwrap().state
    }
}

#[test]
fn who_has_not_spoken_on_this_connection_but_to_others_is_found_dead() {
    // one that nobody has heard is just joining: its connection counts
    let mut one = One::new(3);
    one.pass(20, &[0, 1]);
    assert_eq!(one.state(2), State::Alive);
    // others have heard it in this life
    one.message(0, Tag::Gossip, 0, one.says(2, State::Alive));
    one.pass(12, &[0, 1]);
    assert_eq!(one.state(2), State::Down, "it does not answer, as others can");
    // the same by hearsay
    let mut one = One::new(3);
    one.message(0, Tag::Gossip, 0, one.says(2, State::Alive));
    one.pass(3, &[0, 1]);
    one.message(1, Tag::Gossip, 0, one.says(2, State::Down));
    one.pass(2, &[0, 1]);
    assert_eq!(one.state(2), State::Down);
}

#[test]
fn nothing_is_said_at_rest_on_a_connection_that_need_not_be_kept() {
    let mut one = One::new(2);
    for n in 0..3 {
        one.message(n, Tag::Ack, 0, Vec::new());
    }
    one.pass(20, &[0, 1]); // news of the beginning
    assert_eq!(one.pass(60, &[0, 1]), BTreeSet::from([0, 1]));
    assert_eq!(one.state(2), State::Alive);
    // unless others miss it, though it was heard just before
    one.message(2, Tag::Ack, 0, Vec::new());
    one.message(0, Tag::Gossip, 0, one.says(2, State::Down));
    assert_eq!(one.state(2), State::Alive, "this node knows better");
    one.pass(8, &[0, 1]);
    assert_eq!(one.state(2), State::Down);
}

#[test]
fn whom_others_miss_is_asked_next_but_a_liar_delays_nobody_for_ever() {
    let mut one = One::new(2);
    for n in 0..3 {
        one.message(n, Tag::Ack, 0, Vec::new());
    }
    one.pass(20, &[0, 1]); // news of the beginning
    // one that is not kept connected was heard a moment ago, and is accused all the time
    let mut asked = [0; 3];
    for round in 0..20 {
        one.message(2, Tag::Ack, 0, Vec::new());
        let (who, life) = (Short::of(&one.peers[2]), 13);
        let lie = Update { who, version: START + round, life, state: State::Down };
        one.message(0, Tag::Gossip, 0, vec![lie]);
        for to in one.pings(1) {
            asked[to] += 1;
        }
    }
    assert_eq!(asked.iter().sum::<usize>(), 20);
    assert_eq!(asked[2], 10, "every other time");
    assert!(asked[0] >= 3 && asked[1] >= 3, "the others have their turns: {asked:?}");
}

#[test]
fn before_somebody_is_down_on_hearsay_companions_are_asked_what_they_know_better() {
    let mut one = One::new(2);
    for n in 0..3 {
        one.message(n, Tag::Ack, 0, Vec::new());
    }
    one.core.step(one.now, Input::Disconnected(one.peers[2]));
    one.pass(20, &[0, 1]);
    let word = |one: &One, version, state| {
        let (who, life) = (Short::of(&one.peers[2]), 13);
        Update { who, version, life, state }
    };
    let lie = word(&one, START + 1, State::Down);
    one.message(0, Tag::Gossip, 0, vec![lie]);
    assert_eq!(one.state(2), State::Suspect);
    let questions: Vec<(usize, Message)> =
        one.messages(1, &[0, 1]).into_iter().filter(|(_, m)| m.tag == Tag::Table).collect();
    let whom: BTreeSet<usize> = questions.iter().map(|(to, _)| *to).collect();
    assert_eq!(whom, BTreeSet::from([0, 1]));
    assert!(questions.iter().all(|(_, m)| m.updates == [lie]), "{questions:?}");
    let objection = word(&one, START + 2, State::Alive);
    one.message(1, Tag::Better, 0, vec![objection]);
    one.pass(8, &[0, 1]);
    assert_eq!(one.state(2), State::Alive);
}
