//! From a doubt to *down*: the time in which a suspect can object, and how it gets to know of it.

use std::time::Duration;

use p2pinst_types::NodeId;

use super::{Core, Now, Output};
use crate::liveness::members::Member;
use crate::liveness::wire::{PAGE, State, Tag, Update};

/// Into so many parts a suspicion is divided: after each but the last, others are asked.
const PARTS: u32 = 3;

impl Core {
    /// How long a suspect has to object: larger clusters need longer to tell it.
    fn patience(&self) -> Duration {
        self.period * if self.members.len() > 64 { 3 } else { 2 }
    }

    /// Who has not objected in time is down.
    pub(super) fn end_suspicions(&mut self, now: Now) {
        let over = |m: &Member| now.steady >= m.deadline;
        let due: Vec<NodeId> =
            self.members.suspects().filter(|(_, m)| over(m)).map(|(n, _)| *n).collect();
        let alone = self.members.connected().is_empty();
        for node in due {
            // who reaches nobody does not know who is down
            let state = if alone { State::Unknown } else { State::Down };
            let by = self.members.get(&node).and_then(|m| m.by);
            self.turn(now, node, state, by);
            if !alone {
                self.spread(node);
            }
            if self.members.get(&node).is_some_and(|m| m.connected) {
                self.out.push(Output::Dead(node));
            }
        }
    }

    /// Asks some companions what they know better of suspects before these are down: among many
    /// rumours an objection can be late, and with a loss it can fail to come.
    pub(super) fn inquire(&mut self, now: Now) {
        if self.members.suspects().all(|(_, m)| now.steady < m.inquiry) {
            return;
        }
        let (next, soon) = (self.next_inquiry(now), now.steady + self.period / 5);
        // also those of whom it is soon time: fewer messages
        let suspects = self.members.suspects().filter(|(_, m)| m.inquiry <= soon);
        let suspects: Vec<(NodeId, Update)> = suspects.map(|(n, m)| (*n, m.update(n))).collect();
        for (node, _) in &suspects {
            self.members.change(node, |m| m.inquiry = next);
            self.confront(*node);
        }
        let updates: Vec<Update> = suspects.into_iter().map(|(_, update)| update).collect();
        for page in updates.chunks(PAGE) {
            for to in self.some_connected(None) {
                self.send_updates(to, Tag::Table, 0, page.to_vec());
            }
        }
    }

    fn next_inquiry(&self, now: Now) -> Duration {
        now.steady + self.patience() / PARTS
    }

    /// Tells a suspect of the suspicion, so that it can object.
    fn confront(&mut self, node: NodeId) {
        let Some(member) = self.members.get(&node).filter(|m| m.connected) else { return };
        let (version, state) = (member.version, member.state);
        if member.accused.is_none_or(|(v, _)| v < version) {
            self.members.change(&node, |m| m.accused = Some((version, state)));
        }
        let number = self.next_number();
        self.send(node, Tag::Ping, number);
    }

    /// A connection that should be open is not.
    pub(super) fn doubt(&mut self, now: Now, node: NodeId) {
        let open = self.members.get(&node).is_none_or(|m| m.connected);
        if !open && self.watched.contains(&node) {
            self.suspect(now, node);
        }
    }

    pub(super) fn suspect(&mut self, now: Now, node: NodeId) {
        if self.members.get(&node).is_none_or(|m| m.state != State::Alive) {
            return;
        }
        let (deadline, inquiry) = (now.steady + self.patience(), self.next_inquiry(now));
        self.members.change(&node, |m| {
            (m.deadline, m.inquiry, m.said_down) = (deadline, inquiry, false);
        });
        self.turn(now, node, State::Suspect, None);
        self.spread(node);
        self.confront(node);
    }

    /// Somebody says that a member is suspect or down.
    pub(super) fn on_accusation(&mut self, now: Now, from: NodeId, node: NodeId, update: Update) {
        let Some(member) = self.members.get(&node) else { return };
        let down = update.state == State::Down;
        if member.state == State::Unknown && down {
            self.members.change(&node, |m| (m.version, m.life) = (update.version, update.life));
            return self.turn(now, node, State::Down, Some(from));
        }
        let recent = |m: &Member| m.heard.is_some_and(|h| h + self.period * 2 > now.steady);
        let heard = recent(member) || member.is_mute();
        if member.connected {
            // it is told, so that it can object
            if member.accused.is_none_or(|(v, _)| v < update.version) {
                let accused = Some((update.version, update.state));
                self.members.change(&node, |m| m.accused = accused);
                let number = self.next_number();
                self.send(node, Tag::Ping, number);
            }
            if heard {
                // this node knows better; it may have been its last word
                return self.probing.miss(node);
            }
        }
        let Some(member) = self.members.get(&node) else { return };
        let news = update.version > member.version;
        let (state, said_down) = (member.state, member.said_down);
        // who is not connected in a small cluster is hardly there
        let quick = if self.members.len() > 64 { self.patience() } else { self.period * 3 / 2 };
        let quick = now.steady + quick;
        let deadline = match state {
            State::Down if !news => return,
            State::Suspect if !news && (said_down || !down) => return,
            State::Suspect if !news => member.deadline.min(quick),
            _ if down => quick,
            _ => now.steady + self.patience(),
        };
        let inquiry = self.next_inquiry(now);
        self.members.change(&node, |m| {
            (m.version, m.life) = (update.version, update.life);
            (m.deadline, m.said_down) = (deadline, down);
            // one accusation after the other does not put off the question
            m.inquiry = if state == State::Suspect { m.inquiry } else { inquiry };
        });
        if state == State::Down {
            // down it stays; others may know only the older word
            return self.spread(node);
        }
        self.turn(now, node, State::Suspect, Some(from));
        self.spread(node);
    }
}
