//! The clients that were heard lately: which attempt of theirs this is, and whether anybody has helped.
//!
//! A *series* is what a client asks until it has been silent for [`SERIES`], or goes on to its next stage (from firmware to
//! iPXE). An *attempt* begins with the first question, and anew with each that shows that the last answer did not help.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use p2pinst_types::{Hash, Mac, NodeId};

use super::client::{Client, Program};
use super::packet::Packet;

/// Clients that are remembered.
pub(super) const CLIENTS: usize = 1024;
/// After this silence a client begins anew.
pub(super) const SERIES: Duration = Duration::from_secs(60);
/// A client that asks again this long after it was answered was not helped: firmware waits four seconds for offers (measured).
const PATIENCE: Duration = Duration::from_secs(3);
/// A client's own count of seconds grows by at least this much between its attempts (measured: 0, 4, 12, 28).
const GROWTH: u16 = 4;
/// Repeats after which firmware is suspected not to understand two servers.
const SUSPECT: u32 = 3;
/// Claims that are remembered before the question that they are about has come.
const EARLY: usize = 256;
/// Nodes that are remembered to have answered in vain.
const NODES: usize = 8;

/// A question, and where the answer belongs.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The interface that it came by.
    pub(super) interface: u32,
    /// This node's address there.
    pub(super) own: Ipv4Addr,
    /// Whom it came from.
    pub(super) from: SocketAddrV4,
    /// The port that it came to.
    pub(super) port: u16,
    /// When it came.
    pub(super) at: Duration,
    /// The question.
    pub(super) packet: Packet,
    /// Who asks.
    pub(super) client: Client,
}

/// What a question is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The first of a series.
    First,
    /// The first of a new attempt: the last one's answer did not help.
    Again,
    /// The same attempt.
    Same,
}

/// How far an attempt is.
#[derive(Debug)]
enum State {
    /// Nobody has answered.
    Open,
    /// This node will answer then, unless another does.
    Waiting(Duration, Box<Asked>),
    /// This node has answered.
    Answered,
    /// Another node has answered.
    Claimed,
}

/// A client's series.
#[derive(Debug)]
pub(super) struct Series {
    stage: Stage,
    assignment: Hash,
    named: bool,
    last: Duration,
    began: Duration,
    xid: u32,
    secs: u16,
    /// Which attempt this is, from 0.
    pub(super) attempt: u32,
    state: State,
    claimed: Vec<NodeId>,
    before: Vec<NodeId>,
    repeats: u32,
    took: bool,
}

/// The stages of a boot, each of which asks anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Firmware,
    Ipxe,
    System,
}

impl Stage {
    fn of(program: Program) -> Self {
        match program {
            Program::Pxe | Program::Http => Self::Firmware,
            Program::Ipxe => Self::Ipxe,
            Program::Other => Self::System,
        }
    }
}

impl Series {
    fn new(now: Duration, client: &Client, assignment: Hash, named: bool) -> Self {
        Self {
            stage: Stage::of(client.program),
            assignment,
            named,
            last: now,
            began: now,
            xid: client.xid,
            secs: client.secs,
            attempt: 0,
            state: State::Open,
            claimed: Vec::new(),
            before: Vec::new(),
            repeats: 0,
            took: false,
        }
    }

    /// What a question is to this series, which takes it in.
    fn heard(&mut self, now: Duration, client: &Client) -> Heard {
        let helped = matches!(self.state, State::Answered | State::Claimed);
        let grown = client.secs >= self.secs.saturating_add(GROWTH);
        let late = now.saturating_sub(self.began) >= PATIENCE;
        let again = helped && (client.xid != self.xid || grown || late);
        if again {
            self.repeats += u32::from(grown && !self.took);
            self.attempt = self.attempt.saturating_add(1);
            self.began = now;
            self.state = State::Open;
            self.before.append(&mut self.claimed);
            let surplus = self.before.len().saturating_sub(NODES);
            self.before.drain(..surplus);
        }
        if again || !helped {
            self.secs = client.secs;
        }
        self.xid = client.xid;
        self.last = now;
        if again { Heard::Again } else { Heard::Same }
    }

    /// A sibling answered: this node need not, unless the sibling has done so in vain before.
    fn claim(&mut self, node: NodeId) {
        if self.before.contains(&node) {
            return;
        }
        if self.claimed.len() < NODES && !self.claimed.contains(&node) {
            self.claimed.push(node);
        }
        if !matches!(self.state, State::Answered) {
            self.state = State::Claimed;
        }
    }

    /// Whether this node has answered in this attempt.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered)
    }

    /// Whether a sibling has answered in this attempt.
    pub(super) fn is_claimed(&self) -> bool {
        matches!(self.state, State::Claimed)
    }

    /// This node answers.
    pub(super) fn answered(&mut self) {
        self.state = State::Answered;
    }

    /// This node will answer then; a later question of the same attempt takes the place of an earlier one.
    pub(super) fn wait(&mut self, until: Duration, asked: Asked) {
        let until = match self.state {
            State::Waiting(before, _) => before,
            _ => until,
        };
        self.state = State::Waiting(until, Box::new(asked));
    }

    /// Whether this node is about to answer.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(..))
    }

    /// Whether the client is now suspected to understand nobody's offer; said once in a series.
    pub(super) fn is_suspect(&mut self) -> bool {
        let suspect = self.repeats == SUSPECT && !self.took;
        self.repeats += u32::from(suspect);
        suspect
    }
}

/// The clients that were heard lately.
#[derive(Debug, Default)]
pub(super) struct Clients {
    series: BTreeMap<Mac, Series>,
    early: VecDeque<(Duration, Mac, u32, NodeId)>,
}

impl Clients {
    /// A question came from a client that this node would answer; `named` clients are kept when there are too many.
    pub(super) fn heard(
        &mut self,
        now: Duration,
        client: &Client,
        assignment: Hash,
        named: bool,
    ) -> (Heard, &mut Series) {
        let mac = client.mac;
        let goes_on = self.series.get(&mac).is_some_and(|s| {
            s.stage == Stage::of(client.program)
                && s.assignment == assignment
                && now.saturating_sub(s.last) < SERIES
        });
        if !goes_on {
            self.series.remove(&mac);
            self.make_room();
        }
        let series =
            self.series.entry(mac).or_insert_with(|| Series::new(now, client, assignment, named));
        let heard = if goes_on { series.heard(now, client) } else { Heard::First };
        for (_, _, _, node) in self.early.iter().filter(|(at, m, xid, _)| {
            *m == mac && *xid == client.xid && now.saturating_sub(*at) < PATIENCE
        }) {
            series.claim(*node);
        }
        (heard, series)
    }

    fn make_room(&mut self) {
        if self.series.len() >= CLIENTS {
            let least = self.series.iter().min_by_key(|(_, s)| (s.named, s.last));
            let least = least.map(|(mac, _)| *mac);
            least.map(|mac| self.series.remove(&mac));
        }
    }

    /// A sibling says that it answered a client. Whether this node was about to.
    pub(super) fn claim(&mut self, now: Duration, mac: Mac, xid: u32, node: NodeId) -> bool {
        if let Some(series) = self.series.get_mut(&mac).filter(|s| s.xid == xid) {
            let waited = series.is_waiting();
            series.claim(node);
            return waited && !series.is_waiting();
        }
        self.early.truncate(EARLY - 1);
        self.early.push_front((now, mac, xid, node));
        false
    }

    /// A client goes on: it takes an offer, asks for its file, or has got it.
    pub(super) fn goes_on(&mut self, mac: Mac) {
        if let Some(series) = self.series.get_mut(&mac) {
            series.took = true;
        }
    }

    /// A question whose answer is due.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<Asked> {
        let due = |s: &Series| matches!(s.state, State::Waiting(until, _) if until <= now);
        let series = self.series.values_mut().find(|s| due(s))?;
        match std::mem::replace(&mut series.state, State::Open) {
            State::Waiting(_, asked) => Some(*asked),
            State::Open | State::Answered | State::Claimed => None,
        }
    }

    /// A client's series.
    pub(super) fn get_mut(&mut self, mac: Mac) -> Option<&mut Series> {
        self.series.get_mut(&mac)
    }

    /// When the next answer is due.
    pub(super) fn due(&self) -> Option<Duration> {
        let waiting = |s: &Series| match s.state {
            State::Waiting(until, _) => Some(until),
            State::Open | State::Answered | State::Claimed => None,
        };
        self.series.values().filter_map(waiting).min()
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PublicKey;

    use super::super::client::Architecture;
    use super::*;

    const ASSIGNMENT: Hash = Hash([1; 32]);

    fn client(program: Program, xid: u32, secs: u16) -> Client {
        Client {
            mac: Mac([2; 6]),
            xid,
            secs,
            program,
            architecture: Some(Architecture(7)),
            uuid: None,
            relay: None,
        }
    }

    fn node(n: u8) -> NodeId {
        NodeId(PublicKey([n; 32]))
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What a question at that time is, by a client that is answered each time.
    fn hear(clients: &mut Clients, ms: u64, asks: Client) -> (Heard, u32) {
        let (heard, series) = clients.heard(at(ms), &asks, ASSIGNMENT, true);
        series.answered();
        (heard, series.attempt)
    }

    #[test]
    fn attempts_follow_what_the_client_shows() {
        let mut clients = Clients::default();
        let pxe = |xid, secs| client(Program::Pxe, xid, secs);
        assert_eq!(hear(&mut clients, 0, pxe(1, 0)), (Heard::First, 0));
        assert_eq!(hear(&mut clients, 100, pxe(1, 0)), (Heard::Same, 0), "a copy");
        assert_eq!(hear(&mut clients, 900, pxe(1, 4)), (Heard::Again, 1), "it counts seconds");
        assert_eq!(hear(&mut clients, 1000, pxe(2, 4)), (Heard::Again, 2), "a new transaction");
        assert_eq!(hear(&mut clients, 3999, pxe(2, 4)), (Heard::Same, 2));
        assert_eq!(hear(&mut clients, 4000, pxe(2, 4)), (Heard::Again, 3), "it has waited");
        let http = client(Program::Http, 9, 0);
        assert_eq!(hear(&mut clients, 5000, http), (Heard::Again, 4), "firmware all the same");
        let ipxe = client(Program::Ipxe, 9, 4);
        assert_eq!(hear(&mut clients, 6000, ipxe), (Heard::First, 0), "it got further");
        assert_eq!(hear(&mut clients, 66_000, ipxe), (Heard::First, 0), "after a minute");
        let (heard, _) = clients.heard(at(66_001), &ipxe, Hash([2; 32]), true);
        assert_eq!(heard, Heard::First, "another assignment");
    }

    #[test]
    fn who_is_not_answered_yet_does_not_come_again() {
        let mut clients = Clients::default();
        for (ms, xid, secs) in [(0, 1, 0), (4000, 2, 4), (12_000, 3, 12)] {
            let pxe = client(Program::Pxe, xid, secs);
            let (_, series) = clients.heard(at(ms), &pxe, ASSIGNMENT, true);
            assert_eq!(series.attempt, 0);
        }
    }

    #[test]
    fn firmware_that_takes_nothing_is_suspected_once() {
        let mut clients = Clients::default();
        let mut suspected = Vec::new();
        for secs in [0, 4, 12, 28, 60, 124] {
            let pxe = client(Program::Pxe, 1, secs);
            hear(&mut clients, u64::from(secs) * 400, pxe);
            let series = clients.get_mut(pxe.mac).unwrap();
            suspected.extend(series.is_suspect().then_some(secs));
        }
        assert_eq!(suspected, [28]);
        let mut clients = Clients::default();
        for secs in [0, 4, 12, 28, 60] {
            let pxe = client(Program::Pxe, 1, secs);
            hear(&mut clients, u64::from(secs) * 400, pxe);
            clients.goes_on(pxe.mac);
            assert!(!clients.get_mut(pxe.mac).unwrap().is_suspect(), "it took an offer");
        }
    }

    #[test]
    fn claims_silence_unless_they_were_in_vain_before() {
        let mut clients = Clients::default();
        let mac = Mac([2; 6]);
        let pxe = client(Program::Pxe, 1, 0);
        // the claim comes before the question
        assert!(!clients.claim(at(0), mac, 1, node(1)));
        let (_, series) = clients.heard(at(1), &pxe, ASSIGNMENT, true);
        assert!(series.is_claimed());
        // it did not help: the same node's next claim is no reason to be silent, another's is
        let late = client(Program::Pxe, 1, 4);
        let (heard, series) = clients.heard(at(4001), &late, ASSIGNMENT, true);
        assert_eq!((heard, series.is_claimed()), (Heard::Again, false));
        clients.claim(at(4002), mac, 1, node(1));
        assert!(!clients.get_mut(mac).unwrap().is_claimed());
        clients.claim(at(4002), mac, 9, node(2));
        assert!(!clients.get_mut(mac).unwrap().is_claimed(), "of another transaction");
        clients.claim(at(4003), mac, 1, node(2));
        assert!(clients.get_mut(mac).unwrap().is_claimed());
    }

    #[test]
    fn named_clients_outlive_a_flood() {
        let mut clients = Clients::default();
        let named = client(Program::Pxe, 1, 0);
        clients.heard(at(0), &named, ASSIGNMENT, true);
        for n in 0..5000u32 {
            let [a, b, c, d] = n.to_be_bytes();
            let stranger = Client { mac: Mac([6, 0, a, b, c, d]), ..named };
            clients.heard(at(n.into()), &stranger, ASSIGNMENT, false);
            clients.claim(at(n.into()), Mac([8, 0, a, b, c, d]), n, node(1));
        }
        assert_eq!((clients.len(), clients.early.len()), (CLIENTS, EARLY));
        assert!(clients.get_mut(named.mac).is_some());
    }
}
