//! Pieces on their way, and the news of them.

use std::rc::Rc;

use p2pinst_chunks::fetch::Input;
use p2pinst_chunks::serve::{Job, Offer};
use p2pinst_types::PieceIndex;

use super::super::Bad;
use super::super::links::weight;
use super::{Event, World};
use crate::sim::queue::Micros;

#[allow(clippy::indexing_slicing, reason = "nodes and sites have numbers below the number of them")]
impl World {
    /// Makes the offers and sends the pieces that are due.
    pub(super) fn pump(&mut self, from: u32) {
        if !self.nodes[from as usize].alive {
            return;
        }
        let now = self.now();
        while let Some((to, offer)) = self.nodes[from as usize].serve.next_offer(now) {
            match offer {
                Offer::Pieces(pieces) => {
                    let bytes = pieces.len() as u64 * 4;
                    self.send(from, to, bytes, Event::Offered { at: to, from, pieces });
                }
                Offer::All => self.send(from, to, 0, Event::Free { at: to, from }),
            }
        }
        let mut any = false;
        while let Some(Job { peer, piece, .. }) = self.nodes[from as usize].serve.next_job() {
            let weight = weight(self.plan.share, self.plan.seed, from, peer, self.queue.now());
            let bytes = self.blob.piece_len() as f64 + 9.0;
            self.nodes[from as usize].up.send(self.queue.now(), (peer, piece), bytes, weight);
            any = true;
            if from == 0 {
                self.published += 1;
                if self.left.set(piece) && self.left.is_full() {
                    self.report.first_copy = now.as_secs_f64();
                    self.first_copy_is_out();
                }
            }
        }
        if any {
            self.plan_uplink(from);
        }
    }

    pub(super) fn plan_uplink(&mut self, at: u32) {
        if let Some((end, turn)) = self.nodes[at as usize].up.next_end() {
            self.queue.at(end, Event::Uplink { at, turn });
        }
    }

    pub(super) fn uplink(&mut self, at: u32, turn: u32) {
        let now = self.queue.now();
        let ended = self.nodes[at as usize].up.ended(now, turn);
        let bytes = self.blob.piece_len() as f64 + 9.0;
        for flow in &ended {
            let (to, piece) = flow.what;
            let delay = self.delay(at, to);
            let (mut since, mut until) = (flow.since, now as f64);
            let (here, there) = (usize::from(self.plan.site(at)), usize::from(self.plan.site(to)));
            let lost = self.is_cut(at, to) || !self.nodes[to as usize].alive;
            if here != there && !lost {
                until = self.wan[here].0.pass(since, until, bytes);
            }
            // a stream takes the next piece when this one has passed the narrowest link behind it
            self.queue.at(until.ceil() as Micros, Event::Sent { from: at, to });
            if lost {
                continue;
            }
            since += delay;
            until += delay;
            if here != there {
                self.crossed[there] += 1;
                until = self.wan[there].1.pass(since, until, bytes);
            }
            until = self.nodes[to as usize].down.pass(since, until, bytes);
            self.queue.at(until.ceil() as Micros, Event::Piece { at: to, from: at, piece });
        }
        if !ended.is_empty() {
            self.plan_uplink(at);
        }
    }

    pub(super) fn on_piece(&mut self, at: u32, from: u32, piece: PieceIndex) {
        let node = &self.nodes[at as usize];
        if !node.alive {
            return;
        }
        if self.nodes[from as usize].bad == Some(Bad::Garbage) {
            return self.step_from(at, from, Input::Bad { peer: from, piece });
        }
        let node = &mut self.nodes[at as usize];
        let new = !node.fetch.have().get(piece);
        self.report.pieces += 1;
        self.report.duplicates += u64::from(!new);
        if new {
            node.fresh.push(piece);
            let now = self.now();
            let node = &mut self.nodes[at as usize];
            let held = node.fetch.have().count() + 1;
            let before = node.news.due();
            if node.news.came(now, held, self.plan.pieces) {
                self.flush(at);
            } else if node.news.due() != before {
                self.plan_news(at);
            }
        }
        self.step(at, Input::Verified { peer: from, piece });
    }

    fn plan_news(&mut self, n: u32) {
        if let Some(due) = self.nodes[n as usize].news.due() {
            let due = u64::try_from(due.as_micros()).unwrap_or(u64::MAX);
            self.queue.at(due.max(self.queue.now() + 1), Event::News(n));
        }
    }

    /// Time has come to tell the pieces that wait.
    pub(super) fn on_news(&mut self, n: u32) {
        let now = self.now();
        if self.nodes[n as usize].news.is_due(now) {
            self.flush(n);
        }
    }

    fn flush(&mut self, n: u32) {
        let pieces: Rc<[PieceIndex]> = std::mem::take(&mut self.nodes[n as usize].fresh).into();
        let downloaders = std::mem::take(&mut self.nodes[n as usize].downloaders);
        for to in &downloaders {
            if self.nodes[*to as usize].done.is_none() {
                let bytes = pieces.len() as u64 * 4;
                let has = Event::Has { at: *to, from: n, pieces: Rc::clone(&pieces) };
                self.send(n, *to, bytes, has);
            }
        }
        self.nodes[n as usize].downloaders = downloaders;
    }
}
