//! A node's repair rounds: one machine of `dht_store::repair` after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use dht_store::Store;
use dht_store::placement::Ring;
use dht_store::repair::{Comparison, Given, Handover, Plan, Shared, Want};
use dht_store::shelf::Subject;
use dht_store::wire::{Request, Response};
use p2pinst_types::{Hash, Millis, PublicKey};

use crate::sim::queue::{Micros, SECOND};

/// Rounds are so far apart, give or take a fifth.
const PAUSE: Micros = 600 * SECOND;
/// A round follows so long after a change of the replicas, give or take a fifth.
const SOON: Micros = 30 * SECOND;

#[derive(Debug)]
enum Job {
    Compare(PublicKey),
    HandOver((Subject, Hash)),
}

#[derive(Debug)]
enum Machine {
    Compare(Comparison),
    HandOver(Handover),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Fixer {
    jobs: VecDeque<Job>,
    machine: Option<Machine>,
    /// Who held what when the round began.
    ring: Option<Arc<Ring>>,
    next: Option<Micros>,
    turned: bool,
    /// Whether an answer is awaited.
    pub(crate) asking: bool,
}

impl Fixer {
    /// The replicas have changed. `jitter`: from 80 to 120.
    pub(crate) fn turned(&mut self, at: Micros, jitter: u64) {
        if !self.turned {
            self.turned = true;
            self.next = Some(at + SOON * jitter / 100);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Begins a round when it is time, and goes on with the one under way. Returns what to ask.
    pub(crate) fn work(
        &mut self,
        store: &mut Store,
        (own, ring): (PublicKey, &Arc<Ring>),
        (at, jitter): (Micros, u64),
        now: Millis,
    ) -> Option<(PublicKey, Request)> {
        let next = *self.next.get_or_insert(at + PAUSE * jitter / 100);
        let idle = self.machine.is_none() && self.jobs.is_empty();
        if idle && at >= next {
            self.turned = false;
            self.next = Some(at + PAUSE * jitter / 100);
            let views = store.views();
            let plan = Plan::of(store.shelf(), ring, &*views, own);
            self.jobs = plan.compare.into_iter().map(Job::Compare).collect();
            self.jobs.extend(plan.hand_over.into_iter().map(Job::HandOver));
            self.ring = Some(Arc::clone(ring));
        }
        if self.asking { None } else { self.go_on(store, own, Given::Nothing, now) }
    }

    /// The peer has answered, or not.
    pub(crate) fn answered(
        &mut self,
        store: &mut Store,
        own: PublicKey,
        answer: Option<Response>,
        now: Millis,
    ) -> Option<(PublicKey, Request)> {
        self.asking = false;
        self.go_on(store, own, Given::Answer(answer), now)
    }

    fn go_on(
        &mut self,
        store: &mut Store,
        own: PublicKey,
        given: Given,
        now: Millis,
    ) -> Option<(PublicKey, Request)> {
        let mut given = given;
        loop {
            let ring = self.ring.clone()?;
            let views = store.views();
            if self.machine.is_none() {
                given = Given::Nothing;
                self.machine = Some(match self.jobs.pop_front()? {
                    Job::Compare(peer) => {
                        let mine = Shared::of(store.shelf(), &ring, &*views, (own, peer));
                        Machine::Compare(Comparison::new(peer, mine))
                    }
                    Job::HandOver(subject) => {
                        Machine::HandOver(Handover::new(subject, &ring, &*views))
                    }
                });
            }
            let want = match &mut self.machine {
                Some(Machine::Compare(machine)) => machine.step(given),
                Some(Machine::HandOver(machine)) => machine.step(given, own, &ring, &*views),
                None => return None,
            };
            given = match want {
                Ok(Want::Ask(peer, request)) => {
                    self.asking = true;
                    return Some((peer, request));
                }
                Ok(Want::Read(subject)) => match store.data(subject.kind, &subject.id) {
                    Ok(cells) => Given::Cells(cells),
                    Err(_) => return self.give_up(),
                },
                Ok(Want::Store(cells)) => match store.apply(cells, &[], now) {
                    Ok(_) => Given::Nothing,
                    Err(_) => return self.give_up(),
                },
                Ok(Want::Drop(subject, digest)) => {
                    if store.drop_subject(&subject, &digest, &own).is_err() {
                        return self.give_up();
                    }
                    self.machine = None;
                    Given::Nothing
                }
                Ok(Want::Nothing) | Err(_) => {
                    self.machine = None;
                    Given::Nothing
                }
            };
        }
    }

    /// The store failed: the round is over.
    fn give_up(&mut self) -> Option<(PublicKey, Request)> {
        self.machine = None;
        self.jobs.clear();
        None
    }
}
