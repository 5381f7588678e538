//! All transfers, by whom they go to.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use super::Limits;
use super::packet::{self, ErrorCode, Packet, PacketError};
use super::transfer::{Content, Step, Transfer};

/// What a server wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this from the port of requests: it is no transfer's.
    Refuse {
        /// To whom.
        to: SocketAddrV4,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// A transfer begins: what follows is sent from a port of its own (RFC 1350, section 4). Where the client has one, a new port
    /// replaces it.
    Open {
        /// To whom.
        to: SocketAddrV4,
    },
    /// Send this from the transfer's port.
    Send {
        /// To whom.
        to: SocketAddrV4,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// A transfer has ended.
    Close(Transferred),
}

/// A transfer that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// To whom.
    pub to: SocketAddrV4,
    /// The name that was asked for.
    pub name: String,
    /// Bytes that were acknowledged.
    pub bytes: u64,
    /// Whether that was all.
    pub whole: bool,
}

#[derive(Debug)]
struct Running<C> {
    name: String,
    /// The request, to tell one that was sent again from another.
    request: Vec<u8>,
    began: Duration,
    transfer: Transfer<C>,
}

/// The transfers of a server.
#[derive(Debug)]
pub struct Server<C> {
    limits: Limits,
    running: HashMap<SocketAddrV4, Running<C>>,
}

impl<C: Content> Server<C> {
    /// A server without transfers.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, running: HashMap::new() }
    }

    /// Transfers that go on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether none goes on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Takes what came to the port of requests. `find` has the content of a name.
    pub fn on_request(
        &mut self,
        now: Duration,
        from: SocketAddrV4,
        bytes: &[u8],
        find: impl FnOnce(&str) -> Option<C>,
        out: &mut Vec<Output>,
    ) {
        let mut refuse = |code, reason: &str| {
            out.push(Output::Refuse { to: from, bytes: packet::error(code, reason) });
        };
        let request = match Packet::parse(bytes) {
            Ok(Packet::Read(request)) => request,
            Err(PacketError::Write) => return refuse(ErrorCode::Access, "nothing is taken here"),
            Err(PacketError::Mode) => return refuse(ErrorCode::Undefined, "use mode octet"),
            // an acknowledgement, an error or noise at this port is of nobody: an answer could begin an endless talk
            _ => return,
        };
        // The client did not hear the beginning, and will when it is sent again. A request that is another one ends what went
        // on: firmware asks for the length and gives up, and old ROMs always ask from the same port.
        let known = self.running.get(&from);
        if known.is_some_and(|r| !r.transfer.answered() && r.request == bytes) {
            return;
        }
        let Some(content) = find(&request.name) else {
            return refuse(ErrorCode::NotFound, "no such file");
        };
        if known.is_some() {
            self.end(from, false, out);
        } else if !self.has_room(from, out) {
            let reason = "too many transfers; try again later";
            out.push(Output::Refuse {
                to: from,
                bytes: packet::error(ErrorCode::Undefined, reason),
            });
            return;
        }
        let mut packets = Vec::new();
        let transfer = Transfer::begin(now, content, &request.options, &self.limits, &mut packets);
        out.push(Output::Open { to: from });
        out.extend(packets.into_iter().map(|bytes| Output::Send { to: from, bytes }));
        let request = (request.name, bytes.to_vec());
        let running = Running { name: request.0, request: request.1, began: now, transfer };
        self.running.insert(from, running);
    }

    /// Whether one more fits; where it does not, the oldest goes that nobody ever acknowledged: its sender may be forged.
    fn has_room(&mut self, from: SocketAddrV4, out: &mut Vec<Output>) -> bool {
        let of_client = |to: &SocketAddrV4| to.ip() == from.ip();
        let full = self.running.len() >= self.limits.transfers;
        if !full && self.running.keys().filter(|to| of_client(to)).count() < self.limits.per_client
        {
            return true;
        }
        let silent =
            self.running.iter().filter(|(to, r)| !r.transfer.answered() && (full || of_client(to)));
        let oldest = silent.min_by_key(|(_, r)| r.began).map(|(to, _)| *to);
        oldest.inspect(|to| self.end(*to, false, out)).is_some()
            && self.running.keys().filter(|to| of_client(to)).count() < self.limits.per_client
    }

    fn end(&mut self, to: SocketAddrV4, whole: bool, out: &mut Vec<Output>) {
        if let Some(Running { name, transfer, .. }) = self.running.remove(&to) {
            let bytes = transfer.delivered();
            out.push(Output::Close(Transferred { to, name, bytes, whole }));
        }
    }

    /// Takes what came to a transfer's own port from its client.
    pub fn on_datagram(
        &mut self,
        now: Duration,
        from: SocketAddrV4,
        bytes: &[u8],
        out: &mut Vec<Output>,
    ) {
        let Some(running) = self.running.get_mut(&from) else { return };
        let mut packets = Vec::new();
        let step = match Packet::parse(bytes) {
            Ok(Packet::Ack(number)) => running.transfer.on_ack(now, number, &mut packets),
            // the usual end of OVMF's question for the length: it has code 8 there
            Ok(Packet::Error(_)) => Step::Ended,
            Ok(Packet::Read(_)) | Err(_) => Step::Goes,
        };
        out.extend(packets.into_iter().map(|bytes| Output::Send { to: from, bytes }));
        if step != Step::Goes {
            self.end(from, step == Step::Done, out);
        }
    }

    /// The client's port is closed, as its system says (ICMP).
    pub fn on_gone(&mut self, client: SocketAddrV4, out: &mut Vec<Output>) {
        self.end(client, false, out);
    }

    /// Sends again what is due, and gives up on who has not answered.
    pub fn on_time(&mut self, now: Duration, out: &mut Vec<Output>) {
        let mut ended = Vec::new();
        let mut packets = Vec::new();
        for (to, running) in &mut self.running {
            let step = running.transfer.on_time(now, &mut packets);
            out.extend(packets.drain(..).map(|bytes| Output::Send { to: *to, bytes }));
            if step != Step::Goes {
                ended.push(*to);
            }
        }
        for to in ended {
            self.end(to, false, out);
        }
    }

    /// When [`Server::on_time`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.running.values().map(|r| r.transfer.due()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const START: Duration = Duration::ZERO;

    fn client(host: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, host), port)
    }

    fn request(name: &str, options: &str) -> Vec<u8> {
        [b"\0\x01", name.as_bytes(), b"\0octet\0", options.replace(' ', "\0").as_bytes()].concat()
    }

    fn ack(block: u16) -> Vec<u8> {
        [[0, 4], block.to_be_bytes()].concat()
    }

    /// What was sent in transfers.
    fn sent(out: &mut Vec<Output>) -> Vec<Vec<u8>> {
        let all = out.drain(..);
        all.filter_map(|o| if let Output::Send { bytes, .. } = o { Some(bytes) } else { None })
            .collect()
    }

    fn server() -> Server<Vec<u8>> {
        Server::new(Limits { transfers: 4, per_client: 2, blksize: 1000, windowsize: 4 })
    }

    #[test]
    fn options_are_clamped_and_the_usual_end_of_a_probe_is_no_trouble() {
        let (mut server, mut out) = (server(), Vec::new());
        let me = client(1, 1000);
        let file = vec![1u8; 2500];
        let probe = request("x", "tsize 0 blksize 1468 windowsize 9 timeout 3 multicast 1 ");
        server.on_request(START, me, &probe, |_| Some(file.clone()), &mut out);
        assert_eq!(out[0], Output::Open { to: me });
        let oack = b"\0\x06blksize\x001000\0timeout\x003\0tsize\x002500\0windowsize\x004\0";
        assert_eq!(sent(&mut out), [oack]);
        server.on_datagram(START, me, b"\0\x05\0\x08User aborted\0", &mut out);
        let ended = Transferred { to: me, name: "x".into(), bytes: 0, whole: false };
        assert_eq!(out, [Output::Close(ended)]);
        assert!(server.is_empty());
        // and again without the length, from the same port
        out.clear();
        let second = request("x", "blksize 1468 windowsize 4 ");
        server.on_request(START, me, &second, |_| Some(file.clone()), &mut out);
        sent(&mut out);
        server.on_datagram(START, me, &ack(0), &mut out);
        let blocks = sent(&mut out);
        assert_eq!(blocks.iter().map(Vec::len).collect::<Vec<_>>(), [1004, 1004, 504]);
        server.on_datagram(START, me, &ack(3), &mut out);
        let ended = Transferred { to: me, name: "x".into(), bytes: 2500, whole: true };
        assert_eq!(out, [Output::Close(ended)]);
    }

    #[test]
    fn a_request_that_comes_again_begins_nothing_and_another_one_replaces_it() {
        let (mut server, mut out) = (server(), Vec::new());
        let me = client(1, 1000);
        let plain = request("x", "");
        server.on_request(START, me, &plain, |_| Some(vec![1; 600]), &mut out);
        assert_eq!(sent(&mut out).len(), 1);
        server.on_request(START, me, &plain, |_| Some(vec![1; 600]), &mut out);
        assert!(out.is_empty(), "the sender will be answered by what is sent again");
        server.on_request(START, me, &request("y", ""), |_| Some(vec![2; 10]), &mut out);
        assert!(matches!(&out[0], Output::Close(t) if t.name == "x"));
        assert_eq!(sent(&mut out)[0], [&[0, 3, 0, 1][..], &[2; 10]].concat());
        server.on_datagram(START, me, &ack(1), &mut out);
        assert!(server.is_empty());
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_five_times_and_then_given_up() {
        let (mut server, mut out) = (server(), Vec::new());
        let me = client(1, 1000);
        server.on_request(START, me, &request("x", ""), |_| Some(vec![1; 5]), &mut out);
        out.clear();
        let mut times = Vec::new();
        while let Some(due) = server.due() {
            server.on_time(due, &mut out);
            times.push((due.as_secs(), sent(&mut out).len()));
        }
        assert_eq!(times, [(1, 1), (3, 1), (7, 1), (15, 1), (23, 0)]);
    }

    #[test]
    fn an_acknowledgement_that_comes_twice_doubles_nothing() {
        let (mut server, mut out) = (server(), Vec::new());
        let me = client(1, 1000);
        server.on_request(START, me, &request("x", ""), |_| Some(vec![1; 5000]), &mut out);
        out.clear();
        server.on_datagram(START, me, &ack(1), &mut out);
        assert_eq!(sent(&mut out).len(), 1);
        for old in [1, 0, 0xffff, 7] {
            server.on_datagram(START, me, &ack(old), &mut out);
        }
        assert_eq!(sent(&mut out).len(), 0, "Sorcerer's Apprentice");
    }

    #[test]
    fn a_window_that_lost_its_first_block_is_sent_again_once() {
        let (mut server, mut out) = (server(), Vec::new());
        let me = client(1, 1000);
        let windows = request("x", "windowsize 4 ");
        server.on_request(START, me, &windows, |_| Some(vec![1; 5000]), &mut out);
        out.clear();
        server.on_datagram(START, me, &ack(0), &mut out);
        assert_eq!(sent(&mut out).len(), 4);
        for _ in 0..3 {
            server.on_datagram(START, me, &ack(0), &mut out);
        }
        assert_eq!(sent(&mut out).len(), 4);
        server.on_datagram(START, me, &ack(2), &mut out);
        let numbers: Vec<_> = sent(&mut out).iter().map(|p| p[3]).collect();
        assert_eq!(numbers, [3, 4, 5, 6], "from the gap on");
    }

    #[test]
    fn places_are_bounded_and_who_never_answers_loses_his() {
        let (mut server, mut out) = (server(), Vec::new());
        let ask = |server: &mut Server<Vec<u8>>, out: &mut Vec<Output>, at: u64, who| {
            out.clear();
            let file = |_: &str| Some(vec![0; 5000]);
            server.on_request(Duration::from_millis(at), who, &request("x", ""), file, out);
            out.iter().any(|o| matches!(o, Output::Open { .. }))
        };
        for (at, who) in
            [(0, client(1, 1)), (1, client(1, 2)), (2, client(2, 1)), (3, client(3, 1))]
        {
            assert!(ask(&mut server, &mut out, at, who));
            server.on_datagram(START, who, &ack(1), &mut out);
        }
        assert!(!ask(&mut server, &mut out, 4, client(4, 1)), "all are in use");
        assert!(matches!(&out[..], [Output::Refuse { .. }]));
        server.on_gone(client(3, 1), &mut out);
        assert!(!ask(&mut server, &mut out, 5, client(1, 3)), "two of this client go on");
        assert!(ask(&mut server, &mut out, 6, client(5, 1)));
        assert!(ask(&mut server, &mut out, 7, client(6, 1)), "in the place of who was silent");
        assert_eq!(server.len(), 4);
    }

    #[test]
    fn what_is_no_request_is_refused_or_not_answered() {
        let (mut server, mut out) = (server(), Vec::new());
        let me = client(1, 1000);
        let none = |_: &str| None;
        server.on_request(START, me, b"\0\x02x\0octet\0", none, &mut out);
        server.on_request(START, me, b"\0\x01x\0netascii\0", none, &mut out);
        server.on_request(START, me, &request("../../etc/passwd", ""), none, &mut out);
        let codes: Vec<_> = out
            .drain(..)
            .map(|o| match o {
                Output::Refuse { bytes, .. } => bytes[3],
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(codes, [2, 0, 1]);
        for noise in [&b"\0\x05\0\x01x\0"[..], b"\0\x04\0\0", b"", b"\xff"] {
            server.on_request(START, me, noise, none, &mut out);
        }
        assert!(out.is_empty() && server.is_empty());
    }

    #[test]
    fn a_file_that_becomes_shorter_ends_the_transfer() {
        struct Shrinks;
        impl Content for Shrinks {
            fn length(&self) -> u64 {
                2000
            }
            fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
                Ok(if offset < 512 { into.len() } else { 0 })
            }
        }
        let mut server = Server::new(Limits::default());
        let (me, mut out) = (client(1, 1000), Vec::new());
        server.on_request(START, me, &request("x", ""), |_| Some(Shrinks), &mut out);
        out.clear();
        server.on_datagram(START, me, &ack(1), &mut out);
        assert!(
            matches!(&out[..], [Output::Send { bytes, .. }, Output::Close(_)] if bytes[1] == 5)
        );
    }

    /// A receiver as RFC 7440 describes it, over a network that loses packets as `lost` says.
    fn receive(len: usize, blksize: u16, window: u16, lost: &[bool]) -> Vec<u8> {
        let content: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut server = Server::new(Limits { blksize: u16::MAX, ..Limits::default() });
        let me = client(1, 1000);
        let mut lost = lost.iter().copied().chain(std::iter::repeat(false));
        let (mut out, mut now, mut got) = (Vec::new(), START, Vec::new());
        let options = format!("blksize {blksize} windowsize {window} ");
        server.on_request(now, me, &request("x", &options), |_| Some(content), &mut out);
        let (mut next, mut since) = (1u16, 0u16);
        loop {
            let mut answers = Vec::new();
            for packet in sent(&mut out).into_iter().filter(|_| !lost.next().unwrap()) {
                match packet[1] {
                    6 => answers.push(ack(0)),
                    3 if packet[2..4] == next.to_be_bytes() => {
                        got.extend_from_slice(&packet[4..]);
                        (next, since) = (next.wrapping_add(1), since + 1);
                        let last = packet.len() - 4 < usize::from(blksize);
                        if since == window || last {
                            answers.push(ack(next.wrapping_sub(1)));
                            since = 0;
                        }
                    }
                    3 => {
                        answers.push(ack(next.wrapping_sub(1)));
                        since = 0;
                    }
                    other => panic!("{other}"),
                }
            }
            for answer in answers.into_iter().filter(|_| !lost.next().unwrap()) {
                server.on_datagram(now, me, &answer, &mut out);
            }
            if out.iter().all(|o| !matches!(o, Output::Send { .. })) {
                let Some(due) = server.due() else { return got };
                now = due;
                server.on_time(now, &mut out);
            }
        }
    }

    #[test]
    fn block_numbers_begin_anew() {
        let len = 8 * 70_000 + 3;
        for window in [1, 3, 32] {
            let got = receive(len, 8, window, &[]);
            assert_eq!(got.len(), len);
            assert!(got.iter().enumerate().all(|(i, b)| usize::from(*b) == i % 251));
        }
    }

    proptest! {
        #[test]
        fn what_arrives_is_what_was_sent(
            len in 0usize..4000, blksize in 8u16..700, window in 1u16..20,
            lost in prop::collection::vec(prop::bool::weighted(0.2), 0..200),
        ) {
            let got = receive(len, blksize, window, &lost);
            // a client whose acknowledgement of the end was lost has all of it nevertheless
            prop_assert!(got.iter().enumerate().all(|(i, b)| usize::from(*b) == i % 251));
            prop_assert!(got.len() <= len);
            if lost.iter().filter(|l| **l).count() < 4 {
                prop_assert_eq!(got.len(), len);
            }
        }
    }
}
