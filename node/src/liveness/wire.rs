//! The messages of `/p2pinst/swim/1`: fixed layouts, bounded before anything is allocated.
//!
//! Members are named by the first eight bytes of their keys: the roster says who is meant. A name
//! that the roster does not know, or knows twice, is passed over.

use p2pinst_types::NodeId;

/// Longest message: a page of the table, or as many rumours as one message carries.
pub(super) const MESSAGE: usize = HEADER + PAGE * UPDATE;
/// Updates in one message.
pub(super) const PAGE: usize = 256;

const HEADER: usize = 1 + 4 + 8 + 8 + 8 + 2;
const UPDATE: usize = 8 + 8 + 8 + 1;

/// A member's short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Short(u64);

impl Short {
    pub(super) fn of(node: &NodeId) -> Self {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(node.0.as_bytes()) {
            *to = *from;
        }
        Self(u64::from_be_bytes(bytes))
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// What is known, or claimed, of a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is known of it: it was never heard of, or this node reaches nobody.
    #[default]
    Unknown,
    /// It is up.
    Alive,
    /// It does not answer somebody; it counts as up until its time to object is over.
    Suspect,
    /// It has left, or has not answered.
    Down,
}

impl State {
    /// Whether a member in this state counts as up.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }

    fn byte(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Alive => 1,
            Self::Suspect => 2,
            Self::Down => 3,
        }
    }

    fn parse(byte: u8) -> Option<Self> {
        [Self::Unknown, Self::Alive, Self::Suspect, Self::Down].get(usize::from(byte)).copied()
    }
}

/// One claim about one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) who: Short,
    /// Counts what the member itself has said: only it goes on to a higher one.
    pub(super) version: u64,
    /// Which life of the node it is, as it shows in the handshake.
    pub(super) life: u64,
    pub(super) state: State,
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Are you there?
    Ping,
    /// I am here.
    Ack,
    /// Is that member there? It does not answer me.
    Ask(Short),
    /// It answered me.
    Vouch(Short),
    /// Rumours alone.
    Gossip,
    /// A page of what the sender knows; answer with what you know better.
    Table,
    /// What the sender knows better of a page.
    Better,
    /// The sender stops.
    Leave,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) tag: Tag,
    /// Joins question and answer.
    pub(super) number: u32,
    /// The sender's version and life.
    pub(super) version: u64,
    pub(super) life: u64,
    /// Over all that the sender knows: equal where two know the same.
    pub(super) digest: u64,
    pub(super) updates: Vec<Update>,
}

/// Reads from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[b]| b)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (tag, about) = match self.tag {
            Tag::Ping => (1, None),
            Tag::Ack => (2, None),
            Tag::Ask(who) => (3, Some(who)),
            Tag::Vouch(who) => (4, Some(who)),
            Tag::Gossip => (5, None),
            Tag::Table => (6, None),
            Tag::Better => (7, None),
            Tag::Leave => (8, None),
        };
        let mut out = Vec::with_capacity(HEADER + 8 + self.updates.len().min(PAGE) * UPDATE);
        out.push(tag);
        out.extend(self.number.to_be_bytes());
        out.extend(self.version.to_be_bytes());
        out.extend(self.life.to_be_bytes());
        out.extend(self.digest.to_be_bytes());
        if let Some(Short(who)) = about {
            out.extend(who.to_be_bytes());
        }
        let updates = self.updates.iter().take(PAGE);
        out.extend(u16::try_from(updates.len()).unwrap_or(0).to_be_bytes());
        for update in updates {
            out.extend(update.who.0.to_be_bytes());
            out.extend(update.version.to_be_bytes());
            out.extend(update.life.to_be_bytes());
            out.push(update.state.byte());
        }
        out
    }

    /// Reads a message; `None` when it is not one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let tag = r.u8()?;
        let (number, version, life, digest) = (r.u32()?, r.u64()?, r.u64()?, r.u64()?);
        let tag = match tag {
            1 => Tag::Ping,
            2 => Tag::Ack,
            3 => Tag::Ask(Short(r.u64()?)),
            4 => Tag::Vouch(Short(r.u64()?)),
            5 => Tag::Gossip,
            6 => Tag::Table,
            7 => Tag::Better,
            8 => Tag::Leave,
            _ => return None,
        };
        let count = usize::from(r.u16()?);
        if count > PAGE || r.0.len() != count * UPDATE {
            return None;
        }
        let mut updates = Vec::with_capacity(count);
        for _ in 0..count {
            let (who, version, life) = (Short(r.u64()?), r.u64()?, r.u64()?);
            updates.push(Update { who, version, life, state: State::parse(r.u8()?)? });
        }
        Some(Self { tag, number, version, life, digest, updates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: Tag) -> Message {
        let update = Update { who: Short(1), version: 2, life: 3, state: State::Down };
        Message { tag, number: 4, version: 5, life: 6, digest: 7, updates: vec![update] }
    }

    #[test]
    fn messages_survive_the_wire_and_every_truncation_is_refused() {
        let tags = [Tag::Ping, Tag::Ack, Tag::Ask(Short(9)), Tag::Vouch(Short(9)), Tag::Gossip];
        for tag in tags.into_iter().chain([Tag::Table, Tag::Better, Tag::Leave]) {
            let bytes = message(tag).encode();
            assert_eq!(Message::decode(&bytes), Some(message(tag)));
            assert!(bytes.len() <= MESSAGE + 8);
            for len in 0..bytes.len() {
                assert_eq!(Message::decode(bytes.get(..len).unwrap()), None);
            }
        }
        let mut full = message(Tag::Table);
        full.updates = vec![full.updates[0]; PAGE];
        assert_eq!(full.encode().len(), MESSAGE);
        assert_eq!(Message::decode(&full.encode()), Some(full));
        assert_eq!(Message::decode(&[0; 39]), None);
    }

    #[test]
    fn golden_bytes() {
        let bytes = message(Tag::Ping).encode();
        let head = "0100000004000000000000000500000000000000060000000000000007";
        let want = format!("{head}00010000000000000001000000000000000200000000000000030{}", 3);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, want);
    }
}
