//! What publishing asks of the node: take in the file, check the order, count the holders.

use std::io;

use dht_store::wire::{Request, Response};
use p2pinst_api::request::{ApiError, ErrorKind, Holders, PreparePublish, PublishPlan};
use p2pinst_chunks::store::IngestError;
use p2pinst_types::{BlobRef, Hlc, Name, NodeId, limits};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Api, ApiFailure, Reply};
use crate::rpc;
use crate::storage::NoRoom;

/// Bytes on their way from the socket to the disk, in runs of this size.
const RUN: usize = 256 * 1024;
/// Runs that may wait for the disk.
const QUEUE: usize = 8;

/// Bytes that another task sends, as a blocking reader.
struct Incoming {
    rx: mpsc::Receiver<Vec<u8>>,
    run: io::Cursor<Vec<u8>>,
}

impl io::Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = io::Read::read(&mut self.run, out)?;
            if n > 0 || out.is_empty() {
                return Ok(n);
            }
            match self.rx.blocking_recv() {
                Some(run) => self.run = io::Cursor::new(run),
                None => return Ok(0),
            }
        }
    }
}

pub(super) fn internal(e: impl ToString) -> ApiFailure {
    ApiFailure(ApiError::new(ErrorKind::Internal, e.to_string()))
}

impl Api {
    /// Takes in a blob of `len` bytes that follow on the stream. Says also whether all of them were
    /// taken off the stream.
    pub(super) async fn put_blob<R: AsyncRead + Unpin>(
        &self,
        stream: &mut R,
        len: u64,
    ) -> (Reply<BlobRef>, bool) {
        if len > limits::BLOB {
            let reason = format!("a file of {len} bytes is too large");
            return (Err(ApiError::new(ErrorKind::Invalid, reason).into()), false);
        }
        let room = match self.storage.room_for(None, len).await {
            Ok(room) => room,
            Err(error) => return (Err(no_room(&error)), false),
        };
        let (tx, rx) = mpsc::channel(QUEUE);
        let blobs = self.exchange.blobs().clone();
        let ingest = tokio::task::spawn_blocking(move || {
            blobs.ingest(&mut Incoming { rx, run: io::Cursor::default() }, len)
        });
        let mut left = len;
        while left > 0 {
            let mut run = vec![0; RUN.min(usize::try_from(left).unwrap_or(RUN))];
            let n = match stream.read(&mut run).await {
                Ok(0) | Err(_) => break,
                Ok(n) => n,
            };
            run.truncate(n);
            left -= n as u64;
            if tx.send(run).await.is_err() {
                break; // the disk said no: its error says why
            }
        }
        drop(tx);
        let stored = match ingest.await {
            Ok(Ok(blob)) => {
                self.exchange.seed(blob.root);
                self.keep(blob).await
            }
            Ok(Err(e)) => Err(refusal(&e)),
            Err(e) => Err(internal(e)),
        };
        drop(room);
        (stored, left == 0)
    }

    /// Keeps what was handed over until the order names it.
    async fn keep(&self, blob: BlobRef) -> Reply<BlobRef> {
        let storage = self.storage.clone();
        match tokio::task::spawn_blocking(move || storage.hold(blob.root)).await {
            Ok(true) => Ok(blob),
            Ok(false) => Err(internal("the file was removed again for want of room: try again")),
            Err(e) => Err(internal(e)),
        }
    }

    /// Everything that speaks against an order, and what it needs.
    pub(super) fn prepare_publish(&self, request: &PreparePublish) -> Reply<PublishPlan> {
        let views = self.store.views();
        let PreparePublish { package, group, author } = request;
        if let Some(needs) = views.group_needs(group).filter(|_| !views.has_group(group)) {
            let reason =
                format!("who is in the group {group} cannot be read: needs version {needs}");
            return Err(ApiError::new(ErrorKind::Refused, reason)
                .hint("update p2pinst on this machine, or define the group anew")
                .into());
        }
        if !views.has_group(group) {
            let known: Vec<&str> = views.groups.keys().map(Name::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let reason = format!("there is no group {group} (groups: all; own ones: {known})");
            let hint = format!("make it: p2pinst group create {group} --select 'label=value'");
            return Err(ApiError::new(ErrorKind::Invalid, reason).hint(hint).into());
        }
        let members: Vec<_> = views.members(group).collect();
        let newer = views.orders.iter().rev().find(|o| {
            let other = &o.release.package;
            let line = other.manager == package.manager
                && other.name == package.name
                && (other.architecture == package.architecture
                    || other.architecture == "all"
                    || package.architecture == "all");
            line && !o.deployment.preheat
                && package.manager.compare(&other.version, &package.version).is_gt()
                && !self.is_reset(&views, o)
                && members.iter().any(|m| views.is_member(m, &o.deployment.group))
        });
        let number = super::boot::next_number(&views, author);
        Ok(PublishPlan {
            members: members.iter().map(|m| m.name.clone()).collect(),
            number,
            newer: newer.map(|o| (views.order_name(o), o.release.clone())),
            node: self.own.node,
            roles: views.roles(author, Hlc::at(self.store.clock().now())),
        })
    }

    /// Whether a later order with leave to downgrade has taken the place of this one.
    fn is_reset(&self, views: &dht_store::Views, order: &dht_store::view::Order) -> bool {
        views.orders.iter().any(|later| {
            later.deployment.allow_downgrade
                && later.hlc > order.hlc
                && later.release.package.name == order.release.package.name
                && later.deployment.group == order.deployment.group
        })
    }

    /// Asks the connected members whether they hold all pieces.
    pub(super) async fn count_holders(&self, blob: BlobRef) -> Holders {
        let mut asked = JoinSet::new();
        for peer in self.net.peers().connected() {
            let net = self.net.clone();
            asked.spawn(async move {
                let request = Request::Holds { root: blob.root };
                (peer, rpc::ask(&net, peer, &[], &request).await)
            });
        }
        let (mut holders, mut answered) = (Vec::<NodeId>::new(), 0);
        let patience = tokio::time::sleep(std::time::Duration::from_secs(2));
        tokio::pin!(patience);
        loop {
            tokio::select! {
                next = asked.join_next() => match next {
                    Some(Ok((peer, Ok(Response::Holds(complete))))) => {
                        answered += 1;
                        if complete {
                            holders.push(peer);
                        }
                    }
                    Some(_) => {}
                    None => break,
                },
                () = &mut patience => break,
            }
        }
        let views = self.store.views();
        let name = |n: &NodeId| views.machine_of(&n.0).map(|m| m.name.clone());
        let mut complete: Vec<Name> = holders.iter().filter_map(name).collect();
        complete.sort();
        Holders { complete, asked: answered }
    }
}

fn no_room(error: &NoRoom) -> ApiFailure {
    let reason = format!("cannot store the file: {error}");
    ApiError::new(ErrorKind::Refused, reason)
        .hint("see what takes the room: p2pinst store ls")
        .into()
}

fn refusal(error: &IngestError) -> ApiFailure {
    let (kind, hint) = match error {
        IngestError::TooLong(_) => (ErrorKind::Invalid, None),
        IngestError::Length(_) | IngestError::Input(_) => {
            (ErrorKind::Invalid, Some("publish the file again when nothing writes to it any more"))
        }
        IngestError::NoSpace(_) => {
            (ErrorKind::Internal, Some("free some space below the data directory"))
        }
        IngestError::File(_) => {
            (ErrorKind::Internal, Some("is the disk of the data directory full or read-only?"))
        }
    };
    let mut api = ApiError::new(kind, format!("cannot store the file: {error}"));
    api.hint = hint.map(str::to_owned);
    ApiFailure(api)
}
