//! The way of one blob's bytes to or from one peer, and who waits on it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use p2pinst_chunks::throttle::{CHUNK, Ticket, chunk_under};
use p2pinst_types::{Hash, NodeId};
use tokio::sync::oneshot;

use super::Limits;
use super::state::{Bucket, State, Way};

/// Of the bytes of a limit this part is left for headers of TCP, IP, Ethernet and encryption.
const HEADERS: usize = 20;

impl Limits {
    /// The way of one blob's bytes to or from one peer.
    pub(in crate::exchange) fn flow(&self, way: Way, peer: NodeId, root: Hash) -> Flow {
        Flow { limits: self.clone(), way, peer, root }
    }

    /// Lets through who waits when it is time. Runs until dropped.
    pub async fn keep_time(self) {
        loop {
            let next = self.step(&mut self.state());
            let wake = self.0.wake.notified();
            match next {
                Some(next) => {
                    tokio::select! {
                        () = wake => {}
                        () = tokio::time::sleep_until(self.0.begun + next) => {}
                    }
                }
                None => wake.await,
            }
        }
    }

    fn step(&self, state: &mut State) -> Option<Duration> {
        let mut through = Vec::new();
        let next = state.throttle.step(self.0.begun.elapsed(), &mut through);
        for ticket in through {
            if let Some(waiting) = state.waiting.remove(&ticket) {
                // one that is gone has taken its request back, or is just about to
                let _gone = waiting.send(());
            }
        }
        next
    }
}

/// The way of one blob's bytes to or from one peer.
#[derive(Debug, Clone)]
pub(in crate::exchange) struct Flow {
    limits: Limits,
    way: Way,
    peer: NodeId,
    root: Hash,
}

impl Flow {
    /// Whether nothing at all is limited: one atomic load.
    pub(in crate::exchange) fn is_open(&self) -> bool {
        !self.limits.0.active.load(Ordering::Relaxed)
    }

    /// How many bytes to move in one go.
    pub(in crate::exchange) fn chunk(&self) -> usize {
        if self.is_open() {
            return usize::MAX;
        }
        let state = self.limits.state();
        chunk_under(state.throttle.least(&self.buckets(&state).0))
    }

    fn buckets(&self, state: &State) -> (Vec<Bucket>, bool) {
        state.buckets(self.way, &self.peer, &self.root)
    }

    /// Waits until so many bytes may pass: at most what [`Flow::chunk`] said, or as many as came.
    pub(in crate::exchange) async fn pass(&self, bytes: usize) {
        if self.is_open() {
            return;
        }
        let mut rest = bytes;
        while rest > 0 {
            let now = rest.min(CHUNK);
            rest -= now;
            if let Some((waiting, let_through)) = self.ask(now + now / HEADERS) {
                // it fails only when the node ends
                let _ended = let_through.await;
                drop(waiting);
            }
        }
    }

    /// Asks for bytes; `None` when they may pass at once.
    fn ask(&self, bytes: usize) -> Option<(Waiting<'_>, oneshot::Receiver<()>)> {
        let mut state = self.limits.state();
        let (buckets, urgent) = self.buckets(&state);
        let ticket = state.throttle.ask(&buckets, bytes, urgent);
        let (tell, mut let_through) = oneshot::channel();
        state.waiting.insert(ticket, tell);
        self.limits.step(&mut state);
        if let_through.try_recv().is_ok() {
            return None;
        }
        drop(state);
        self.limits.0.wake.notify_one();
        Some((Waiting { limits: &self.limits, ticket }, let_through))
    }
}

/// Who goes away while it waits takes its request back.
struct Waiting<'a> {
    limits: &'a Limits,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.limits.state();
        state.waiting.remove(&self.ticket);
        state.throttle.cancel(self.ticket);
        drop(state);
        self.limits.0.wake.notify_one();
    }
}
