//! One core by itself: what it makes of what a single member says.

use std::collections::BTreeSet;
use std::time::Duration;

use p2pinst_types::{Hash, Millis, NodeId, PublicKey};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::core::{Core, Input, Now, Output};
use super::wire::{Message, PAGE, Short, State, Tag, Update};

const PERIOD: Duration = Duration::from_secs(1);
const START: u64 = 1_700_000_000_000;

/// A core and the other members.
struct Alone {
    core: Core,
    members: Vec<NodeId>,
    now: Now,
}

impl Alone {
    /// Among `count` others, connected with the first.
    fn new(count: usize) -> Self {
        let id = |n: usize| NodeId(PublicKey(*Hash::of(&n.to_be_bytes()).as_bytes()));
        let members: Vec<NodeId> = (1..=count).map(id).collect();
        let now = Now { steady: Duration::ZERO, wall: Millis(START) };
        let core = Core::new(id(0), 1, PERIOD, now, StdRng::seed_from_u64(1));
        let mut alone = Self { core, members, now };
        let roster = alone.members.iter().copied().chain([id(0)]).collect();
        alone.core.step(now, Input::Roster(roster));
        alone.connect(0);
        alone
    }

    fn connect(&mut self, n: usize) {
        self.core.step(self.now, Input::Connected { node: self.members[n], life: 1 });
    }

    /// Member `n` says something; returns what it, or whoever it is, is sent.
    fn hear(&mut self, n: usize, tag: Tag, version: u64, updates: Vec<Update>) -> Vec<Message> {
        let message = Message { tag, number: 0, version, life: 1, digest: 0, updates };
        let input = Input::Message { from: self.members[n], bytes: message.encode() };
        let out = self.core.step(self.now, input);
        sent(out).collect()
    }

    /// Time passes, in which the first member answers all.
    fn pass(&mut self, periods: u32) -> Vec<Message> {
        let mut all = Vec::new();
        for _ in 0..periods * 10 {
            self.now.steady += PERIOD / 10;
            self.now.wall = self.now.wall.after(PERIOD / 10);
            all.extend(sent(self.core.step(self.now, Input::Tick)));
            all.extend(self.hear(0, Tag::Ack, START, Vec::new()));
        }
        all
    }

    fn update(&self, n: usize, version: u64) -> Update {
        let who = Short::of(&self.members[n]);
        Update { who, version, life: 1, state: State::Alive }
    }
}

fn sent(out: Vec<Output>) -> impl Iterator<Item = Message> {
    out.into_iter().filter_map(|output| match output {
        Output::Send { bytes, .. } => Message::decode(&bytes),
        _ => None,
    })
}

#[test]
fn a_table_of_which_pages_are_lost_is_whole_after_some_exchanges() {
    let count = 8 * PAGE;
    let mut alone = Alone::new(count);
    let all: Vec<Update> = (0..count).map(|n| alone.update(n, START)).collect();
    for page in all.chunks(PAGE) {
        alone.hear(0, Tag::Better, START, page.to_vec());
    }
    let mut untold: BTreeSet<Short> = all.iter().map(|u| u.who).collect();
    for _ in 0..12 {
        let sent = alone.pass(12);
        let pages = sent.into_iter().filter(|m| m.tag == Tag::Table);
        // so many go out before the queue is full
        for update in pages.take(6).flat_map(|m| m.updates) {
            untold.remove(&update.who);
        }
    }
    assert!(untold.is_empty(), "{} of {count} were not told", untold.len());
}

#[test]
fn one_rumour_told_anew_over_and_over_does_not_stop_the_others() {
    let mut alone = Alone::new(3);
    let news = alone.update(2, START + 1);
    alone.hear(0, Tag::Gossip, START, vec![news]);
    alone.connect(1);
    for n in 0..20 {
        alone.hear(1, Tag::Gossip, START + n, Vec::new());
    }
    let sent = alone.pass(40);
    let told = |m: &Message| m.tag != Tag::Table && m.updates.contains(&news);
    assert!(sent.iter().any(told));
    let sent = alone.pass(40);
    assert!(sent.iter().all(|m| m.tag != Tag::Gossip), "nothing is left to gossip about");
    assert!(sent.iter().any(|m| m.tag == Tag::Table), "what was lost is found");
}

#[test]
fn a_leave_with_a_version_beyond_all_others_is_known_as_others_know_it() {
    let mut alone = Alone::new(3);
    alone.connect(1);
    alone.hear(1, Tag::Ack, START + 5, Vec::new());
    alone.hear(1, Tag::Leave, u64::MAX, Vec::new());
    let known = alone.core.get(&alone.members[1]).unwrap();
    assert_eq!(known.state, State::Down);
    let sent = alone.pass(2);
    let left = Update { state: State::Down, ..alone.update(1, START + 5) };
    let told: Vec<&Update> =
        sent.iter().flat_map(|m| &m.updates).filter(|u| u.who == left.who).collect();
    assert!(!told.is_empty() && told.iter().all(|u| **u == left), "{told:?}");
    // it comes back: its word is news again
    alone.connect(1);
    alone.hear(1, Tag::Ack, START + 6, Vec::new());
    let back = alone.update(1, START + 6);
    assert!(alone.pass(2).iter().any(|m| m.updates.contains(&back)));
}
