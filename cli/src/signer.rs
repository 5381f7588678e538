//! Signing cells with an administrator's key.
//!
//! A key writes one log of cells: every cell has the next number. Before a key signs, the cluster
//! is asked how far its log is; if that is further than this machine remembers, another life of
//! the key wrote (a restored backup, a key that was moved), and a new incarnation begins. What is
//! signed is remembered durably before it leaves, so that no number is ever used twice.

use p2pinst_api::request::{CellBytes, Head, ReadHead, Submit, SubmitRoots, Submitted};
use p2pinst_api::{Client, ClientError};
use p2pinst_files::Lock;
use p2pinst_types::cell::Draft;
use p2pinst_types::record::SignedRoot;
use p2pinst_types::{Cell, CellId, ClusterId, Hlc, Kind, Millis, PublicKey, Version, codec};
use serde::Serialize;

use crate::context::Context;
use crate::error::{self, CliError};
use crate::keystore::{Key, Keystore};

/// Cells that are handed over at once; the node takes no more.
const BATCH: usize = 64;
/// Kinds of which several of one author stand beside each other on one subject.
const BY_TIME: [Kind; 4] = [Kind::GRANT, Kind::REVOCATION, Kind::MACHINE_NAME, Kind::ASSIGNMENT];

/// A key about to sign a batch of cells. Holds the key's lock.
#[derive(Debug)]
pub(crate) struct Signer {
    keystore: Keystore,
    key: Key,
    cluster: ClusterId,
    log: Log,
    now: Millis,
    fresh: bool,
    cells: Vec<CellBytes>,
    _lock: Lock,
}

/// Where a key's log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    last: Version,
    hlc: Hlc,
}

impl Log {
    /// Goes on from what this machine remembers and what the cluster has.
    fn resume(remembered: Option<Version>, head: &Head) -> Self {
        let known = remembered.unwrap_or_default();
        let first = known == Version::default() && head.version == Version::default();
        // nobody could be asked: what this machine remembers may be an older copy
        let last = if first || head.version > known || !head.fresh {
            let above = head.version.incarnation.max(known.incarnation).saturating_add(1);
            Version { incarnation: head.now.0.max(above), seq: 0 }
        } else {
            known
        };
        Self { last, hlc: head.hlc }
    }

    /// The version and the time of the next cell.
    fn next(&mut self, now: Millis) -> (Version, Hlc) {
        self.last.seq += 1;
        self.hlc = self.hlc.next(now);
        (self.last, self.hlc)
    }
}

impl Signer {
    /// Locks a key and finds out how far its log is.
    pub(crate) async fn open(
        context: &Context,
        client: &mut Client,
        key: Key,
        cluster: ClusterId,
    ) -> Result<Self, CliError> {
        let keystore = context.keystore();
        let lock = match keystore.try_lock(&key.name)? {
            Some(lock) => lock,
            None => {
                let name = &key.name;
                context.tell(format_args!("Waiting for another command that signs with {name}…"));
                keystore.lock(name)?
            }
        };
        let head = client.call(ReadHead { author: key.public() }).await?;
        let log = Log::resume(keystore.head(&key)?, &head);
        let Head { now, fresh, .. } = head;
        Ok(Self { keystore, key, cluster, log, now, fresh, cells: Vec::new(), _lock: lock })
    }

    /// Cluster time.
    pub(crate) fn now(&self) -> Millis {
        self.now
    }

    /// Whether the node has asked another one what is new, or there is none.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Who signs.
    pub(crate) fn author(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs a record.
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        subject: &[u8],
        record: &impl Serialize,
    ) -> Result<Cell, CliError> {
        self.add_encoded(kind, subject, codec::encode(record)?)
    }

    /// Signs a record of one aspect of a subject.
    pub(crate) fn add_in_slot(
        &mut self,
        kind: Kind,
        subject: &[u8],
        slot: Vec<u8>,
        record: &impl Serialize,
    ) -> Result<Cell, CliError> {
        let at = self.log.next(self.now);
        self.sign(kind, subject, slot, at, codec::encode(record)?)
    }

    /// Signs a record that is encoded already.
    pub(crate) fn add_encoded(
        &mut self,
        kind: Kind,
        subject: &[u8],
        payload: Vec<u8>,
    ) -> Result<Cell, CliError> {
        self.add_in(kind, subject, &[], payload)
    }

    /// Signs an encoded record in a slot. What stands beside earlier ones on the same subject is
    /// told apart by its time: that is its slot.
    pub(crate) fn add_in(
        &mut self,
        kind: Kind,
        subject: &[u8],
        slot: &[u8],
        payload: Vec<u8>,
    ) -> Result<Cell, CliError> {
        let (version, hlc) = self.log.next(self.now);
        let by_time = BY_TIME.contains(&kind);
        let slot = if by_time { hlc.0.to_be_bytes().to_vec() } else { slot.to_vec() };
        self.sign(kind, subject, slot, (version, hlc), payload)
    }

    fn sign(
        &mut self,
        kind: Kind,
        subject: &[u8],
        slot: Vec<u8>,
        (version, hlc): (Version, Hlc),
        payload: Vec<u8>,
    ) -> Result<Cell, CliError> {
        let id = CellId { kind, subject: subject.to_vec(), slot, author: self.author() };
        let draft = Draft { id, version, hlc, payload };
        let cell = draft.sign(&self.cluster, |message| self.key.secret.sign(message))?;
        self.cells.push(CellBytes(cell.bytes().to_vec()));
        Ok(cell)
    }

    /// The time of what is signed next, for what depends on it.
    pub(crate) fn next_hlc(&self) -> Hlc {
        self.log.hlc.next(self.now)
    }

    /// Dates what is signed from now on after a time: after what it is to replace, which may have
    /// come in since the key's log was read.
    pub(crate) fn not_before(&mut self, hlc: Hlc) {
        self.log.hlc = self.log.hlc.max(hlc);
    }

    /// Remembers what was signed, and hands it to the node.
    pub(crate) async fn submit(self, client: &mut Client) -> Result<Submitted, CliError> {
        self.keystore.set_head(&self.key, self.log.last)?;
        let total = self.cells.len();
        let (mut taken, mut peers) = (0, 0);
        for cells in self.cells.chunks(BATCH) {
            let submitted = client.call(Submit { cells: cells.to_vec() }).await.map_err(|e| {
                let part = format!("{taken} of {total} records were taken before");
                explain(e).maybe_hint((taken > 0).then_some(part))
            })?;
            taken += cells.len();
            peers = submitted.peers;
        }
        Ok(Submitted { peers })
    }

    /// The same with a new root, whose list of standing grants is all that was signed.
    pub(crate) async fn submit_roots(
        self,
        client: &mut Client,
        roots: Vec<SignedRoot>,
    ) -> Result<Submitted, CliError> {
        self.keystore.set_head(&self.key, self.log.last)?;
        let Ok([standing]) = <[CellBytes; 1]>::try_from(self.cells) else {
            return Err(CliError::new(error::Kind::Bug, "a new root has one list of grants"));
        };
        client.call(SubmitRoots { roots, standing }).await.map_err(explain)
    }
}

fn explain(error: ClientError) -> CliError {
    let unknown = matches!(error, ClientError::Broken(_));
    let look = "the node may have taken it nonetheless: look before you repeat it";
    CliError::from(error).maybe_hint(unknown.then(|| look.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(incarnation: u64, seq: u64) -> Version {
        Version { incarnation, seq }
    }

    fn next(remembered: Option<Version>, head: Version, now: u64) -> Version {
        let hlc = Hlc::at(Millis(5));
        let head = Head { version: head, hlc, now: Millis(now), fresh: true };
        Log::resume(remembered, &head).next(head.now).0
    }

    #[test]
    fn who_can_ask_nobody_begins_a_new_incarnation() {
        let (hlc, now, fresh) = (Hlc::at(Millis(5)), Millis(1000), false);
        for (known, here, life) in [(7, 7, 1000), (2000, 7, 2001), (7, 3000, 3001)] {
            let head = Head { version: version(here, 3), hlc, now, fresh };
            let next = Log::resume(Some(version(known, 3)), &head).next(now).0;
            assert_eq!(next, version(life, 1));
        }
    }

    #[test]
    fn a_fresh_key_begins_now() {
        assert_eq!(next(None, Version::default(), 1000), version(1000, 1));
    }

    #[test]
    fn the_log_goes_on() {
        assert_eq!(next(Some(version(7, 3)), version(7, 3), 1000), version(7, 4));
    }

    #[test]
    fn what_was_signed_and_never_arrived_is_not_signed_again() {
        assert_eq!(next(Some(version(7, 3)), version(7, 1), 1000), version(7, 4));
        assert_eq!(next(Some(version(7, 3)), Version::default(), 1000), version(7, 4));
        assert_eq!(next(Some(version(8, 1)), version(7, 9), 1000), version(8, 2));
    }

    #[test]
    fn another_life_of_the_key_begins_a_new_incarnation() {
        assert_eq!(next(Some(version(7, 3)), version(7, 4), 1000), version(1000, 1));
        assert_eq!(next(None, version(7, 4), 1000), version(1000, 1));
        assert_eq!(next(Some(version(7, 3)), version(9, 1), 1000), version(1000, 1));
        // the other life's clock was ahead
        assert_eq!(next(Some(version(7, 3)), version(2000, 1), 1000), version(2001, 1));
    }

    #[test]
    fn numbers_and_times_rise_within_a_batch() {
        let hlc = Hlc::at(Millis(2000));
        let head = Head { version: version(7, 3), hlc, now: Millis(1000), fresh: true };
        let mut log = Log::resume(Some(version(7, 3)), &head);
        let (first, second) = (log.next(head.now), log.next(head.now));
        assert_eq!((first.0, second.0), (version(7, 4), version(7, 5)));
        assert!(head.hlc < first.1 && first.1 < second.1);
    }
}
