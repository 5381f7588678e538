//! What a message changes.

use p2pinst_types::NodeId;
use rand::seq::SliceRandom;

use super::{Core, Now, is_absurd};
use crate::liveness::wire::{Message, PAGE, Short, State, Tag, Update};

/// Periods between two exchanges of the whole table, unless somebody has just come back.
const TABLE_PAUSE: u32 = 10;

impl Core {
    pub(super) fn on_message(&mut self, now: Now, from: NodeId, bytes: &[u8]) {
        let Some(message) = Message::decode(bytes) else { return };
        if self.members.get(&from).is_none() {
            return;
        }
        if message.tag == Tag::Leave {
            let absurd = is_absurd(now, message.version);
            self.members.change(&from, |m| {
                m.version = if absurd { m.version } else { m.version.max(message.version) };
                m.left = Some(m.version);
            });
            self.turn(now, from, State::Down, None);
            return self.spread(from);
        }
        self.on_word(now, from, &message);
        let table = matches!(message.tag, Tag::Table | Tag::Better);
        for update in &message.updates {
            self.on_update(now, from, *update, table);
        }
        match message.tag {
            Tag::Ping => {
                self.send(from, Tag::Ack, message.number);
                self.compare(now, from, message.digest);
            }
            Tag::Ack => {
                self.on_ack(from, message.number);
                self.compare(now, from, message.digest);
            }
            Tag::Ask(short) => self.on_ask(from, short, message.number),
            Tag::Vouch(short) => self.on_vouch(short, message.number),
            Tag::Table => self.on_table(from, &message.updates),
            Tag::Gossip | Tag::Better | Tag::Leave => {}
        }
    }

    /// A member's own word: it is up, whatever others say.
    fn on_word(&mut self, now: Now, from: NodeId, message: &Message) {
        let Some(member) = self.members.get(&from) else { return };
        let (was, known) = (member.state, member.version);
        let newer = message.version > known && !is_absurd(now, message.version);
        self.members.change(&from, |m| {
            (m.heard, m.spoke, m.life) = (Some(now.steady), m.connected, message.life);
            if newer {
                m.version = message.version;
                m.accused = m.accused.filter(|(v, _)| *v >= message.version);
            } else if message.version < known || was == State::Suspect || was == State::Down {
                // it does not know what is said of it
                m.accused = Some((known, was));
            }
        });
        if self.members.get(&from).is_some_and(|m| m.left >= Some(message.version)) {
            return;
        }
        self.members.change(&from, |m| m.left = None);
        self.turn(now, from, State::Alive, None);
        if newer {
            self.spread(from);
        }
    }

    fn on_update(&mut self, now: Now, from: NodeId, update: Update, table: bool) {
        if is_absurd(now, update.version) || update.state == State::Unknown {
            return;
        }
        if update.who == Short::of(&self.own) {
            let accused = update.state != State::Alive && update.version >= self.version;
            if accused || update.version > self.version {
                self.version = update.version + 1;
                self.spread(self.own);
            }
            return;
        }
        let Some(node) = self.members.named(update.who) else { return };
        let Some(member) = self.members.get(&node) else { return };
        let (was, known) = (member.state, member.version);
        if update.version < known {
            return;
        }
        if update.state == State::Alive {
            if update.version > known || was == State::Unknown {
                self.members.change(&node, |m| {
                    (m.version, m.life) = (update.version, update.life);
                    m.accused = m.accused.filter(|(v, _)| *v >= update.version);
                });
                self.turn(now, node, State::Alive, Some(from));
                if !(table && was == State::Unknown) {
                    self.spread(node);
                }
            }
            return;
        }
        self.on_accusation(now, from, node, update);
    }

    /// Two that know different things, and no rumour is on its way: they tell each other all.
    fn compare(&mut self, now: Now, with: NodeId, theirs: u64) {
        if theirs == self.digest() || !self.rumours.is_empty() || now.steady < self.next_table {
            return;
        }
        self.next_table = now.steady + self.period * TABLE_PAUSE;
        let mut table: Vec<Update> = self.members.iter().map(|(n, m)| m.update(n)).collect();
        table.push(self.own_update());
        let mut pages: Vec<&[Update]> = table.chunks(PAGE).collect();
        // of many some get lost: not always the same
        pages.shuffle(&mut self.rng);
        for page in pages {
            self.send_updates(with, Tag::Table, 0, page.to_vec());
        }
    }

    fn on_table(&mut self, from: NodeId, theirs: &[Update]) {
        let better = theirs.iter().filter_map(|their| {
            let ours = self.update_of(&self.members.named(their.who)?)?;
            let newer = ours.version > their.version;
            let worse = ours.version == their.version && rank(ours.state) > rank(their.state);
            (newer || worse).then_some(ours)
        });
        let better: Vec<Update> = better.collect();
        if !better.is_empty() {
            self.send_updates(from, Tag::Better, 0, better);
        }
    }
}

/// Of two claims with one version the worse counts: its subject can object.
fn rank(state: State) -> u8 {
    match state {
        State::Unknown => 0,
        State::Alive => 1,
        State::Suspect => 2,
        State::Down => 3,
    }
}
